"""Reading documents into passages with their sources."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from toolweave.errors import DataError

_SIZE = 500  # characters of a passage: a few fit into KNOWLEDGE_LIMIT
_MAX_BYTES = 50_000_000
_MAX_TEXT = 10_000_000  # a small archive can unpack to anything
_INSTALL = "pip install 'toolweave[knowledge]'"
_HEADING = re.compile(r"^#{1,6}[ \t]+(?P<title>.+?)[ \t#]*$", re.MULTILINE)
# Where a passage may end, the best place last.
_SENTENCE = re.compile(r"(?<=[。！？；!?])|(?<=\. )|(?<=\n)")


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document; `source` names the document and the place in it."""

    text: str
    source: str


class _Section(NamedTuple):
    """A part of a document with a place of its own: a page, a chapter, a row."""

    where: str
    text: str


def read_document(path: str | Path) -> list[Passage]:
    """Return the passages of a txt, md, pdf, docx, csv, json, jsonl or html file, in order.

    Raises DataError for another kind of file, and for one that is missing, too large or broken.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path.name} is no document that can be read", f"give one of {', '.join(sorted(_READERS))}")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path.name} is larger than {_MAX_BYTES:,} bytes", "split it")
        sections = list(_limited(reader(path.read_bytes()), path.name))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", "check the path") from None
    except ModuleNotFoundError as error:
        raise DataError(f"{path.suffix} files need {error.name}", _INSTALL) from None
    except (DataError, MemoryError):
        raise
    except Exception as error:  # PDF and DOCX readers raise whatever a broken file makes them stumble over.
        raise DataError(
            f"{path.name} cannot be read: {error}", "open and save it again, or export it as text"
        ) from error
    return [
        Passage(piece, f"{path.name}, {section.where}" if section.where else path.name)
        for section in sections
        for piece in _pieces(section.text)
    ]


def _limited(sections: Iterable[_Section], name: str) -> Iterator[_Section]:
    size = 0
    for section in sections:
        size += len(section.text)
        if size > _MAX_TEXT:
            raise DataError(f"{name} holds more than {_MAX_TEXT:,} characters", "split it")
        yield section


def _pieces(text: str) -> Iterator[str]:
    """Cut a text where sentences end, into pieces of about `_SIZE` characters."""
    piece = ""
    for sentence in _SENTENCE.split(text):
        if piece and len(piece) + len(sentence) > _SIZE:
            yield from _stripped(piece)
            piece = ""
        piece += sentence
        while len(piece) > 2 * _SIZE:  # a sentence that never ends
            yield from _stripped(piece[:_SIZE])
            piece = piece[_SIZE:]
    yield from _stripped(piece)


def _stripped(piece: str) -> Iterator[str]:
    if text := piece.strip():
        yield text


def _decode(data: bytes) -> str:
    """Return the text of a file; Chinese Windows still writes GB18030."""
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("utf-8", errors="replace")


def _read_text(data: bytes) -> Iterator[_Section]:
    yield _Section("", _decode(data))


def _read_markdown(data: bytes) -> Iterator[_Section]:
    text = _decode(data)
    headings = list(_HEADING.finditer(text))
    starts = [0, *(heading.start() for heading in headings)]
    titles = ["", *(heading["title"] for heading in headings)]
    for title, start, end in zip(titles, starts, [*starts[1:], len(text)], strict=True):
        yield _Section(title, text[start:end])


def _read_pdf(data: bytes) -> Iterator[_Section]:
    from pypdf import PdfReader

    for number, page in enumerate(PdfReader(io.BytesIO(data)).pages, start=1):
        yield _Section(f"p. {number}", page.extract_text())


def _read_docx(data: bytes) -> Iterator[_Section]:
    from docx import Document
    from docx.table import Table

    where, lines = "", list[str]()
    for block in Document(io.BytesIO(data)).iter_inner_content():
        if isinstance(block, Table):
            lines += [" | ".join(cell.text for cell in row.cells) for row in block.rows]
            continue
        if block.style is not None and (block.style.name or "").startswith(("Heading", "Title")):
            yield _Section(where, "\n".join(lines))
            where, lines = block.text, []
        lines.append(block.text)
    yield _Section(where, "\n".join(lines))


def _read_csv(data: bytes) -> Iterator[_Section]:
    for number, row in enumerate(csv.DictReader(io.StringIO(_decode(data), newline="")), start=2):
        yield _Section(f"row {number}", "\n".join(f"{name}: {value}" for name, value in row.items() if name and value))


def _read_json(data: bytes) -> Iterator[_Section]:
    content = json.loads(_decode(data))
    if isinstance(content, list):
        for number, item in enumerate(content, start=1):
            yield _Section(f"item {number}", _plain(item))
    elif isinstance(content, dict):
        for key, value in content.items():
            yield _Section(key, f"{key}: {_plain(value)}")
    else:
        yield _Section("", _plain(content))


def _read_jsonl(data: bytes) -> Iterator[_Section]:
    for number, line in enumerate(_decode(data).split("\n"), start=1):
        if line.strip():
            yield _Section(f"line {number}", _plain(json.loads(line)))


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _read_html(data: bytes) -> Iterator[_Section]:
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(data, "html.parser")
    for hidden in soup(["script", "style", "template", "noscript"]):
        hidden.decompose()
    yield _Section("", soup.get_text("\n", strip=True))


_READERS: dict[str, Callable[[bytes], Iterator[_Section]]] = {
    ".txt": _read_text,
    ".md": _read_markdown,
    ".pdf": _read_pdf,
    ".docx": _read_docx,
    ".csv": _read_csv,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".html": _read_html,
    ".htm": _read_html,
}
SUFFIXES = tuple(sorted(_READERS))
"""The kinds of files that can be read."""
