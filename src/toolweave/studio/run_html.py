"""Training runs as HTML: how far one is, what it was made from, the mix before it starts, sample visits."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from toolweave.evals.score import VisitResult
from toolweave.studio.mix import Mix
from toolweave.studio.runs import Run, RunStatus
from toolweave.traces.trace import Verdict

Text = Callable[..., str]
_MARKS = {RunStatus.RUNNING: "●", RunStatus.FINISHED: "✓", RunStatus.STOPPED: "■", RunStatus.FAILED: "✗"}
_SHOWN = 12


def run_label(run: Run, text: Text) -> str:
    """Return the two lines of a run in the list, as plain text."""
    facts = [text(f"train.status_{run.status}")]
    if run.step:
        facts.append(f"{run.step}/{run.total or '?'}")
    if run.loss is not None:
        facts.append(f"{text('train.loss')} {run.loss:.3f}")
    if traces := len(run.lineage.traces):
        facts.append(text("train.lineage_traces", count=traces))
    return f"{_MARKS[run.status]} {run.name}\n{' · '.join(facts)}"


def progress_html(run: Run, text: Text) -> str:
    """Return how far a run is."""
    share = 100 * run.step / run.total if run.total else 0
    chip = f'<span class="badge {run.status}">{_MARKS[run.status]} {text(f"train.status_{run.status}")}</span>'
    head = f'<div class="visit-head">{chip} <b>{escape(run.name)}</b></div>'
    bar = (
        f'<div class="bar" role="progressbar" aria-label="{text("train.step")}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{share:.0f}"><div style="width:{share:.1f}%"></div></div>'
    )
    facts = {"train.step": f"{run.step} / {run.total}" if run.total else ""}
    facts["train.loss"] = _number(run.loss)
    facts["train.eval_loss"] = _number(run.eval_loss)
    visits = next((entry["eval_visits"] for entry in reversed(run.log) if "eval_visits" in entry), None)
    facts["train.visits_right"] = f"{visits:.0%}" if visits is not None else ""
    facts["train.speed"] = f"{run.speed:,.0f}" if run.speed else ""
    facts["train.left"] = _minutes(run.seconds_left, text) if run.seconds_left is not None else ""
    facts["train.checkpoints"] = ", ".join(map(str, run.checkpoint_steps[-4:]))
    cells = "".join(f"<div><dt>{text(key)}</dt><dd>{value}</dd></div>" for key, value in facts.items() if value)
    wait = f'<p class="notice">{text("train.preparing")}</p>' if run.status is RunStatus.RUNNING and not run.log else ""
    failed = f'<p class="notice fail">{escape(run.message)}</p>' if run.message else ""
    return f'<div class="run">{head}{bar}<dl class="facts">{cells}</dl>{wait}{failed}</div>'


def lineage_html(run: Run, text: Text) -> str:
    """Return which data sets and traces made a model."""
    items = []
    for dataset in run.lineage.datasets:
        facts = [f"{dataset.rows} {text('train.rows')}"] if dataset.rows else []
        if dataset.traces:
            facts.append(text("train.lineage_traces", count=len(dataset.traces)))
            named = {verdict.value: text(f"traces.{verdict}") for verdict in Verdict}
            facts += [f"{named.get(verdict, verdict)} {count}" for verdict, count in dataset.verdicts.items()]
            facts += [f"{agent} {count}" for agent, count in dataset.agents.items()]
        facts += [f"sha256 {dataset.sha256[:12]}"] if dataset.sha256 else []
        ids = ", ".join(f"<code>{escape(trace)}</code>" for trace in dataset.traces)
        traces = f"<details><summary>{text('train.lineage_traces', count=len(dataset.traces))}</summary>{ids}</details>"
        told = escape(" · ".join(facts))
        name = escape(Path(dataset.source).name)
        items.append(f"<li><b>{name}</b> <span class='muted'>{told}</span>{traces if dataset.traces else ''}</li>")
    base = f"<li>{text('train.base')}: <b>{escape(Path(str(run.recipe.get('model'))).name)}</b></li>"
    none = "" if items else f"<li>{text('train.lineage_none')}</li>"
    return f'<ul class="lineage">{base}{"".join(items)}{none}</ul>'


def mix_html(mix: Mix, text: Text) -> str:
    """Return the mix as a bar, and the check report as a table."""
    parts = (("own", mix.own), ("general", mix.general), ("itself", mix.about_itself))
    whole = max(mix.training, 1)
    bar = "".join(f'<span class="{name}" style="flex:{count}"></span>' for name, count in parts if count)
    legend = " ".join(
        f'<span class="{name} key">{text(f"train.mix_{name}")} {count} ({count / whole:.0%})</span>'
        for name, count in parts
        if count
    )
    total = [text("train.mix_total", count=mix.training), text("train.mix_validation", count=mix.validation)]
    tokens = mix.report.tokens
    if tokens:
        total.append(text("train.mix_tokens", median=round(statistics.median(tokens)), longest=max(tokens)))
    heads = "".join(f"<th>{text(f'train.{key}')}</th>" for key in ("source", "rows", "samples", "problems"))
    rows = "".join(
        f"<tr><td>{escape(Path(each.name).name)}</td><td>{each.load.rows}</td><td>{each.load.samples}</td>"
        f"<td>{len(each.problems) or '✓'}</td></tr>"
        for each in mix.report.sources
    )
    problems = "".join(
        f"<li>{escape(text('train.line', file=Path(p.file).name, line=p.line, reason=p.reason))}</li>"
        for p in mix.report.problems[:_SHOWN]
    )
    found = f"<ul>{problems}</ul>" if problems else f"<p class='muted'>{text('train.no_problems')}</p>"
    return (
        f'<div class="mix"><div class="mix-bar">{bar}</div><p>{legend}</p><p><b>{escape(total[0])}</b> · '
        f"{escape(' · '.join(total[1:]))}</p><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        f"{found}</div>"
    )


def samples_html(results: Sequence[VisitResult], text: Text) -> str:
    """Return sample visits: what was asked, what happened, what was expected."""
    right = sum(result.ok for result in results)
    items = "".join(
        f"<details><summary>{'✓' if each.ok else '✗'} {escape(each.query)}</summary>"
        f"<pre>{escape(each.transcript)}</pre>"
        f"<p class='muted'>→ {escape(each.reference)}</p></details>"
        for each in results
    )
    return f'<div class="samples"><p>{text("train.sampled", right=right, all=len(results))}</p>{items}</div>'


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _minutes(seconds: float, text: Text) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return text("train.minutes", minutes=minutes, seconds=rest)
