"""Takes the pictures of docs/screenshots: every page, in both languages, light and dark, wide and narrow.

Needs chromium. The model is the scripted one of the tests. Run from the repository:

    PYTHONPATH=src:tests python docs/screenshots.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from scripted_llm import scripted_llm
from stub_server import serve
from toolweave.serving.process import free_port, wait_until_healthy
from toolweave.studio.workspace import Workspace

FOLDER = Path(__file__).parent / "screenshots"
WORDS = {
    "zh": {"tabs": ("创建", "配置", "发布"), "ask": "查一下杭州的天气，再画一张西湖的水墨画"},
    "en": {"tabs": ("Create", "Configure", "Publish"), "ask": "Check the weather in Paris, then draw the Eiffel Tower"},
}
LOCALES = {"zh": "zh-CN", "en": "en-GB"}
expect.set_options(timeout=120_000)


def main() -> None:
    """Take the pictures of both languages."""
    FOLDER.mkdir(exist_ok=True)
    for lang in WORDS:
        _walk(lang)


def _walk(lang: str) -> None:
    """Start the Studio for somebody new, who opens it in one language, and take the pictures."""
    port = free_port()
    with TemporaryDirectory() as folder, serve(scripted_llm()) as llm:
        workspace = Workspace(Path(folder))
        workspace.home().save_model("qwen3-4b", {"type": "openai", "model": "scripted", "api_base": f"{llm}/v1"})
        workspace.close()
        command = [sys.executable, "-m", "toolweave", "studio", "--workspace", folder]
        server = subprocess.Popen(command, env={**os.environ, "GRADIO_SERVER_PORT": str(port)})
        try:
            wait_until_healthy(server, f"http://127.0.0.1:{port}/login", "the Studio", 300)
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-background-networking"]
                )
                for width in (1440, 390):
                    page = browser.new_page(viewport={"width": width, "height": 940}, locale=LOCALES[lang])
                    page.set_default_timeout(120_000)
                    page.goto(f"http://127.0.0.1:{port}/{lang}/")
                    _visit(page, lang, width)
                    page.close()
                browser.close()
        finally:
            server.terminate()
            server.wait(60)


def _visit(page: Page, lang: str, width: int) -> None:
    expect(page.locator("#about .chip").first).to_be_visible()
    tabs = WORDS[lang]["tabs"]
    page.get_by_role("tab", name=tabs[1]).click()
    page.locator("#model input").click()
    page.get_by_role("option", name="qwen3-4b").first.click()
    expect(page.locator("#about")).to_contain_text("qwen3-4b")
    expect(page.locator(".toast-body")).to_have_count(0)
    page.locator("#ask textarea").fill(str(WORDS[lang]["ask"]))
    page.locator("#ask textarea").press("Enter")
    expect(page.locator("#chat img")).to_be_visible()
    page.locator("#chat [role=button].title").first.click()
    for dark in (False, True):
        page.evaluate("(dark) => document.body.classList.toggle('dark', dark)", dark)
        for name, tab in zip(("create", "configure", "publish"), tabs, strict=True):
            page.get_by_role("tab", name=tab).click()
            page.wait_for_timeout(600)
            page.evaluate("window.scrollTo(0, 0)")
            _take(page, f"{name}-{lang}-{'dark' if dark else 'light'}-{width}")
        if width < 800:
            page.locator("#chat").scroll_into_view_if_needed()
            page.wait_for_timeout(600)
            _take(page, f"preview-{lang}-{'dark' if dark else 'light'}-{width}")


def _take(page: Page, name: str) -> None:
    path = FOLDER / f"{name}.png"
    page.screenshot(path=path)
    # The pages have few colours: a palette makes the file a third.
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)
    print(path, path.stat().st_size // 1000, "kB")


if __name__ == "__main__":
    main()
