"""Self-contained HTML reports: tables, plots, examples and word-by-word differences, in Chinese or English."""

from __future__ import annotations

import base64
import difflib
import io
import re
from collections.abc import Sequence
from html import escape

from matplotlib.figure import Figure

from toolweave.evals.gate import GateResult
from toolweave.evals.replay import Outcome, Replayed, count_outcomes, shown
from toolweave.evals.score import CLASSES, Counts, VisitResult
from toolweave.evals.stats import wilson
from toolweave.evals.steps import StepMetrics, figures
from toolweave.evals.summary import cost, failures, grouped, lines_and_languages, pass_rates, rate, shares, total
from toolweave.evals.words import say
from toolweave.types import Lang

_EXAMPLES = 3
_PAIRS = 12
_REPLAYED = 40
_TOKENS = re.compile(r"[A-Za-z0-9_.]+|\s+|.", re.DOTALL)


def run_html(results: Sequence[VisitResult], model: str, lang: Lang, steps: StepMetrics | None = None) -> str:
    """Return the report of one model."""
    heads = ["visits", "lang", "right %", *CLASSES]
    rows = [
        [say(line, lang), of.value, rate(counts), *shares(counts)] for line, of, counts in lines_and_languages(results)
    ]
    rows.append([say("all", lang), "", rate(total(results)), *shares(total(results))])
    parts = [f"<p><code>{escape(model)}</code></p>", table(heads, rows, lang)]
    parts.append(bars([f"{line} {of}" for line, of, _ in lines_and_languages(results)],
                       {"right": [counts for _, _, counts in lines_and_languages(results)]}))  # fmt: skip
    for title, keys in (("by agent", lambda r: [r.agent] if r.agent else []), ("by tool", lambda r: r.tools)):
        groups = grouped(results, keys)
        if groups:
            rows = [[name, rate(counts), *shares(counts)] for name, counts in groups.items()]
            parts.append(f"<h2>{say(title, lang)}</h2>" + table(["", "right %", *CLASSES], rows, lang))
    if steps is not None:
        parts.append(f"<p>{say('steps', lang)} {steps.steps}: {figures(steps)}</p>")
    rates = pass_rates(results)
    if len(rates) > 1:
        parts.append("<p>" + " · ".join(f"pass^{k} {value:.1%}" for k, value in rates.items()) + "</p>")
    spent = cost(results)
    costs = {
        "model calls": spent.model_calls,
        "prompt tokens": spent.prompt_tokens,
        "completion tokens": spent.completion_tokens,
        "median seconds": f"{spent.seconds_median:.2f}",
        "p95 seconds": f"{spent.seconds_p95:.2f}",
    }
    parts.append(f"<h2>{say('cost', lang)}</h2><p>")
    parts.append(" · ".join(f"{say(name, lang)} {value}" for name, value in costs.items()) + "</p>")
    parts.append(f"<h2>{say('failures', lang)}</h2>")
    for name, failed in failures(results).items():
        parts.append(
            f"<h3>{escape(say(name, lang))} ({len(failed)})</h3>" + "".join(_visit(r, lang) for r in failed[:_EXAMPLES])
        )
    return page(say("evaluation", lang), "".join(parts), lang)


