"""Visits as HTML: the timeline and the exact request.

All of it was written by users, tools and models: every text is escaped here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from toolweave.evals.html import difference
from toolweave.tools.simulate import LABEL
from toolweave.traces.cases import Case, cases
from toolweave.traces.curate import reasons
from toolweave.traces.rows import ANY_RULE
from toolweave.traces.trace import Counts, FeedbackKind, Flag, Trace, Verdict, Visit
from toolweave.types import Lang

Text = Callable[..., str]
"""Looks up a string of the interface: `Studio.text`."""
_MARKS = {Verdict.UNREVIEWED: "○", Verdict.ACCEPTED: "✓", Verdict.REJECTED: "✗", Verdict.CORRECTED: "✎"}


def rule_name(rule: str, text: Text) -> str:
    """Return the name of a flagging rule."""
    if rule == ANY_RULE:
        return text("traces.flagged")
    try:
        return text(f"traces.rule_{rule}")
    except KeyError:
        return rule


def left_out_name(why: str, text: Text) -> str:
    """Return why an export left traces out; what is wrong with a single one is told as it is."""
    try:
        return text(f"traces.left_{why.replace(' ', '_')}")
    except KeyError:
        return why


def list_label(trace: Trace, text: Text) -> str:
    """Return the two lines of a reply in the list, as plain text: verdict and query, then time, step and flags."""
    flags = "".join(f" · ⚑ {rule_name(flag.rule, text)}" for flag in trace.flags)
    at = datetime.fromtimestamp(trace.exchange.started).strftime("%m-%d %H:%M")
    query = " ".join(trace.query.split()) or "…"
    doing = " ".join(trace.reply.text.split()) or "…"
    return f"{_MARKS[trace.review.verdict]} {query[:60]}\n{at} · {doing[:24]}{flags}"


def counts_html(counts: Counts, text: Text) -> str:
    """Return how many replies there are by verdict, and how many are ready to train."""
    of = counts.by_verdict
    ready = of.get(Verdict.ACCEPTED, 0) + of.get(Verdict.CORRECTED, 0)
    chips = "".join(
        f'<span class="badge {verdict}">{_MARKS[verdict]} {of.get(verdict, 0)} {text(f"traces.{verdict}")}</span>'
        for verdict in Verdict
    )
    total = escape(text("traces.counts", visits=counts.visits, traces=counts.traces))
    return (
        f'<div class="trace-counts"><b class="ready">{ready}</b> {text("traces.ready")} <span class="muted">{total}'
        f"</span> {chips}</div>"
    )


def visit_html(visit: Visit, current: str, text: Text, lang: Lang) -> str:
    """Return the timeline of a visit; the reply `current` is marked. Why one was flagged is told in `lang`."""
    parts = [f'<div class="visit-head"><b>{escape(visit.agent)}</b> <code>{escape(visit.id)}</code></div>']
    turn = -1
    for case in cases(visit):
        if case.trace.turn != turn:
            turn = case.trace.turn
            asked = f"<b>{text('traces.turn', number=turn + 1)} · {text('traces.user')}</b>"
            parts.append(f'<li class="said">{asked}<pre>{escape(case.trace.query)}</pre></li>')
        parts.append(_reply(case, case.trace.id == current, text, lang))
        if case.outcome is not None:
            simulated = case.outcome.startswith(LABEL.strip())
            badge = f' <span class="badge">{text("traces.simulated")}</span>' if simulated else ""
            told = escape(case.outcome.removeprefix(LABEL))
            parts.append(f'<li class="observed"><b>{text("traces.observed")}</b>{badge}<pre>{told}</pre></li>')
    return f'{parts[0]}<ol class="timeline">{"".join(parts[1:])}</ol>'


def request_html(trace: Trace, text: Text) -> str:
    """Return the request as it was sent: its messages, then the body as JSON."""
    shown = "".join(
        f"<h5>{escape(str(message.get('role')))}</h5><pre>{escape(_content(message))}</pre>"
        for message in trace.messages
    )
    body = escape(json.dumps(trace.exchange.request, ensure_ascii=False, indent=2))
    summary = f"<summary>{text('traces.request_body')}</summary>"
    return f'<div class="request">{shown}<details>{summary}<pre>{body}</pre></details></div>'


def _reply(case: Case, current: bool, text: Text, lang: Lang) -> str:
    trace = case.trace
    facts = [datetime.fromtimestamp(trace.exchange.started).strftime("%Y-%m-%d %H:%M:%S"), Path(trace.model).name]
    facts.append(text("traces.seconds", seconds=f"{trace.exchange.latency:.2f}"))
    if trace.reply.completion_tokens is not None:
        facts.append(text("traces.reply_tokens", count=trace.reply.completion_tokens))
    said = trace.reply.text or json.dumps(list(trace.reply.tool_calls), ensure_ascii=False, indent=1)
    notes = [
        f'<p class="flag">⚑ <b>{escape(rule_name(flag.rule, text))}</b>: {escape(why)}</p>'
        for flag, why in _reasons(case, lang)
    ]
    notes += [f'<p class="feedback">{escape(_feedback(item.kind, item.text, text))}</p>' for item in trace.feedback]
    review = trace.review
    if review.label is not None:
        notes.append(
            f'<b>{text("traces.corrected_to")}</b><pre class="corrected">{difference(said, review.label)}</pre>'
        )
    verdict = text(f"traces.{review.verdict}")
    if review.reviewer:
        verdict = text("traces.by", verdict=verdict, reviewer=review.reviewer)
    chip = f'<span class="badge {review.verdict}">{_MARKS[review.verdict]} {escape(verdict)}</span>'
    head = f"<b>{text('traces.reply')}</b> {chip} <span class='muted'>{escape(' · '.join(_some(facts)))}</span>"
    mark = ' aria-current="true"' if current else ""
    return f'<li class="reply" id="{escape(trace.id)}"{mark}>{head}<pre>{escape(said)}</pre>{"".join(notes)}</li>'


def _reasons(case: Case, lang: Lang) -> list[tuple[Flag, str]]:
    """Return the flags with their reasons; what no rule of here says is told as it is kept."""
    now = reasons(case) if case.trace.flags else {}
    return [(flag, now[flag.rule].to(lang) if flag.rule in now else flag.why) for flag in case.trace.flags]


def _feedback(kind: FeedbackKind, said: str, text: Text) -> str:
    return text("traces.said", text=said) if kind is FeedbackKind.CORRECTION else text(f"traces.{kind}")


def _content(message: Any) -> str:
    content = message.get("content")
    rest = {key: value for key, value in message.items() if key not in ("role", "content")}
    told = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return f"{told}\n{json.dumps(rest, ensure_ascii=False, indent=1)}" if rest else told


def _some(facts: Iterable[str]) -> list[str]:
    return [fact for fact in facts if fact]
