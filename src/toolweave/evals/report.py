"""The before/after report of visits: terminal, JSON and one self-contained HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console

from toolweave.evals.cases import HELD_OUT_LINES, Line
from toolweave.evals.html import bars, compared, image, page, table
from toolweave.evals.outputs import visits_table
from toolweave.evals.score import CLASSES, Counts, VisitResult, count
from toolweave.evals.summary import lines_and_languages, rate, shares, total
from toolweave.types import Lang

_EXAMPLES = 8


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same visits by the base and by the tuned model, and what the run cost.

    `starter` is by the model that fine-tuning went on from, where that was not the base.
    """

    base: Sequence[VisitResult]
    tuned: Sequence[VisitResult]
    seconds: float
    peak_rss_mb: float
    merged_model: str
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    loss_plot: Path | None = None
    starter: Sequence[VisitResult] = ()

    def models(self) -> dict[str, Sequence[VisitResult]]:
        """Return the results by model, the tuned one last."""
        return {"base": self.base, **({"starter": self.starter} if self.starter else {}), "tuned": self.tuned}

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


def print_report(comparison: Comparison, console: Console) -> None:
    """Print the before/after table: right visits with Wilson 95 % intervals, and the tuned model's four classes."""
    shown = visits_table(
        "visits right (95 % interval), and the tuned model's four classes", _headings(comparison), Lang.EN
    )
    for cells in _cells(comparison):
        shown.add_row(*cells)
    console.print(shown)


def _lines(results: Sequence[VisitResult]) -> dict[str, dict[str, int]]:
    counts = count(results)
    return {line.value: counts[line].to_json() for line in Line if line in HELD_OUT_LINES or counts[line].n}


def _headings(comparison: Comparison) -> Sequence[str]:
    return ("visits", *comparison.models(), *CLASSES)


def _counts(comparison: Comparison) -> dict[str, dict[str, Counts]]:
    """Return the counts of each model by row: a line in one language, and last all visits."""
    return {
        model: {
            **{f"{line} {lang}": counts for line, lang, counts in lines_and_languages(results)},
            "all": total(results),
        }
        for model, results in comparison.models().items()
    }


def _cells(comparison: Comparison) -> list[list[str]]:
    counts = _counts(comparison)
    return [
        [name, *(rate(rows[name]) for rows in counts.values()), *shares(tuned)]
        for name, tuned in counts["tuned"].items()
    ]


def _html(comparison: Comparison) -> str:
    counts = _counts(comparison)
    body = _INTRODUCTION + table(_headings(comparison), _cells(comparison), Lang.EN)
    body += f"<p>{comparison.seconds / 60:.1f} min, peak memory {comparison.peak_rss_mb / 1024:.1f} GiB. "
    body += f"Merged model: <code>{escape(comparison.merged_model)}</code></p>"
    body += bars(list(counts["tuned"]), {model: list(rows.values()) for model, rows in counts.items()})
    if comparison.loss_plot and comparison.loss_plot.is_file():
        body += image("training loss", comparison.loss_plot.read_bytes())
    body += "<h2>Whole visits</h2>" + "".join(compared(base, tuned, Lang.EN) for base, tuned in _examples(comparison))
    return page("Visits, before and after", body, Lang.EN)


def _examples(comparison: Comparison) -> list[tuple[VisitResult, VisitResult]]:
    """Choose pairs of one visit: right ones of the tuned model, one a line and language, then two failures."""
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


_INTRODUCTION = """<p>A visit is one user query through RolePlay over HTTP with recorded tool results. It is right when
a tool is called if and only if one is needed (<b>called</b>), name and arguments are right (<b>right</b>), the answer
carries the facts of the observation and invents none (<b>faithful</b>), and it stops by itself without repeating a call
(<b>stopped</b>). The class columns are the tuned model's. A <b>starter</b> is what fine-tuning went on from, where that
was not the base: the embedded model's has learned other agents' tools. Intervals: Wilson, 95 %. None of the phrasings
or values was trained on; the agents of <i>unseen_tools</i> were not either.</p>"""
