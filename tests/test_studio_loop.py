"""The loop as a user walks it in a browser: a correction becomes a row, the row a model, and the model is used."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright

from toolweave.data.json_files import read_json
from toolweave.data.jsonl import read_samples
from toolweave.dialects import get_dialect
from toolweave.dialects.base import Prompt
from toolweave.serving.process import free_port, wait_until_healthy
from toolweave.studio.defaults import FIRST_AGENT
from toolweave.studio.runs import Runs, RunStatus
from toolweave.studio.workspace import Workspace
from toolweave.traces.trace import Exchange, FeedbackKind, ModelReply, Verdict
from toolweave.types import Lang, ToolSpec
from waiting import wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SLOW = 300_000  # milliseconds: a busy machine must not fail a test
SCHEMA = {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}
WEATHER = ToolSpec("amap_weather", "获取对应城市的天气数据", SCHEMA)
CALL = '工具调用\nAction: amap_weather\nAction Input: {"location": "塔什库尔干"}\n'
OBSERVED = "塔什库尔干的天气是小雪温度是-3度。"
HOSTILE = "<img src=x onerror='window.hacked=1'> ${window.hacked=2} {{constructor}}"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium")


def record(workspace: Workspace) -> list[str]:
    """Record a visit as RolePlay sends it, with an answer that contradicts the tool, and one that means harm."""
    home, dialect = workspace.home(), get_dialect("v06")
    messages = dialect.start(Prompt("塔什库尔干要穿羽绒服吗", (WEATHER,), "天气助手", Lang.ZH))
    ids = []
    for number, reply in enumerate((CALL, "抱歉，无法获取实时天气数据。")):
        body = {"model": "base", "messages": list(messages), "stop": list(dialect.stop)}
        ids.append(home.traces.record(Exchange(body, ModelReply(reply, finish_reason="stop"), 10.0 + number, 0.1)))
        messages = dialect.advance(messages, reply, OBSERVED)
    home.traces.give_feedback(ids[1], FeedbackKind.CORRECTION, "塔什库尔干小雪，零下3度，要穿。")
    body = {"model": "base", "messages": [{"role": "user", "content": HOSTILE}]}
    ids.append(home.traces.record(Exchange(body, ModelReply(HOSTILE, finish_reason="stop"), 5.0, 0.1)))
    return ids


@pytest.fixture
def studio(tmp_path: Path, bpe_model_dir: Path) -> Iterator[SimpleNamespace]:
    """A Studio with recorded visits and the tiny model among its models, answering at `url`."""
    workspace = Workspace(tmp_path)
    workspace.home().save_model("tiny", {"type": "toolweave", "model": str(bpe_model_dir)})
    traces = record(workspace)
    port = free_port()
    command = [sys.executable, "-m", "toolweave", "studio", "--port", str(port), "--workspace", str(tmp_path)]
    server = subprocess.Popen(command)
    url = f"http://127.0.0.1:{port}"
    wait_until_healthy(server, f"{url}/en/", "the Studio", SLOW / 1000)
    home = workspace.home()
    yield SimpleNamespace(url=url, home=home, traces=traces, process=psutil.Process(server.pid))
    for run in Runs(home.runs).all():
        Runs(home.runs).stop(run.name)
    server.terminate()
    server.wait(SLOW / 1000)
    workspace.close()


@pytest.fixture
def page(studio: SimpleNamespace) -> Iterator[Page]:
    """A page of the Studio in English; what its console complains of fails the test."""
    complaints: list[str] = []
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        opened = browser.new_page(viewport={"width": 1440, "height": 1000})
        opened.set_default_timeout(SLOW)
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        opened.on("dialog", lambda dialog: dialog.accept())
        opened.goto(f"{studio.url}/en/")
        yield opened
        browser.close()
    assert complaints == []


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).first.click()


def choose(page: Page, field: str, value: str) -> None:
    box = page.locator(f"{field} input")
    box.click()
    box.fill(value)
    page.get_by_role("option", name=value).first.click()


def read_aloud(page: Page) -> None:
    """Fail for what a screen reader or a weak eye cannot make out: wide and narrow, light and dark."""
    for width, dark in product((390, 1440), (True, False)):
        page.set_viewport_size({"width": width, "height": 1000})
        page.evaluate("(dark) => document.body.classList.toggle('dark', dark)", dark)
        page.wait_for_function("!document.getAnimations().some((each) => each instanceof CSSTransition)")
        found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa"]}).response["violations"]
        serious = [fault for fault in found if fault["impact"] in ("serious", "critical")]
        assert not [(fault["id"], fault["nodes"][0]["html"]) for fault in serious], (width, dark)


def test_from_a_correction_to_a_model_in_use(page: Page, studio: SimpleNamespace, bpe_model_dir: Path) -> None:
    home, (called, answered, hostile) = studio.home, studio.traces
    store = home.traces

    tab(page, "Traces")
    chosen = page.locator("#traces-list input:checked")
    page.wait_for_function(f"document.querySelector('#traces-list input:checked')?.value === {called!r}")
    page.locator("body").press("a")  # the call is right; the next reply comes up
    page.wait_for_function(f"document.querySelector('#traces-list input:checked')?.value === {answered!r}")
    assert store.trace(called).review.verdict is Verdict.ACCEPTED
    page.locator(f"#traces-timeline #{answered}[aria-current]").wait_for()
    assert "contradiction" in page.locator(f"#traces-timeline #{answered} .flag").first.inner_text()
    page.locator("#traces-tokens .label-wrap").click()
    page.locator("#traces-tokens mark.stop").first.wait_for()
    assert "无法获取实时天气数据" in page.locator("#traces-tokens pre mark").first.inner_text()
    read_aloud(page)
    page.locator("body").press("e")
    box = page.locator("#traces-editing textarea")
    box.wait_for()
    assert box.input_value() == "塔什库尔干小雪，零下3度，要穿。"  # what the user said it should have been
    box.fill("塔什库尔干小雪，气温零下3度，要穿羽绒服。")
    page.locator("#traces-save").click()
    page.wait_for_function(f"document.querySelector('#traces-list input:checked')?.value === {hostile!r}")
    assert store.trace(answered).review.label == "塔什库尔干小雪，气温零下3度，要穿羽绒服。"
    page.locator("#traces-timeline").get_by_text("onerror").first.wait_for()
    page.locator("body").press("r")
    page.locator("#traces-counts .rejected").get_by_text("1 rejected").wait_for()
    page.locator("body").press("k")
    page.wait_for_function(f"document.querySelector('#traces-list input:checked')?.value === {answered!r}")
    assert chosen.count() == 1
    assert page.evaluate("window.hacked") is None
    assert page.locator("#traces-counts .ready").inner_text() == "2"
    page.locator("#traces-export .label-wrap").click()
    page.get_by_role("button", name="Export", exact=True).click()
    page.locator("#traces-report").get_by_text("2 rows").wait_for()
    rows = list(read_samples(home.datasets / "addition.jsonl"))
    assert [row.meta["verdict"] for row in rows] == ["accepted", "corrected"]
    assert rows[1].completion.strip() == "塔什库尔干小雪，气温零下3度，要穿羽绒服。"

    tab(page, "Train")
    page.locator("#train-data").get_by_text("addition.jsonl").wait_for()
    choose(page, "#train-base", str(bpe_model_dir))
    page.locator("#train-advanced .label-wrap").click()
    page.locator("#train-extra textarea").fill("max_steps: 4\nbatch_size: 1\ngradient_accumulation_steps: 1\n")
    page.locator("#train-look").click()
    page.locator("#train-mix").get_by_text("2 samples to learn from").wait_for()
    page.locator("#train-start").click()
    page.locator("#train-progress .running").wait_for()
    page.reload()  # a run minds no reload
    tab(page, "Train")
    page.locator("#train-progress .finished").wait_for()
    assert "2 / 2" in page.locator("#train-progress").inner_text()
    for trace in (called, answered):
        assert page.locator("#train-lineage code").get_by_text(trace).count() == 1
    (run,) = Runs(home.runs).all()
    assert run.status is RunStatus.FINISHED
    assert set(run.lineage.traces) == {called, answered}
    page.locator("#train-plot canvas, #train-plot svg").first.wait_for()
    read_aloud(page)
    page.locator("#train-sample").click()
    page.locator("#train-said .samples").wait_for()

    # Another run while the curve of this one is shown, stopped and gone on with.
    choose(page, "#train-base", str(bpe_model_dir))
    page.locator("#train-advanced .label-wrap").click()
    page.locator("#train-extra textarea").fill("num_train_epochs: 900\nbatch_size: 1\neval_steps: 5000\n")
    page.locator("#train-start").click()
    page.locator("#train-progress .running").wait_for()
    page.locator("#train-progress dd").first.wait_for()
    page.locator("#train-stop").click()
    page.locator("#train-progress .stopped").wait_for()
    page.locator("#train-resume").click()
    page.locator("#train-progress .running").wait_for()
    page.locator("#train-stop").click()
    page.locator("#train-progress .stopped").wait_for()
    page.locator("#train-delete").click()
    page.locator("#train-progress .finished").wait_for()

    tab(page, "Compare")
    choose(page, "#compare-left", "tiny")
    page.locator("#compare-ask textarea").fill("塔什库尔干冷吗")
    page.locator("#compare-send").click()
    for side in ("left", "right"):
        page.locator(f"#compare-chat-{side} .message.bot, #compare-chat-{side} .bot").first.wait_for()
    page.get_by_role("tab", name="Held-out visits").click()
    page.locator("#compare-count input[type=number]").fill("1")
    page.locator("#compare-count input[type=number]").press("Tab")
    page.locator("#compare-evaluate").click()
    page.locator("#compare-visits .notice").get_by_text("Gate").wait_for()
    read_aloud(page)
    page.locator("#compare-use-right").click()
    page.locator("#compare-said .pass").wait_for()

    key = home.agent(FIRST_AGENT).model
    entry: dict[str, Any] = read_json(home.folder / "model_config.json")[key]
    assert entry["type"] == "toolweave"
    assert Path(entry["model"]).parent == run.folder.resolve()
    served = [process.cmdline() for process in studio.process.children() if "deploy" in process.cmdline()]
    assert any(entry["model"] in command for command in served)

    tab(page, "Traces")
    page.locator("#traces-counts .unreviewed").get_by_text(re.compile("[1-9]")).wait_for()
    page.locator("#traces-batch .label-wrap").click()
    page.locator("#traces-accept-all").click()
    page.locator("#traces-counts .unreviewed").get_by_text("0 unreviewed").wait_for()
    assert store.trace(hostile).review.verdict is Verdict.REJECTED  # what was reviewed stays as it was
    said = {trace.id for trace in store.traces()}

    tab(page, "Compare")
    page.get_by_role("tab", name="Side by side").click()
    page.locator("#compare-ask textarea").fill("塔什库尔干热吗")
    page.locator("#compare-send").click()
    wait_until(lambda: store.counts().traces >= len(said) + 2)
    tab(page, "Traces")
    page.locator("#traces-refresh").click()
    page.locator("#traces-counts .unreviewed").get_by_text(re.compile("[1-9]")).wait_for()
    page.locator("#traces-reject-all").click()
    page.locator("#traces-counts .unreviewed").get_by_text("0 unreviewed").wait_for()
    new = [trace for trace in store.traces() if trace.id not in said]
    assert {trace.review.verdict for trace in new} == {Verdict.REJECTED}
    assert store.trace(called).review.verdict is Verdict.ACCEPTED
