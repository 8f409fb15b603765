"""Takes the pictures of the loop for docs/screenshots: Traces, Train and Compare, on recorded example visits.

A tiny random model is trained, so the curves are real; two scripted models are compared, of which one gives up and
the other knows most answers. Run from the repository, in about two minutes:

    PYTHONPATH=src:tests python docs/screenshots_loop.py
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastapi import FastAPI
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from stub_server import serve
from tiny import bpe_tokenizer, save_tiny_llama
from toolweave.data.synthesize import training_groups
from toolweave.dialects import get_dialect
from toolweave.dialects.base import Prompt
from toolweave.evals.cases import held_out_visits
from toolweave.serving.process import free_port, wait_until_healthy
from toolweave.studio.workspace import Workspace
from toolweave.traces.curate import flag
from toolweave.traces.store import TraceStore
from toolweave.traces.trace import Exchange, FeedbackKind, ModelReply, Verdict
from toolweave.types import Lang, ToolCall, ToolSpec

FOLDER = Path(__file__).parent / "screenshots"
MOST_BYTES = 150_000
TABS = {"zh": ("轨迹", "训练", "对比"), "en": ("Traces", "Train", "Compare")}
LOCALES = {"zh": "zh-CN", "en": "en-GB"}
SLOW = 600_000
EXTRA = """batch_size: 4
gradient_accumulation_steps: 1
eval_steps: 5
dataset_test_ratio: 0.05
learning_rate: 0.005
"""

PLACE = {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}
PICTURE = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
TOOLS = (
    ToolSpec("amap_weather", "获取对应城市的天气数据", PLACE),
    ToolSpec("image_gen", "AI绘画服务，输入文本描述，返回图片的URL", PICTURE),
)
ROLE = {"name": "天气画师", "description": "能查天气、画风景的助手", "instruction": "先查天气，再画一张城市的图"}


def main() -> None:
    """Record the visits, start the Studio, walk the loop and take the pictures."""
    FOLDER.mkdir(exist_ok=True)
    port = free_port()
    with TemporaryDirectory() as folder, serve(scripted()) as llm:
        prepare(Path(folder), f"{llm}/v1")
        command = [sys.executable, "-m", "toolweave", "studio", "--workspace", folder]
        server = subprocess.Popen(command, env={**os.environ, "GRADIO_SERVER_PORT": str(port)})
        try:
            wait_until_healthy(server, f"http://127.0.0.1:{port}/en/", "the Studio", SLOW / 1000)
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
                for lang in TABS:
                    for width in (1440, 390):
                        page = browser.new_page(viewport={"width": width, "height": 900}, locale=LOCALES[lang])
                        page.set_default_timeout(SLOW)
                        page.goto(f"http://127.0.0.1:{port}/{lang}/")
                        if (lang, width) == ("zh", 1440):
                            walk(page, Path(folder) / "tiny-llama")
                        take(page, lang, width)
                        page.close()
                browser.close()
        finally:
            server.terminate()
            server.wait()


def scripted() -> FastAPI:
    """Return a server of two models: `base` gives up, `tuned` knows three of four held-out visits."""
    visits, app = [visit for at, visit in enumerate(held_out_visits()) if at % 4], FastAPI()

    @app.post("/v1/chat/completions")
    async def chat(body: dict[str, Any]) -> dict[str, Any]:
        asked = body["messages"][-1]["content"]
        known = next((visit for visit in visits if visit.turn.query in asked), None)
        said = "抱歉，无法获取实时数据。"
        if body["model"] == "tuned" and known is not None:
            steps, done = known.turn.steps, asked.count("Observation: <result>")
            said = known.turn.answer if done >= len(steps) else call(steps[done].call)
        choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        return {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}

    return app


def prepare(root: Path, llm: str) -> None:
    """Put models, and visits as RolePlay sends them, into a workspace."""
    samples = [sample for group in training_groups(160) for sample in group]
    texts = (t for s in samples for t in (s.messages[0]["content"], s.messages[-1]["content"], s.completion))
    model = save_tiny_llama(root / "tiny-llama", bpe_tokenizer(texts))
    workspace = Workspace(root)
    workspace.home().save_model("tiny-llama", {"type": "toolweave", "model": str(model)})
    for name in ("base", "tuned"):
        entry = {"type": "openai", "model": name, "api_base": llm, "support_stream": False}
        workspace.home().save_model(f"weather-{name}", entry)
    store = workspace.home().traces
    for place, sky, degrees in (("朝阳区", "晴", 12), ("海淀区", "多云", 9), ("天河区", "阴", 24), ("武侯区", "雾", 8)):
        told = f"[simulated] {place}的天气是{sky}温度是{degrees}度。"
        replies = [weather(place), f"{place}今天{sky}，气温{degrees}度。"]
        trace = visit(store, f"{place}天气怎样？", replies, [told])[0]
        store.review(trace, Verdict.ACCEPTED, "studio")
    visit(store, "余杭区今天冷吗？", ["请稍等，我来查一下。"])
    visit(store, "南山区适合出门吗？", [weather("南山区"), weather("南山区")], ["南山区的天气是雷阵雨温度是27度。"])
    said = ["玄武区今天小雪，气温3度，湿度45%。"]
    visit(store, "玄武区天气怎样？", [weather("玄武区"), *said], ["玄武区的天气是小雪温度是-3度。"])
    wrong = [weather("西湖区"), "抱歉，无法获取实时天气数据。"]
    trace = visit(store, "西湖区天气怎样？", wrong, ["西湖区的天气是晴温度是17度。"])[-1]
    store.give_feedback(trace, FeedbackKind.THUMBS_DOWN)
    store.give_feedback(trace, FeedbackKind.CORRECTION, "西湖区现在是晴天，气温17度。")
    store.review(trace, Verdict.CORRECTED, "studio", "西湖区现在是晴天，气温17度。")
    flag(store)
    workspace.close()


def visit(store: TraceStore, query: str, replies: Sequence[str], observations: Sequence[str] = ()) -> list[str]:
    """Record a turn, and return the ids of its traces."""
    dialect, ids = get_dialect("v06"), []
    messages = dialect.start(Prompt(query, TOOLS, ROLE, Lang.ZH))
    for number, reply in enumerate(replies):
        body = {"model": "qwen-plus", "messages": list(messages), "stop": list(dialect.stop), "temperature": 0}
        exchange = Exchange(body, ModelReply(reply, finish_reason="stop"), time.time(), 1.2 + number / 3, 0.2)
        ids.append(store.record(exchange))
        if number < len(observations):
            messages = dialect.advance(messages, reply, observations[number])
    return ids


def weather(place: str) -> str:
    """Return a reply that asks for the weather."""
    return call(ToolCall("amap_weather", {"location": place}))


def call(made: ToolCall) -> str:
    """Return a reply that makes a call."""
    return f"工具调用\nAction: {made.name}\nAction Input: {json.dumps(made.arguments, ensure_ascii=False)}\n"


def walk(page: Page, model: Path) -> None:
    """Export, train and compare, so that there is something to see."""
    traces, train, compare = TABS["zh"]
    open_tab(page, traces)
    page.locator("#traces-list input:checked").wait_for()
    page.locator("#traces-export .label-wrap").click()
    page.get_by_role("button", name="导出", exact=True).click()
    page.locator("#traces-report .notice").first.wait_for()
    open_tab(page, train)
    page.get_by_text("加入练习访问").first.click()
    page.locator("input[type=number]").locator("visible=true").first.fill("96")
    page.locator("#train-practice").click()
    page.locator("#train-data label").nth(1).wait_for()
    choose(page, "#train-base", str(model))
    page.get_by_text("快速试跑").click()
    page.locator("#train-advanced .label-wrap").click()
    page.locator("#train-extra textarea").fill(EXTRA)
    page.locator("#train-advanced .label-wrap").click()
    page.locator("#train-look").click()
    page.locator("#train-mix .mix").wait_for()
    page.locator("#train-start").click()
    page.locator("#train-progress .finished").first.wait_for()
    page.wait_for_timeout(2000)
    open_tab(page, compare)
    choose(page, "#compare-left", "weather-base")
    choose(page, "#compare-right", "weather-tuned")
    page.get_by_role("tab", name="保留访问评测").click()
    page.locator("#compare-count input[type=number]").fill("24")
    page.locator("#compare-count input[type=number]").press("Tab")
    page.locator("#compare-evaluate").click()
    page.locator("#compare-visits .notice").first.wait_for()


def take(page: Page, lang: str, width: int) -> None:
    """Take the three pages, light and dark."""
    traces, train, compare = TABS[lang]
    open_tab(page, traces)
    page.locator("#traces-list input:checked").wait_for()
    page.locator("#traces-list label").nth(1).click()
    page.locator("#traces-timeline pre.corrected").first.wait_for()
    page.locator("#traces-tokens .label-wrap").click()
    page.locator("#traces-tokens mark.stop").first.wait_for()
    both(page, "traces", lang, width)
    open_tab(page, train)
    page.locator("#train-progress .finished").first.wait_for()
    page.wait_for_timeout(2000)
    both(page, "train", lang, width)
    open_tab(page, compare)
    page.get_by_role("tab", name=("保留访问评测", "Held-out visits")[lang == "en"]).click()
    page.locator("#compare-visits .notice").first.wait_for()
    both(page, "compare", lang, width)


def both(page: Page, name: str, lang: str, width: int) -> None:
    """Take a page light and dark."""
    for mode in ("light", "dark"):
        page.evaluate(f"document.body.classList.toggle('dark', {str(mode == 'dark').lower()})")
        page.wait_for_timeout(500)
        shoot(page, name, lang, width, mode)
    page.evaluate("document.body.classList.remove('dark')")


def shoot(page: Page, name: str, lang: str, width: int, mode: str) -> None:
    """Take a picture, in as many colours as fit the limit."""
    path = FOLDER / f"{name}-{lang}-{mode}-{width}.png"
    page.screenshot(path=path, full_page=True)
    with Image.open(path) as taken:
        picture = taken.convert("RGB")
    for colours in (256, 128, 64, 32):
        picture.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size < MOST_BYTES:
            break


def open_tab(page: Page, name: str) -> None:
    """Open a tab, on a phone by the menu of those that do not fit."""
    page.locator("#about .chip").first.wait_for(state="attached")
    tab = page.get_by_role("tab", name=name, exact=True).first
    if tab.is_visible():
        tab.click()
        return
    page.locator("#areas .overflow-menu > button").first.click()
    page.locator("#areas .overflow-dropdown button", has_text=name).first.click()


def choose(page: Page, field: str, value: str) -> None:
    """Choose from a drop-down."""
    box = page.locator(f"{field} input")
    box.click()
    box.fill(value)
    page.get_by_role("option", name=value).first.click()


if __name__ == "__main__":
    main()
