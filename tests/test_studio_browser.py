"""Whole journeys through the Studio in a real Chromium, the Studio in a process of its own, the model scripted."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from scripted_llm import scripted_llm
from stub_server import serve
from toolweave.agents.spec import write_json
from toolweave.serving.process import free_port, wait_until_healthy
from toolweave.studio.workspace import Workspace
from toolweave.traces.store import TraceStore
from toolweave.traces.trace import FeedbackKind

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
expect.set_options(timeout=180_000)


@dataclass(frozen=True)
class Running:
    url: str
    folder: Path

    def traces(self) -> TraceStore:
        return TraceStore(self.folder / "users" / "local_user" / "traces.db")


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder, port = tmp_path_factory.mktemp("studio"), free_port()
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False"}
    with serve(scripted_llm(pause=0.01)) as llm:
        workspace = Workspace(folder)
        workspace.home().save_model("scripted", {"type": "openai", "model": "scripted", "api_base": f"{llm}/v1"})
        workspace.close()
        command = [sys.executable, "-m", "toolweave", "studio", "--workspace", str(folder)]
        server = subprocess.Popen(command, env=environment)
        try:
            wait_until_healthy(server, f"http://127.0.0.1:{port}/login", "the Studio", 300)
            yield Running(f"http://127.0.0.1:{port}", folder)
        finally:
            server.terminate()
            server.wait(60)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-background-networking"]
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield made
        made.close()


@contextmanager
def opened(browser: Browser, url: str, width: int = 1440) -> Iterator[Page]:
    """Yield a page of a new browser profile that has loaded; it must not complain."""
    context = browser.new_context(viewport={"width": width, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(180_000)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    expect(page.locator("#about .chip").first).to_be_visible()
    yield page
    context.close()
    assert not complaints


def say(page: Page, text: str) -> None:
    page.locator("#ask textarea").fill(text)
    page.locator("#ask textarea").press("Enter")


def choose(page: Page, box: str, option: str) -> None:
    page.locator(f"{box} input").click()
    page.get_by_role("option", name=option).first.click()


def test_build_by_form_try_correct_and_reload(studio: Running, browser: Browser) -> None:
    with opened(browser, f"{studio.url}/zh/") as page:
        page.locator("#new-agent").click()
        page.get_by_role("tab", name="配置").click()
        expect(page.locator("#name").get_by_text("还没有名称")).to_be_visible()
        page.locator("#name").locator("textarea, input").fill("气象员")
        page.locator("#instruction textarea").fill("查天气，画画。")
        page.locator("#description").locator("textarea, input").fill("播报天气")
        page.locator("#tools").get_by_text("高德天气").click()
        page.locator("#tools").get_by_text("万相绘图").click()
        choose(page, "#model", "scripted")
        expect(page.locator("#about")).to_contain_text("模型 scripted")
        expect(page.locator("#about")).to_contain_text("模拟的工具")
        expect(page.locator("#chat .cover")).to_contain_text("气象员")

        say(page, "查一下杭州的天气，再画一张西湖")
        expect(page.locator("#chat img")).to_be_visible()
        steps = page.locator("#chat [role=button].title")
        expect(steps).to_have_count(2)
        expect(steps.first).to_contain_text("amap_weather")
        expect(steps.first).to_contain_text("模拟")
        steps.first.click()
        expect(page.locator("#chat")).to_contain_text('"location": "杭州"')

        page.get_by_label("Dislike").last.click()
        page.locator("#correction textarea").fill("杭州晴，二十度。")
        page.locator("#keep-correction").click()
        expect(page.locator("#correction textarea")).to_be_hidden()
        with studio.traces() as store:
            (visit,) = store.visits()
            said = {item.kind: item.text for item in visit.traces[-1].feedback}
        assert said == {FeedbackKind.THUMBS_DOWN: "", FeedbackKind.CORRECTION: "杭州晴，二十度。"}
        assert len(visit.traces) == 3

        page.reload()
        expect(page.locator("#chat img")).to_be_visible()
        expect(page.locator("#agent input")).to_have_value("气象员")


def test_stop_in_the_middle_then_ask_again(studio: Running, browser: Browser) -> None:
    with opened(browser, f"{studio.url}/zh/") as page:
        use_scripted(page)
        say(page, "慢慢讲一个故事")
        expect(page.locator("#chat")).to_contain_text("山里")
        page.locator("#ask .stop-button").click()
        expect(page.locator("#chat")).to_contain_text("已停止")
        expect(page.locator("#ask .submit-button")).to_be_visible()
        assert page.locator("#chat").inner_text().count("从前") < 40
        say(page, "你能做什么")
        expect(page.locator("#chat")).to_contain_text("我可以查天气")


def use_scripted(page: Page) -> None:
    page.get_by_role("tab", name="配置").click()
    choose(page, "#model", "scripted")
    expect(page.locator("#about")).to_contain_text("scripted")


def test_build_by_chat_shows_in_the_preview(studio: Running, browser: Browser) -> None:
    with opened(browser, f"{studio.url}/zh/") as page:
        page.locator("#new-agent").click()
        page.get_by_role("tab", name="创建").click()
        expect(page.locator("#builder-model input")).to_have_value("scripted")
        page.locator("#builder-ask textarea").fill("我要一个诗人")
        page.locator("#builder-ask .submit-button").click()
        expect(page.locator("#builder-chat")).to_contain_text("已更新：名称")
        expect(page.locator("#chat .cover")).to_contain_text("诗人")
        expect(page.locator("#chat")).to_contain_text("写一首关于海的诗")
        expect(page.locator("#agent input")).to_have_value("诗人")
        expect(page.locator("#builder-chat")).not_to_contain_text("RichConfig")


def test_import_an_agentfabric_zip_and_share_it(studio: Running, browser: Browser, tmp_path: Path) -> None:
    write_json(
        tmp_path / "builder_config.json",
        {
            "name": "武侠小说家",
            "instruction": "写小说",
            "model": "qwen-max-1201",
            "prompt_recommend": ["扮演杨过"],
            "tools": {"image_gen": {"name": "Wanx", "is_active": True, "use": True}},
        },
    )
    with zipfile.ZipFile(tmp_path / "agent.zip", "w") as archive:
        archive.write(tmp_path / "builder_config.json", "config/local_user/builder_config.json")
    with opened(browser, f"{studio.url}/zh/") as page:
        page.get_by_role("tab", name="发布").click()
        page.locator("#import-file input[type=file]").set_input_files(tmp_path / "agent.zip")
        expect(page.locator("#imported")).to_contain_text("已导入 武侠小说家")
        expect(page.locator("#imported")).to_contain_text("qwen-max-1201")
        expect(page.locator("#agent input")).to_have_value("武侠小说家")
        expect(page.locator("#chat .cover")).to_contain_text("武侠小说家")
        use_scripted(page)
        page.get_by_role("tab", name="发布").click()
        page.locator("#share-on").click()
        link = page.locator("#share-link a")
        expect(link).to_be_visible()
        address = link.get_attribute("href")
    assert address is not None
    with opened(browser, address, width=390) as page:
        expect(page.locator("#agent")).to_have_count(0)
        page.locator("#chat").get_by_text("扮演杨过").click()
        expect(page.locator("#chat")).to_contain_text("我可以查天气")


@pytest.mark.parametrize("width", [1440, 390])
def test_english_fits_the_width_and_can_be_read_aloud(studio: Running, browser: Browser, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    with opened(browser, f"{studio.url}/en/", width) as page:
        assert page.locator("html").get_attribute("lang") == "en"
        for tab in ("Configure", "Publish", "Create"):
            page.get_by_role("tab", name=tab).click()
            expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa"]}).response["violations"]
            serious = {
                fault["id"]: fault["nodes"][0]["html"] for fault in found if fault["impact"] in ("serious", "critical")
            }
            assert not serious, tab
        page.locator("#language").click()
        page.wait_for_url(re.compile("/zh/"))
        expect(page.locator("#about .chip").first).to_be_visible()
