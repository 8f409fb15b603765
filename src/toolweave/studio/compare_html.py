"""A comparison as HTML: how far it is, the gate's verdict, and the visits of both models."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from toolweave.evals.gate import GateResult
from toolweave.evals.score import VisitResult
from toolweave.evals.words import say
from toolweave.studio.compare import HeldOut
from toolweave.types import Lang

Text = Callable[..., str]
_ORDER = ("lost", "gained", "neither", "same")


def held_out_html(contest: HeldOut, text: Text, lang: Lang) -> str:
    """Return all that is known so far."""
    sides = zip(("left", "right"), contest.contest.names, strict=True)
    names = " · ".join(f"{text(f'compare.{side}')}: <b>{escape(name)}</b>" for side, name in sides if name)
    parts = [f"<p>{names}</p>", *([_progress(contest, text)] if contest.running else [])]
    if contest.error:
        parts.append(f'<p class="notice fail">{escape(contest.error)}</p>')
    if contest.result is not None:
        parts.append(_verdict(contest.result, text, lang))
    pairs = contest.pairs()
    if pairs:
        parts.append(_visits(pairs, text, lang))
    return f'<div class="duel">{"".join(parts)}</div>'


def _progress(contest: HeldOut, text: Text) -> str:
    share = 100 * contest.done / contest.total
    told = (
        text("compare.progress", done=contest.done, total=contest.total) if contest.done else text("compare.starting")
    )
    return (
        f'<div class="bar" role="progressbar" aria-label="{text("compare.held_out")}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{share:.0f}"><div style="width:{share:.1f}%"></div></div>'
        f'<p class="muted">{told}</p>'
    )


def _verdict(result: GateResult, text: Text, lang: Lang) -> str:
    rows = "".join(
        f'<tr><td>{escape(say(ruling.rule.name, lang))}</td><td><span class="badge {ruling.verdict}">'
        f"{text(f'compare.{ruling.verdict}')}</span></td><td>{escape(ruling.reason.to(lang))}</td></tr>"
        for ruling in result.rulings
    )
    told = text(f"compare.verdict_{result.verdict}")
    return (
        f'<p class="notice {result.verdict}"><b>{text("compare.verdict")} · {told}</b></p>'
        f'<table class="rulings"><tbody>{rows}</tbody></table>'
    )


def _visits(pairs: list[tuple[VisitResult, VisitResult]], text: Text, lang: Lang) -> str:
    kinds = [_kind(*pair) for pair in pairs]
    counts = " ".join(
        f'<span class="badge {kind}">{text(f"compare.{kind}")} {kinds.count(kind)}</span>' for kind in _ORDER
    )
    shown = sorted(zip(kinds, pairs, strict=True), key=lambda item: _ORDER.index(item[0]))
    items = "".join(_pair(kind, *pair, text, lang) for kind, pair in shown)
    return f"<h4>{text('compare.visits')}</h4><p>{counts}</p>{items}"


def _pair(kind: str, base: VisitResult, tuned: VisitResult, text: Text, lang: Lang) -> str:
    def side(key: str, result: VisitResult) -> str:
        failures = ", ".join(say(name, lang) for name in result.failures)
        mark = "✓" if result.ok else f"✗ {failures}"
        return f"<div><b>{text(f'compare.{key}')}</b> {escape(mark)}<pre>{escape(result.transcript)}</pre></div>"

    badge = f'<span class="badge {kind}">{text(f"compare.{kind}")}</span>'
    return (
        f"<details><summary>{badge} {escape(tuned.query)}</summary>"
        f'<div class="sides">{side("left", base)}{side("right", tuned)}</div>'
        f'<p class="muted">{text("compare.expected")}: {escape(tuned.reference)}</p></details>'
    )


def _kind(base: VisitResult, tuned: VisitResult) -> str:
    if base.ok == tuned.ok:
        return "same" if base.ok else "neither"
    return "gained" if tuned.ok else "lost"