def gate_html(result: GateResult, pairs: Sequence[tuple[VisitResult, VisitResult]], lang: Lang) -> str:
    """Return the report of a comparison: verdict, rules, lines, and the visits on which the models differ."""
    verdict = f"<p class={result.verdict}><b>{say('verdict', lang)}: {say(result.verdict, lang)}</b></p>"
    rules = [[say(r.rule.name, lang), say(r.verdict, lang), r.reason.to(lang)] for r in result.rulings]
    heads = ["visits", "base", "tuned", "difference", "interval", "gained", "lost", "p"]
    rows = [
        [
            say(name, lang), f"{p.base}/{p.n}", f"{p.tuned}/{p.n}", f"{100 * p.difference:+.1f}",
            f"{100 * p.interval.low:+.1f} … {100 * p.interval.high:+.1f}", str(p.gained), str(p.lost), f"{p.p:.2g}",
        ]
        for name, p in result.lines.items()
    ]  # fmt: skip
    counts = {
        "base": [Counts(n=p.n, ok=p.base) for p in result.lines.values()],
        "tuned": [Counts(n=p.n, ok=p.tuned) for p in result.lines.values()],
    }
    lost = [pair for pair in pairs if pair[0].ok and not pair[1].ok]
    gained = [pair for pair in pairs if pair[1].ok and not pair[0].ok]
    still = [pair for pair in pairs if not pair[0].ok and not pair[1].ok]
    shown = [("lost", lost[:_PAIRS]), ("gained", gained[: _PAIRS // 2]), ("failures", still[: _PAIRS // 2])]
    visits = "".join(
        f"<h2>{say(title, lang)}</h2>" + "".join(compared(*pair, lang) for pair in chosen)
        for title, chosen in shown
        if chosen
    )
    body = verdict + table(["rule", "verdict", "reason"], rules, lang)
    body += f"<h2>{say('visits compared', lang)}</h2>{table(heads, rows, lang)}"
    return page(say("gate", lang), body + bars(list(result.lines), counts) + visits, lang)


def replay_html(replayed: Sequence[Replayed], model: str, lang: Lang) -> str:
    """Return the report of a replay: counts, and the replies that differ, failures first."""
    counts = count_outcomes(replayed)
    rows = [[say(outcome, lang), str(count)] for outcome, count in counts.items()]
    order = [Outcome.FAILED, Outcome.MENDED, Outcome.CHANGED]
    parts = [f"<p><code>{escape(model)}</code></p>", table(["outcome", "replies"], rows, lang)]
    for outcome in order:
        chosen = [item for item in replayed if item.outcome is outcome][:_REPLAYED]
        parts.append(f"<h2>{escape(say(outcome, lang))}</h2>" if chosen else "")
        for item in chosen:
            reasons = "".join(f"<p>{escape(f'{reason.rule}: {reason.why}')}</p>" for reason in item.why)
            title = f"<h4>{escape(item.old.id)} · {escape(item.old.query)}</h4>"
            parts.append(f"{title}{reasons}<pre>{difference(shown(item.old), shown(item.new))}</pre>")
    return page(say("replay", lang), "".join(parts), lang)


def difference(old: str, new: str) -> str:
    """Return HTML of `new` with what is not in `old` marked as inserted, and what is gone as deleted."""
    a, b = _TOKENS.findall(old), _TOKENS.findall(new)
    out = []
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        gone, come = escape("".join(a[i1:i2])), escape("".join(b[j1:j2]))
        out.append(
            come if tag == "equal" else (f"<del>{gone}</del>" if gone else "") + (f"<ins>{come}</ins>" if come else "")
        )
    return "".join(out)


def _visit(result: VisitResult, lang: Lang) -> str:
    reference = f"<p>{say('expected', lang)}: {escape(result.reference)}</p>"
    return f"<h4>{escape(result.id)} · {escape(result.query)}</h4><pre>{escape(result.transcript)}</pre>{reference}"


def compared(base: VisitResult, tuned: VisitResult, lang: Lang) -> str:
    """Return one visit by both models, side by side, and what the tuned one's answer has other than the expected."""

    def side(name: str, result: VisitResult) -> str:
        mark = "✓" if result.ok else "✗ " + ", ".join(say(name, lang) for name in result.failures)
        return f"<div><b>{say(name, lang)} {escape(mark)}</b><pre>{escape(result.transcript)}</pre></div>"

    title = f"{say(tuned.line, lang)} · {tuned.query}"
    changed = f"<p>{say('expected', lang)} → {say('tuned', lang)}: {difference(tuned.reference, tuned.answer)}</p>"
    return f"<h4>{escape(title)}</h4><div class=pair>{side('base', base)}{side('tuned', tuned)}</div>{changed}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], lang: Lang) -> str:
    """Return a table of texts."""
    head = "".join(f"<th>{escape(say(name, lang))}</th>" for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def bars(names: Sequence[str], series: dict[str, list[Counts]]) -> str:
    """Return a bar plot as an image. Its words stay English: plots have no Chinese font to rely on."""
    if not names:
        return ""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(series)
    colours = ("#bab0ac", "#9ecae9", "#4c78a8") if len(series) > 2 else ("#bab0ac", "#4c78a8")[-len(series) :]
    for number, (label, counts) in enumerate(series.items()):
        rates = [c.ok / c.n if c.n else 0.0 for c in counts]
        bounds = [wilson(c.ok, c.n) for c in counts]
        below = [max(0.0, r - b.low) for r, b in zip(rates, bounds, strict=True)]
        above = [max(0.0, b.high - r) for r, b in zip(rates, bounds, strict=True)]
        places = [i + (number - (len(series) - 1) / 2) * width for i in range(len(names))]
        axes.bar(places, rates, width, yerr=[below, above], label=label, color=colours[number], capsize=2)
    # A word a line, else neighbours overlap.
    axes.set_xticks(range(len(names)), [re.sub("[_ ]", "\n", name) for name in names], fontsize=7)
    axes.set(ylim=(0, 1.05), ylabel="right")
    axes.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return image("plot", buffer.getvalue())


def image(alt: str, png: bytes) -> str:
    """Return a picture that is part of the page."""
    return f'<img alt="{alt}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def page(title: str, body: str, lang: Lang) -> str:
    """Return a whole page that needs nothing else."""
    code = "zh-CN" if lang is Lang.ZH else "en"
    head = f"<!doctype html><html lang={code}><meta charset=utf-8><title>{title}</title>{_STYLE}"
    return f"{head}<h1>{title}</h1>{body}</html>\n"


_STYLE = """<style>body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;display:block;overflow-x:auto}td,th{padding:.25rem .7rem;border-bottom:1px solid #ddd;
text-align:left}img{max-width:100%;margin:1rem 0}.pair{display:grid;grid-template-columns:1fr 1fr;gap:1rem}
pre{white-space:pre-wrap;word-break:break-word;background:#f6f6f4;padding:.7rem;border-radius:6px;max-height:24rem;
overflow:auto}ins{background:#d9f2dc;text-decoration:none}del{background:#f8d7da}.pass{color:#176b2c}.fail{color:#a3121f}
.undecided{color:#8a6100}@media(max-width:600px){.pair{grid-template-columns:1fr}}
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}pre{background:#242424}td,th{border-color:#444}
ins{background:#17401f}del{background:#4d1a20}}</style>"""
