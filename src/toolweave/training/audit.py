"""The loss mask, made visible: which tokens of a row are learned, in the terminal and as a page."""

from __future__ import annotations

import html
import random
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from toolweave.models.template import ChatTemplate
from toolweave.training.rows import Row, Rows, row_id

_STYLE = (
    "body{font:14px/1.6 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f6f6f6;padding:1rem;border-radius:6px}"
    "mark{background:#b7e4c7}mark.stop{background:#ffb703}li{margin:.2rem 0}"
    "@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}pre{background:#242424}"
    "mark{background:#2d6a4f;color:#fff}mark.stop{background:#b36b00}}"
)


def choose(rows: Rows, count: int, seed: int) -> list[Row]:
    """Return `count` rows drawn with the seed, in the order of the data."""
    at = random.Random(seed).sample(range(len(rows.kept)), min(count, len(rows.kept)))
    return [rows.kept[index] for index in sorted(at)]


def print_audit(chosen: Sequence[Row], rows: Rows, template: ChatTemplate, console: Console) -> None:
    """Show rows with their labels coloured: green is learned, orange is the stop token."""
    for row in chosen:
        prompt, learned, stop = label_parts(row, template)
        console.rule(f"{row_id(row.sample)} · {len(row.encoded.ids)} tokens · {_labels(row)} labels")
        console.print(Text.assemble((prompt, "dim"), (learned, "bold green"), (stop, "bold reverse yellow")))
    console.rule()
    console.print(rows.summary(), highlight=False)
    rows.show_dropped(console)


def write_audit(chosen: Sequence[Row], rows: Rows, template: ChatTemplate, path: Path) -> None:
    """Write the same as one HTML page without scripts."""
    parts = [f"<p>{html.escape(rows.summary())}</p>"]
    if rows.dropped:
        items = "".join(f"<li>{html.escape(d.id)}: {html.escape(d.reason)}</li>" for d in rows.dropped)
        parts.append(f"<details><summary>{len(rows.dropped)} dropped</summary><ul>{items}</ul></details>")
    for row in chosen:
        prompt, learned, stop = (html.escape(text) for text in label_parts(row, template))
        title = html.escape(row_id(row.sample))
        parts.append(
            f"<h2>{title}</h2><p>{len(row.encoded.ids)} tokens, {_labels(row)} labels</p>"
            f'<pre>{prompt}<mark>{learned}</mark><mark class="stop">{stop}</mark></pre>'
        )
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Loss mask</title><style>{_STYLE}</style>'
    legend = '<h1>Loss mask</h1><p><mark>learned</mark> <mark class="stop">stop token, learned</mark></p>'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + legend + "".join(parts) + "</html>\n", "utf-8")


def label_parts(row: Row, template: ChatTemplate) -> tuple[str, str, str]:
    """Return the text of prompt, labels and stop token, decoded from the very tokens that are trained."""
    ids, at = row.encoded.ids, row.encoded.prompt
    decode = template.tokenizer.decode
    return str(decode(list(ids[:at]))), str(decode(list(ids[at:-1]))), str(decode([ids[-1]]))


def _labels(row: Row) -> int:
    return len(row.encoded.ids) - row.encoded.prompt
