"""The before/after report of visits: terminal, JSON and one self-contained HTML page."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from toolweave.evals.cases import HELD_OUT_LINES, Line
from toolweave.evals.score import CLASSES, Counts, VisitResult, count
from toolweave.evals.stats import wilson
from toolweave.types import Lang

_EXAMPLES = 8


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same visits by the base and by the tuned model, and what the run cost."""

    base: Sequence[VisitResult]
    tuned: Sequence[VisitResult]
    seconds: float
    peak_rss_mb: float
    merged_model: str
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    loss_plot: Path | None = None

    def models(self) -> dict[str, Sequence[VisitResult]]:
        """Return the results by model."""
        return {"base": self.base, "tuned": self.tuned}

    def to_json(self) -> dict[str, Any]:
        """Return the report: counts by model and line, and the same by language."""
        return {
            **{model: _lines(results) for model, results in self.models().items()},
            "by_language": {
                model: {lang: _lines([r for r in results if r.lang == lang]) for lang in Lang}
                for model, results in self.models().items()
            },
            "seconds": round(self.seconds, 1),
            "stage_seconds": {name: round(value, 1) for name, value in self.stage_seconds.items()},
            "peak_rss_mb": round(self.peak_rss_mb),
            "merged_model": self.merged_model,
        }


def write_report(comparison: Comparison, output: Path) -> None:
    """Write `report.json` and `report.html` into `output`."""
    content = json.dumps(comparison.to_json(), indent=2, ensure_ascii=False)
    (output / "report.json").write_text(content + "\n", "utf-8")
    (output / "report.html").write_text(_html(comparison), "utf-8")


def print_visits(results: Sequence[VisitResult], console: Console) -> None:
    """Print the table of one model's visits."""
    table = Table(title="visits right (95 % interval)", title_justify="left")
    for heading in ("visits", "lang", "right", *CLASSES):
        table.add_column(heading)
    for lang in Lang:
        for line, counts in count(r for r in results if r.lang == lang).items():
            if counts.n:
                table.add_row(line, lang, _rate(counts), *(f"{getattr(counts, name)}/{counts.n}" for name in CLASSES))
    console.print(table)


def print_report(comparison: Comparison, console: Console) -> None:
    """Print the before/after table: right visits with Wilson 95 % intervals, and the four classes."""
    table = Table(title="visits right, before → after (95 % interval)", title_justify="left")
    for heading in ("visits", "lang", "n", "base", "tuned", *CLASSES):
        table.add_column(heading, justify="left" if heading in ("visits", "lang") else "right")
    for line, lang, base, tuned in _rows(comparison):
        shares = [f"{getattr(tuned, name)}/{tuned.n}" for name in CLASSES]
        table.add_row(line, lang, str(tuned.n), _rate(base), _rate(tuned), *shares)
    console.print(table)


def _lines(results: Sequence[VisitResult]) -> dict[str, dict[str, int]]:
    counts = count(results)
    return {line.value: counts[line].to_json() for line in Line if line in HELD_OUT_LINES or counts[line].n}


def _rows(comparison: Comparison) -> list[tuple[str, str, Counts, Counts]]:
    rows = []
    for line in Line:
        for lang in Lang:
            base, tuned = (
                count(r for r in results if r.lang == lang)[line] for results in comparison.models().values()
            )
            if tuned.n:
                rows.append((line.value, lang.value, base, tuned))
    return rows


def _rate(counts: Counts) -> str:
    low, high = wilson(counts.ok, counts.n)
    return f"{counts.ok}/{counts.n} ({low:.0%}–{high:.0%})"


def _html(comparison: Comparison) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("visits", "lang", "n", "base", "tuned", *CLASSES))
    body = ""
    for line, lang, base, tuned in _rows(comparison):
        cells = [line, lang, str(tuned.n), _rate(base), _rate(tuned)]
        cells += [f"{getattr(tuned, name)}/{tuned.n}" for name in CLASSES]
        body += "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
    plots = f'<img alt="visits right" src="{_png(_bars(comparison))}">'
    if comparison.loss_plot and comparison.loss_plot.is_file():
        plots += f'<img alt="training loss" src="{_data_url(comparison.loss_plot.read_bytes())}">'
    return _PAGE.format(
        head=head,
        body=body,
        plots=plots,
        cost=f"{comparison.seconds / 60:.1f} min, peak memory {comparison.peak_rss_mb / 1024:.1f} GiB",
        model=html.escape(comparison.merged_model),
        visits="".join(_example(base, tuned) for base, tuned in _examples(comparison)),
    )


