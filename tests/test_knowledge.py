"""Knowledge: every kind of document is read with its source, found by words or meaning, and cited."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from docx import Document
from fastapi import FastAPI, Request

from stub_server import serve
from toolweave.agents import RolePlay
from toolweave.agents.events import Cited
from toolweave.errors import DataError, ServerError
from toolweave.knowledge import Knowledge, read_document
from toolweave.models.embeddings import Embedder
from toolweave.models.scripted import ScriptedModel


def pdf(text: str) -> bytes:
    """Return a one-page PDF that says an ASCII text."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> /MediaBox [0 0 9 9] >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    body, offsets = b"%PDF-1.4\n", list[int]()
    for number, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    start = len(body)
    trailer = b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % start
    return body + b"xref\n0 6\n0000000000 65535 f \n" + table + trailer


@pytest.fixture
def documents(tmp_path: Path) -> list[Path]:
    """One document of every kind."""
    report = Document()
    report.add_heading("退货政策", 1)
    report.add_paragraph("七天内可以无理由退货。")
    report.add_table(1, 2).rows[0].cells[0].text = "运费自理"
    report.save(str(tmp_path / "policy.docx"))
    files: dict[str, bytes] = {
        "hours.txt": "博物馆周一闭馆，周二到周日九点开门。".encode("gb18030"),
        "guide.md": "# 门票\n成人票六十元。\n# 停车\n地下车库每小时八元。".encode(),
        "manual.pdf": pdf("Press the red button to restart the pump."),
        "prices.csv": "商品,价格\n苹果,5\n香蕉,3\n".encode("utf-8-sig"),
        "facts.json": json.dumps({"创始人": "王小明", "年份": 1998}).encode(),
        "log.jsonl": b'{"event": "login"}\n\n{"event": "logout"}\n',
        "page.html": "<html><script>hidden()</script><p>热线电话是 12345</p></html>".encode(),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return sorted(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("query", "text", "source"),
    [
        ("博物馆周几闭馆？", "周一闭馆", "hours.txt"),
        ("停车多少钱", "每小时八元", "guide.md, 停车"),
        ("How do I restart the pump?", "red button", "manual.pdf, p. 1"),
        ("能不能退货", "无理由退货", "policy.docx, 退货政策"),
        ("香蕉价格", "香蕉", "prices.csv, row 3"),
        ("创始人是谁", "王小明", "facts.json, 创始人"),
        ("logout", "logout", "log.jsonl, line 3"),
        ("热线电话", "12345", "page.html"),
    ],
)
def test_every_kind_of_document_is_found_with_its_source(
    documents: list[Path], query: str, text: str, source: str
) -> None:
    best, *_ = Knowledge(documents).search(query)
    assert text in best.text
    assert best.source == source
    assert "hidden" not in best.text


def test_a_question_without_a_word_in_common_finds_nothing(documents: list[Path]) -> None:
    assert Knowledge(documents).search("zzz qqq") == []
    assert Knowledge(documents).search("  ") == []
    assert Knowledge([]).search("博物馆") == []


def test_long_texts_are_cut_where_sentences_end(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("这是一个句子。" * 200 + "x" * 3000, "utf-8")
    passages = read_document(path)
    assert "".join(passage.text for passage in passages) == path.read_text("utf-8")
    assert all(len(passage.text) <= 1000 for passage in passages)
    assert passages[0].text.endswith("。")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.exe", b"", "no document that can be read"),
        ("a.pdf", b"not a pdf", "a.pdf cannot be read"),
        ("a.docx", b"not a zip", "a.docx cannot be read"),
        ("a.json", b"{", "a.json cannot be read"),
        ("missing.txt", None, "No such file"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        Knowledge([tmp_path / name])


def test_an_agent_looks_up_every_question_and_cites(documents: list[Path]) -> None:
    model = ScriptedModel(["周一。"] * 3)
    bot = RolePlay([], model, "讲解员", knowledge=documents)
    cited, *_ = bot.run_events("博物馆周几闭馆？")
    assert isinstance(cited, Cited)
    assert cited.passages[0].source == "hours.txt"
    system, user = model.requests[0].messages
    assert system["content"].startswith("\n\n# 知识库\n\n博物馆周一闭馆")
    assert user["content"] == "(。请查看前面的知识库)博物馆周几闭馆？"

    async def first() -> object:
        return await anext(bot.arun_events("博物馆周几闭馆？"))

    assert asyncio.run(first()) == cited
    "".join(bot.run("博物馆周几闭馆？", ref_doc="别的"))
    assert "别的" in model.requests[-1].messages[0]["content"]
    assert "闭馆" not in model.requests[-1].messages[0]["content"]


def test_embeddings_come_from_any_openai_compatible_server(documents: list[Path]) -> None:
    app, sizes = FastAPI(), list[int]()

    def vector(text: str) -> list[float]:
        return [float("闭馆" in text or "休息" in text), 0.1]

    @app.post("/v1/embeddings")
    async def embeddings(request: Request) -> dict[str, object]:
        texts: Sequence[str] = (await request.json())["input"]
        sizes.append(len(texts))
        data = [{"object": "embedding", "index": n, "embedding": vector(text)} for n, text in enumerate(texts)]
        return {"object": "list", "data": data[::-1], "model": "e", "usage": {"prompt_tokens": 0, "total_tokens": 0}}

    with serve(app) as url:
        knowledge = Knowledge(documents, Embedder({"model": "e", "api_base": f"{url}/v1", "api_key": "sk-x"}))
        best, *_ = knowledge.search("哪天休息")
        assert best.source == "hours.txt"
        knowledge.search("哪天休息")
    assert max(sizes) <= 10
    assert sum(sizes) == len(knowledge.passages) + 2
    with pytest.raises(ServerError, match="no model server"):
        Embedder({"model": "e", "api_base": "http://127.0.0.1:9/v1"})(["a"])
