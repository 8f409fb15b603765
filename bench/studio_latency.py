"""How long after the model's first token the Studio's page shows it, in a real browser. The target is 150 ms.

Needs chromium. The model is a server of this script that notes when it sends its first token; the page notes when
it shows it; both read the clock of this machine. Run from the repository:

    PYTHONPATH=src:tests python bench/studio_latency.py --visits 20
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from playwright.sync_api import Page, sync_playwright

from stub_server import serve
from toolweave.serving.process import free_port, wait_until_healthy
from toolweave.studio.defaults import FIRST_AGENT
from toolweave.studio.workspace import Workspace

TARGET_MS = 150
PIECES, PAUSE = 30, 0.03
SLOW = 300_000

# Tells when the chat first shows a word: the page looks at every change, and not at every so many milliseconds.
WATCH = """
(word) => {
  window.seenAt = 0;
  const look = () => {
    if (!window.seenAt && document.querySelector('#chat').innerText.includes(word)) window.seenAt = Date.now();
  };
  if (window.watching) window.watching.disconnect();
  window.watching = new MutationObserver(look);
  window.watching.observe(document.body, { childList: true, subtree: true, characterData: true });
}
"""


def model(sent: dict[str, float]) -> FastAPI:
    """Return a model server that says the word in the question first, and notes in `sent` when."""
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def chat(body: dict[str, Any]) -> StreamingResponse:
        word = body["messages"][-1]["content"].split()[-1]
        return StreamingResponse(_pieces(word, sent), media_type="text/event-stream")

    return app


async def _pieces(word: str, sent: dict[str, float]) -> AsyncIterator[str]:
    await asyncio.sleep(0.3)
    for number in range(PIECES):
        sent.setdefault(word, time.time())
        delta = {"content": f"{number or word} "}
        frame = {"id": "x", "object": "chat.completion.chunk", "created": 0, "choices": [{"index": 0, "delta": delta}]}
        yield f"data: {json.dumps(frame)}\n\n"
        await asyncio.sleep(PAUSE)
    yield "data: [DONE]\n\n"


def visit(page: Page, word: str) -> float:
    """Ask for a word and return when the page showed it, in seconds since 1970."""
    page.evaluate(WATCH, f"{word} ")
    page.locator("#ask textarea").fill(f"say {word}")
    page.locator("#ask textarea").press("Enter")
    page.wait_for_function("window.seenAt > 0", timeout=SLOW)
    page.locator("#ask .submit-button").wait_for(timeout=SLOW)
    return float(page.evaluate("window.seenAt")) / 1000


def main() -> None:
    """Run the visits and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visits", type=int, default=20)
    visits = parser.parse_args().visits
    sent: dict[str, float] = {}
    port = free_port()
    with TemporaryDirectory() as folder, serve(model(sent)) as llm:
        workspace = Workspace(Path(folder))
        home = workspace.home()
        home.agents()
        home.save_model("clock", {"type": "openai", "model": "clock", "api_base": f"{llm}/v1"})
        spec = home.agent(FIRST_AGENT)
        home.save_agent(FIRST_AGENT, replace(spec, builder=spec.builder | {"model": "clock", "tools": {}}))
        workspace.close()
        command = [sys.executable, "-m", "toolweave", "studio", "--workspace", folder, "--port", str(port)]
        server = subprocess.Popen(command, env={**os.environ, "GRADIO_ANALYTICS_ENABLED": "False"})
        try:
            wait_until_healthy(server, f"http://127.0.0.1:{port}/login", "the Studio", SLOW / 1000)
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
                page = browser.new_page()
                page.set_default_timeout(SLOW)
                page.goto(f"http://127.0.0.1:{port}/en/")
                page.locator("#about .chip").first.wait_for()
                visit(page, "warm-up")
                words = [f"word-{number}" for number in range(visits)]
                late = [1000 * (visit(page, word) - sent[word]) for word in words]
                browser.close()
        finally:
            server.terminate()
            server.wait(60)
    median, worst = statistics.median(late), statistics.quantiles(late, n=20)[-1]
    print(f"first token on the page after the model's: median {median:.0f} ms, p95 {worst:.0f} ms ({visits} visits)")
    print(f"target {TARGET_MS} ms: {median / TARGET_MS:.2f} of it")


if __name__ == "__main__":
    main()