def _examples(comparison: Comparison) -> list[tuple[VisitResult, VisitResult]]:
    """Choose pairs of one visit: two failures of the tuned model first, then one of each line and language."""
    pairs = list(zip(comparison.base, comparison.tuned, strict=True))
    failed = [pair for pair in pairs if not pair[1].ok][:2]
    seen: set[tuple[Line, Lang]] = set()
    fixed = []
    for pair in pairs:
        key = (pair[1].line, pair[1].lang)
        if pair[1].ok and key not in seen:
            seen.add(key)
            fixed.append(pair)
    return [*fixed[:_EXAMPLES], *failed]


def _example(base: VisitResult, tuned: VisitResult) -> str:
    def side(name: str, result: VisitResult) -> str:
        mark = "✓" if result.ok else "✗ " + ", ".join(c for c in CLASSES if not getattr(result, c))
        return f"<div><b>{name} {mark}</b><pre>{html.escape(result.transcript)}</pre></div>"

    title = html.escape(f"{tuned.line} · {tuned.query}")
    return f"<h3>{title}</h3><div class=pair>{side('base', base)}{side('tuned', tuned)}</div>"


def _bars(comparison: Comparison) -> Figure:
    rows = _rows(comparison)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    drawn = {"base": ([base for _, _, base, _ in rows], "#bab0ac"), "tuned": ([row[3] for row in rows], "#4c78a8")}
    for offset, (model, (counts, colour)) in enumerate(drawn.items()):
        rates = [c.ok / c.n for c in counts]
        bounds = [wilson(c.ok, c.n) for c in counts]
        spread = [[max(0.0, r - low) for r, (low, _) in zip(rates, bounds, strict=True)],
                  [max(0.0, high - r) for r, (_, high) in zip(rates, bounds, strict=True)]]  # fmt: skip
        places = [i + 0.4 * offset - 0.2 for i in range(len(rows))]
        axes.bar(places, rates, 0.4, yerr=spread, label=model, color=colour, capsize=2, ecolor="#555")
    axes.set_xticks(range(len(rows)), [f"{line}\n{lang}" for line, lang, _, _ in rows], fontsize=7)
    axes.set(ylim=(0, 1.05), ylabel="visits right")
    axes.legend(loc="upper left", fontsize=8)
    return figure


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return _data_url(buffer.getvalue())


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


_PAGE = """<!doctype html><html lang=en><meta charset=utf-8><title>toolweave: visits before and after</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#222}}
table{{border-collapse:collapse}}td,th{{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:right}}
td:first-child,th:first-child,td:nth-child(2),th:nth-child(2){{text-align:left}}img{{max-width:100%;margin:1rem 0}}
.pair{{display:grid;grid-template-columns:1fr 1fr;gap:1rem}}
pre{{white-space:pre-wrap;word-break:break-word;background:#f6f6f4;padding:.7rem;border-radius:6px;
max-height:24rem;overflow:auto}}</style>
<h1>Visits, before and after</h1>
<p>A visit is one user query through RolePlay over HTTP with recorded tool results. It is right when a tool is called
if and only if one is needed (<b>called</b>), name and arguments are right (<b>right</b>), the answer carries the facts
of the observation and invents none (<b>faithful</b>), and it stops by itself without repeating a call
(<b>stopped</b>).
The class columns are the tuned model's. Intervals: Wilson, 95 %. None of the phrasings or values was trained on; the
agents of <i>unseen_tools</i> were not either.</p>
<table><tr>{head}</tr>{body}</table><p>{cost}. Merged model: <code>{model}</code></p>{plots}
<h2>Whole visits</h2>{visits}</html>
"""
