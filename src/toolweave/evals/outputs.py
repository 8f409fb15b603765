"""Results for people and machines: tables in the terminal, JSON, JUnit."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as Xml  # builds, never parses

from rich.console import Console
from rich.table import Table

from toolweave.errors import ToolweaveError
from toolweave.evals.gate import GateResult, Verdict
from toolweave.evals.html import gate_html, run_html
from toolweave.evals.score import CLASSES, VisitResult
from toolweave.evals.steps import StepMetrics, figures
from toolweave.evals.summary import (
    cost,
    failures,
    lines_and_languages,
    pass_rates,
    rate,
    shares,
    summary_json,
    total,
)
from toolweave.evals.words import say
from toolweave.types import Json, Lang

_CONTROL = re.compile(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def print_run(results: Sequence[VisitResult], console: Console, lang: Lang, steps: StepMetrics | None = None) -> None:
    """Print one model's table, its failures, and what the visits cost."""
    table = visits_table(say("evaluation", lang), ("visits", "right %", *CLASSES), lang)
    for line, of, counts in lines_and_languages(results):
        table.add_row(f"{say(line, lang)} {of}", rate(counts), *shares(counts))
    everything = total(results)
    table.add_row(say("all", lang), rate(everything), *shares(everything))
    console.print(table)
    if found := failures(results):
        table = Table(title=say("failures", lang), title_justify="left")
        for heading in ("failure", "visits", "example"):
            table.add_column(say(heading, lang))
        for name, failed in found.items():
            table.add_row(
                say(name, lang), str(len(failed)), f"{failed[0].id}: {failed[0].query[:40]} → {failed[0].answer[:60]!r}"
            )
        console.print(table)
    if len(rates := pass_rates(results)) > 1:
        console.print("  ".join(f"pass^{k} {value:.1%}" for k, value in rates.items()))
    if steps is not None:
        console.print(f"{say('steps', lang)} {steps.steps}: {figures(steps)}", highlight=False)
    spent = cost(results)
    console.print(
        f"{say('model calls', lang)} {spent.model_calls}, {say('prompt tokens', lang)} {spent.prompt_tokens}, "
        f"{say('completion tokens', lang)} {spent.completion_tokens}, {say('median seconds', lang)} "
        f"{spent.seconds_median:.2f}, {say('p95 seconds', lang)} {spent.seconds_p95:.2f}",
        highlight=False,
    )


def visits_table(title: str, headings: Sequence[str], lang: Lang) -> Table:
    """Return a table whose rows of counts fit into the 80 columns of a plain terminal."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(say(heading, lang), overflow="fold", justify="left" if heading == "visits" else "right")
    return table


def print_gate(result: GateResult, console: Console, lang: Lang) -> None:
    """Print the paired comparison, the rules with their reasons, and the verdict."""
    headings = ("visits", "base", "tuned", "difference", "interval", "gained", "lost", "p")
    table = visits_table(say("visits compared", lang), headings, lang)
    for name, pair in result.lines.items():
        low, high = pair.interval
        table.add_row(
            say(name, lang), f"{pair.base}/{pair.n}", f"{pair.tuned}/{pair.n}", f"{100 * pair.difference:+.1f}",
            f"{100 * low:+.1f} … {100 * high:+.1f}", str(pair.gained), str(pair.lost), f"{pair.p:.2g}",
        )  # fmt: skip
    console.print(table)
    colours = {Verdict.PASS: "green", Verdict.FAIL: "red", Verdict.UNDECIDED: "yellow", Verdict.SKIPPED: "dim"}
    for ruling in result.rulings:
        verdict = f"[{colours[ruling.verdict]}]{say(ruling.verdict, lang)}[/]"
        console.print(f"{verdict}  {say(ruling.rule.name, lang)}: {ruling.reason.to(lang)}", highlight=False)
    colour = colours[result.verdict]
    console.print(f"[bold]{say('verdict', lang)}: [{colour}]{say(result.verdict, lang)}[/][/]")


def reports_beside(output: Path) -> Path:
    """Return the folder for the reports on a file of results: its name without the ending. The folder above it is made.

    Raises ToolweaveError if there is no ending to tell them apart.
    """
    folder = output.with_suffix("")
    if folder == output:
        raise ToolweaveError(f"{output} needs an ending: its reports go into a folder of that name", f"{output}.jsonl")
    output.parent.mkdir(parents=True, exist_ok=True)
    return folder


def write_run(
    results: Sequence[VisitResult],
    model: str,
    folder: Path,
    lang: Lang,
    steps: StepMetrics | None = None,
    extra: Json | None = None,
) -> None:
    """Write `summary.json`, `junit.xml` and `report.html` of one model into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"model": model, **summary_json(results), **(extra or {})}
    if steps is not None:
        content["steps"] = steps.to_json()
    _write(folder / "summary.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    _write(folder / "junit.xml", junit_visits(results))
    _write(folder / "report.html", run_html(results, model, lang, steps))


def write_gate(result: GateResult, pairs: Sequence[tuple[VisitResult, VisitResult]], folder: Path, lang: Lang) -> None:
    """Write `gate.json`, `junit.xml` and `report.html` of a comparison into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "gate.json", json.dumps(result.to_json(), indent=2, ensure_ascii=False) + "\n")
    _write(folder / "junit.xml", junit_gate(result))
    _write(folder / "report.html", gate_html(result, pairs, lang))


def junit_visits(results: Sequence[VisitResult]) -> str:
    """Return JUnit XML with a test case for each visit."""
    failed = sum(not result.ok for result in results)
    suite = Xml.Element("testsuite", name="toolweave visits", tests=str(len(results)), failures=str(failed))
    for result in results:
        name = f"{result.id} {result.query[:60]}" + (f" #{result.trial}" if result.trial else "")
        where = f"visits.{result.line}.{result.lang}"
        case = Xml.SubElement(suite, "testcase", name=_legal(name), classname=where, time=f"{result.seconds:.3f}")
        if not result.ok:
            failure = Xml.SubElement(case, "failure", message=", ".join(result.failures))
            failure.text = _legal(f"{result.transcript}\n\nreference: {result.reference}")
    return _xml(suite)


def junit_gate(result: GateResult) -> str:
    """Return JUnit XML with a test case for each rule; an undecided rule is an error."""
    verdicts = [ruling.verdict for ruling in result.rulings]
    counts = {"failures": Verdict.FAIL, "errors": Verdict.UNDECIDED, "skipped": Verdict.SKIPPED}
    suite = Xml.Element("testsuite", name="toolweave gate", tests=str(len(verdicts)))
    for name, verdict in counts.items():
        suite.set(name, str(verdicts.count(verdict)))
    tags = {Verdict.FAIL: "failure", Verdict.UNDECIDED: "error", Verdict.SKIPPED: "skipped"}
    for ruling in result.rulings:
        case = Xml.SubElement(suite, "testcase", name=_legal(ruling.rule.name), classname="gate")
        if tag := tags.get(ruling.verdict):
            Xml.SubElement(case, tag, message=_legal(ruling.reason.en))
    return _xml(suite)


def _legal(text: str) -> str:
    """Take out what XML cannot hold."""
    return _CONTROL.sub("\ufffd", text)


def _xml(suite: Xml.Element) -> str:
    return '<?xml version="1.0" encoding="utf-8"?>\n' + Xml.tostring(suite, encoding="unicode") + "\n"


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_text(text, "utf-8", errors="replace")
    draft.replace(path)
