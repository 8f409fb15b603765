"""Whole journeys through the Studio in a real Chromium, the Studio in a process of its own, the model scripted."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from fastapi import FastAPI
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from scripted_llm import scripted_llm
from stub_server import serve
from toolweave.data.json_files import write_json
from toolweave.serving.process import free_port, wait_until_healthy
from toolweave.studio.workspace import Workspace
from toolweave.tools.sandbox import Isolation, isolation
from toolweave.traces.store import TraceStore
from toolweave.traces.trace import FeedbackKind
from waiting import wait_until

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
    folder = tmp_path_factory.mktemp("studio")
    with serve(scripted_llm(pause=0.01)) as llm:
        workspace = Workspace(folder)
        workspace.home().save_model("scripted", {"type": "openai", "model": "scripted", "api_base": f"{llm}/v1"})
        workspace.close()
        with started(folder) as url:
            yield Running(url, folder)


@contextmanager
def started(folder: Path, *options: str) -> Iterator[str]:
    """Yield the address of a Studio in a process of its own; its tools may reach this machine."""
    port = free_port()
    settings = {"GRADIO_ANALYTICS_ENABLED": "False", "TOOLWEAVE_ALLOW_HOSTS": "127.0.0.1"}
    environment = {**os.environ, **settings, "GRADIO_SERVER_PORT": str(port)}
    command = [sys.executable, "-m", "toolweave", "studio", "--workspace", str(folder), *options]
    server = subprocess.Popen(command, env=environment)
    try:
        wait_until_healthy(server, f"http://127.0.0.1:{port}/login", "the Studio", 300)
        yield f"http://127.0.0.1:{port}"
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
def opened(browser: Browser, url: str, width: int = 1440, *, cut_off: bool = False) -> Iterator[Page]:
    """Yield a page of a new browser profile that has loaded; it must not complain.

    A page that is `cut_off`, that is reloaded in mid-stream, may complain of the stream it cannot read to the end.
    """
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
    broken = ("AbortError", "Connection errored out") if cut_off else ()
    assert not [text for text in complaints if not any(mark in text for mark in broken)]


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

        page.get_by_label("踩").last.click()
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


def test_rate_retry_rewrite_and_fork(studio: Running, browser: Browser, tmp_path: Path) -> None:
    with opened(browser, f"{studio.url}/zh/") as page:
        use_scripted(page)
        note = tmp_path / "清单.txt"
        note.write_text("西湖", "utf-8")
        page.locator("#ask input[type=file]").set_input_files(note)
        expect(page.locator("#ask").get_by_label("Remove file")).to_be_visible()
        say(page, "查一下杭州的天气，再画一张西湖")
        expect(page.locator("#chat img")).to_be_visible()
        expect(page.locator("#chat .user").last).to_contain_text(".txt")
        expect(page.locator("#ask .submit-button")).to_be_visible()
        page.get_by_label("赞", exact=True).last.click()
        expect(page.get_by_text("谢谢，已记下").first).to_be_visible()
        with studio.traces() as store:
            rated = [item.kind for visit in store.visits() for each in visit.traces for item in each.feedback]
            recorded = store.counts().traces
        assert FeedbackKind.THUMBS_UP in rated

        steps = page.locator("#chat [role=button].title")
        page.locator("#chat").get_by_label("重试").last.click()
        with studio.traces() as store:
            wait_until(lambda: store.counts().traces >= recorded + 3)
        expect(steps).to_have_count(2)
        wait_until(lambda: offered(page))
        page.locator("#fork-from input").click()
        page.get_by_role("option", name="第 1 步 amap_weather").click()
        page.locator("#fork-go").click()
        expect(page.locator("#talks")).to_be_visible()
        expect(page.locator("#chat img")).to_be_visible()
        expect(steps).to_have_count(2)
        expect(page.locator("#ask .submit-button")).to_be_visible()

        page.locator("#chat").get_by_label("改写").first.click()
        page.locator("#chat textarea").fill("你能做什么")
        page.locator("#chat").get_by_label("提交").click()
        expect(page.locator("#chat")).to_contain_text("我可以查天气")
        expect(steps).to_have_count(0)
        expect(page.locator("#talks input")).to_have_value("你能做什么 (1)")  # renamed once the reply is over
        page.locator("#talks input").click()
        page.get_by_role("option", name="查一下杭州").click()
        expect(steps).to_have_count(2)  # the one it was forked from is as it was
        page.locator("#new-chat").click()
        expect(page.locator("#chat .cover")).to_be_visible()


NUMBER = {"name": "number", "in": "path", "required": True, "schema": {"type": "integer"}}
GET = {"operationId": "get_item", "parameters": [NUMBER], "responses": {"200": {"description": "the item"}}}
DOCUMENT = {"openapi": "3.0.0", "info": {"title": "a", "version": "1"}, "paths": {"/items/{number}": {"get": GET}}}


def test_tools_from_elsewhere_consent_knowledge_and_face(studio: Running, browser: Browser, tmp_path: Path) -> None:
    shop, mcp_port = FastAPI(), free_port()

    @shop.get("/items/{number}")
    def item(number: int) -> dict[str, str]:
        return {"name": f"tea {number}"}

    mcp = subprocess.Popen([sys.executable, str(Path(__file__).with_name("mcp_server.py")), str(mcp_port)])
    try:
        with serve(shop) as url, opened(browser, f"{studio.url}/zh/", cut_off=True) as page:
            page.locator("#new-agent").click()
            page.get_by_role("tab", name="配置").click()
            page.locator("#name").locator("textarea, input").fill("店员")
            page.locator("#instruction textarea").fill("看店。")
            page.locator("#tools").get_by_text("代码解释器").click()
            choose(page, "#model", "scripted")
            expect(page.locator("#about")).to_contain_text("模型 scripted")

            page.locator("#openapi .label-wrap").click()
            document = {**DOCUMENT, "servers": [{"url": url}]}
            page.locator("#openapi-schema textarea").fill(json.dumps(document))
            page.locator("#openapi-import").click()
            expect(page.locator("#openapi-result")).to_contain_text("get_item")
            page.locator("#mcp .label-wrap").click()
            wait_until(lambda: listens(mcp_port))
            page.locator("#mcp-name").locator("textarea, input").fill("small")
            page.locator("#mcp-url").locator("textarea, input").fill(f"http://127.0.0.1:{mcp_port}/mcp")
            page.locator("#mcp-add").click()
            expect(page.locator("#mcp-result")).to_contain_text("small_add")

            page.locator("#try .label-wrap").click()
            choose(page, "#tool", "get_item")
            page.get_by_label("number").fill("7")
            page.locator("#call").click()
            expect(page.locator("#call-result")).to_contain_text("tea 7")
            choose(page, "#tool", "small_add")
            page.get_by_label("a *", exact=True).fill("40")
            page.get_by_label("b *", exact=True).fill("2")
            page.locator("#call").click()
            expect(page.locator("#call-result")).to_contain_text("42")

            page.locator("#knowledge .label-wrap").click()
            paper = tmp_path / "price.md"
            paper.write_text("# 价目\n龙井一两五十元。", "utf-8")
            page.locator("#knowledge input[type=file]").set_input_files(paper)
            expect(page.locator("#knowledge input[type=checkbox]")).to_be_checked()
            expect(page.locator("#knowledge").get_by_text("price.md")).to_be_visible()
            Image.new("RGB", (64, 64), "teal").save(tmp_path / "face.png")
            page.locator("#avatar input[type=file]").set_input_files(tmp_path / "face.png")
            expect(page.locator("#chat .cover img")).to_be_visible()

            say(page, "运行代码")
            expect(page.locator("#consent")).to_contain_text("print(6 * 7)")
            page.locator("#consent-no").click()
            expect(page.locator("#chat")).to_contain_text("did not allow")
            expect(page.locator("#consent")).to_be_hidden()
            expect(page.locator("#ask .submit-button")).to_be_visible()
            say(page, "再运行代码")
            expect(page.locator("#consent")).to_be_visible()
            page.reload()  # the question waits
            expect(page.locator("#consent")).to_contain_text("print(6 * 7)")
            page.locator("#consent-always").click()
            ran = isinstance(isolation(), Isolation)
            expect(page.locator("#chat")).to_contain_text("结果：42" if ran else "no code runs here")
    finally:
        mcp.terminate()
        mcp.wait(60)


def offered(page: Page) -> bool:
    """Ask for the places to fork from, and tell whether there are any: a turn that is under way has none."""
    page.locator("#fork").click()
    page.wait_for_timeout(500)
    return page.locator("#fork-from input").is_visible()


def listens(port: int) -> bool:
    """Tell whether somebody listens on a port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_sign_in_and_out(browser: Browser, tmp_path: Path) -> None:
    with started(tmp_path, "--auth", "ann:secret") as url:
        context = browser.new_context(locale="zh-CN")
        page = context.new_page()
        page.set_default_timeout(180_000)
        page.goto(f"{url}/zh/")
        page.wait_for_url(re.compile("/login"))
        assert not serious(Axe(), page)
        page.get_by_label("用户名").fill("ann")
        page.get_by_label("密码").fill("wrong")
        page.get_by_role("button", name="登录").click()
        expect(page.get_by_role("alert")).to_contain_text("不对")
        page.get_by_label("用户名").fill("ann")
        page.get_by_label("密码").fill("secret")
        page.get_by_role("button", name="登录").click()
        expect(page.locator("#about .chip").first).to_be_visible()
        page.locator("#sign-out").click()
        page.wait_for_url(re.compile("/login"))
        page.goto(f"{url}/zh/")
        page.wait_for_url(re.compile("/login"))
        context.close()


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


def serious(axe: Axe, page: Page) -> dict[str, str]:
    """Return the serious faults of a page as axe sees it, each with the element."""
    found = axe.run(page, options={"runOnly": ["wcag2a", "wcag2aa"]}).response["violations"]
    return {fault["id"]: fault["nodes"][0]["html"] for fault in found if fault["impact"] in ("serious", "critical")}


@pytest.mark.parametrize("width", [1440, 390])
def test_english_fits_the_width_and_can_be_read_aloud(studio: Running, browser: Browser, width: int) -> None:
    with opened(browser, f"{studio.url}/en/", width) as page:
        assert page.locator("html").get_attribute("lang") == "en"
        for tab in ("Configure", "Publish", "Create"):
            page.get_by_role("tab", name=tab).click()
            expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert not serious(Axe(), page), tab
        page.locator("#language").click()
        page.wait_for_url(re.compile("/zh/"))
        expect(page.locator("#about .chip").first).to_be_visible()
