"""The gate: may a tuned model replace the base? Paired by visit, by rules, with reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from toolweave.errors import DataError
from toolweave.evals.cases import Line
from toolweave.evals.score import CLASSES, VisitResult
from toolweave.evals.stats import Interval, bootstrap, mcnemar, wilson
from toolweave.types import Json, Lang

CHAT_LOSS = "chat_loss"
_METRICS = ("ok", *CLASSES, CHAT_LOSS)


class Verdict(StrEnum):
    """The outcome of a rule or of the gate."""

    PASS = "pass"  # noqa: S105  # a verdict, no password
    FAIL = "fail"
    UNDECIDED = "undecided"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition; see `gate_rules.yaml` for the meaning of each field."""

    name: str
    metric: str = "ok"
    lines: tuple[Line, ...] = ()
    langs: tuple[Lang, ...] = ()
    min_gain: float | None = None
    max_loss: float | None = None
    at_least: float | None = None
    certain: bool = False
    optional: bool = False

    def __post_init__(self) -> None:
        if self.metric not in _METRICS:
            raise DataError(f"rule {self.name!r}: unknown metric {self.metric!r}", f"one of {', '.join(_METRICS)}")
        if sum(bar is not None for bar in (self.min_gain, self.max_loss, self.at_least)) != 1:
            raise DataError(f"rule {self.name!r} needs one of min_gain, max_loss and at_least")
        if self.metric == CHAT_LOSS and self.max_loss is None:
            raise DataError(f"rule {self.name!r}: chat_loss takes max_loss")

    def covers(self, result: VisitResult) -> bool:
        """Tell whether the rule looks at a result."""
        in_line = result.line in self.lines if self.lines else result.line is not Line.INSTRUCTION
        return in_line and (not self.langs or result.lang in self.langs)


@dataclass(frozen=True, slots=True)
class Paired:
    """Both models on the same visits. Rates are shares of 1; `difference` is tuned less base."""

    n: int
    base: int
    tuned: int
    gained: int
    lost: int
    difference: float
    interval: Interval
    p: float


class Reason(NamedTuple):
    """Why a rule was decided as it was, in both languages."""

    zh: str
    en: str

    def to(self, lang: Lang) -> str:
        """Return it in a language."""
        return self.zh if lang is Lang.ZH else self.en

    def unsure(self) -> Reason:
        """Return it with the remark that more visits are needed."""
        return Reason(f"{self.zh}；访问太少，无法确定", f"{self.en}; too few visits to be sure")


@dataclass(frozen=True, slots=True)
class Ruling:
    """What came of a rule, and why."""

    rule: Rule
    verdict: Verdict
    reason: Reason


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the gate decides on: results of both models, and losses on held-out chat where they were measured."""

    base: Sequence[VisitResult]
    tuned: Sequence[VisitResult]
    base_losses: Mapping[str, float] = field(default_factory=dict)
    tuned_losses: Mapping[str, float] = field(default_factory=dict)

    def pairs(self) -> list[tuple[VisitResult, VisitResult]]:
        """Return the results of both models on the same visit and trial. Raises DataError when there are none."""
        tuned = {(result.id, result.trial): result for result in self.tuned}
        pairs = [(r, tuned[r.id, r.trial]) for r in self.base if (r.id, r.trial) in tuned]
        if not pairs:
            raise DataError("the two results have no visit in common", "run both models on the same visits")
        different = next((pair for pair in pairs if pair[0].query != pair[1].query), None)
        if different:
            raise DataError(f"visit {different[0].id} asks different things in the two results", "run both models anew")
        return pairs


@dataclass(frozen=True, slots=True)
class GateResult:
    """The verdict with its reasons, and the paired comparison of each line."""

    verdict: Verdict
    rulings: tuple[Ruling, ...]
    lines: Mapping[str, Paired]

    def to_json(self) -> Json:
        """Return the JSON form."""
        return {
            "verdict": self.verdict,
            "rules": [
                {**asdict(r.rule), "verdict": r.verdict, "reason": r.reason.en, "reason_zh": r.reason.zh}
                for r in self.rulings
            ],
            "lines": {name: asdict(paired) for name, paired in self.lines.items()},
        }


def read_rules(path: Path | None = None) -> tuple[Rule, ...]:
    """Read rules from YAML; the embedded ones without a path. Raises DataError for a file that holds none."""
    source = path if path is not None else resources.files("toolweave.evals") / "gate_rules.yaml"
    try:
        content = yaml.load(source.read_text("utf-8"), yaml.CSafeLoader)
        rows = content["rules"]
        known = {item.name for item in fields(Rule)}
        for row in rows:
            if unknown := row.keys() - known:
                raise DataError(
                    f"{source}: unknown field {sorted(unknown)[0]!r}", f"fields: {', '.join(sorted(known))}"
                )
        return tuple(_rule(row) for row in rows)
    except FileNotFoundError as error:
        raise DataError(f"no such file: {path}", "leave --rules out to use the embedded rules") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{source} holds no gate rules: {error}", "see evals/gate_rules.yaml") from error


def decide(evidence: Evidence, rules: Sequence[Rule]) -> GateResult:
    """Judge the evidence by the rules. Raises DataError when the two results share no visit."""
    pairs = evidence.pairs()
    rulings = tuple(_judge(rule, pairs, evidence) for rule in rules)
    verdicts = {ruling.verdict for ruling in rulings}
    verdict = next((v for v in (Verdict.FAIL, Verdict.UNDECIDED) if v in verdicts), Verdict.PASS)
    lines = {"all": compare([pair for pair in pairs if pair[0].line is not Line.INSTRUCTION] or pairs)}
    for line in Line:
        if of_line := [pair for pair in pairs if pair[0].line is line]:
            lines[line.value] = compare(of_line)
    return GateResult(verdict, rulings, lines)


def compare(pairs: Sequence[tuple[VisitResult, VisitResult]], metric: str = "ok") -> Paired:
    """Compare both models on the same visits."""
    marks = [(bool(getattr(base, metric)), bool(getattr(tuned, metric))) for base, tuned in pairs]
    gained = sum(not base and tuned for base, tuned in marks)
    lost = sum(base and not tuned for base, tuned in marks)
    differences = [float(tuned) - float(base) for base, tuned in marks]
    return Paired(
        n=len(marks),
        base=sum(base for base, _ in marks),
        tuned=sum(tuned for _, tuned in marks),
        gained=gained,
        lost=lost,
        difference=sum(differences) / len(differences) if differences else math.nan,
        interval=bootstrap(differences),
        p=mcnemar(gained, lost),
    )


def _rule(row: Mapping[str, Any]) -> Rule:
    named = {**row, "lines": tuple(map(Line, row.get("lines", ()))), "langs": tuple(map(Lang, row.get("langs", ())))}
    return Rule(**named)


def _judge(rule: Rule, pairs: Sequence[tuple[VisitResult, VisitResult]], evidence: Evidence) -> Ruling:
    if rule.metric == CHAT_LOSS:
        return _judge_loss(rule, evidence)
    covered = [pair for pair in pairs if rule.covers(pair[0])]
    if not covered:
        return _unmeasured(rule, Reason("没有可判的访问", "no visits to judge"))
    paired = compare(covered, rule.metric)
    if rule.at_least is not None:
        return _judge_rate(rule, paired)
    bar = rule.min_gain if rule.min_gain is not None else -(rule.max_loss or 0.0)
    points, low, high = (100 * value for value in (paired.difference, *paired.interval))
    change = f"{paired.base}/{paired.n} → {paired.tuned}/{paired.n}"
    reason = Reason(
        f"{change}：{points:+.1f} 个百分点（95% 区间 {low:+.1f} 至 {high:+.1f}；{paired.gained} 次变对，"
        f"{paired.lost} 次变错，p = {paired.p:.2g}）；要求至少 {bar:+g}{'，且不是偶然' if rule.certain else ''}",
        f"{change}: {points:+.1f} points (95 % {low:+.1f} to {high:+.1f}; {paired.gained} gained, "
        f"{paired.lost} lost, p = {paired.p:.2g}); wanted at least {bar:+g}{', beyond chance' if rule.certain else ''}",
    )
    if points < bar:
        return Ruling(rule, Verdict.FAIL, reason)
    if rule.certain and not (low > bar or (low == bar and paired.p < 0.05)):
        return Ruling(rule, Verdict.UNDECIDED, reason.unsure())
    return Ruling(rule, Verdict.PASS, reason)


def _judge_rate(rule: Rule, paired: Paired) -> Ruling:
    bar = rule.at_least or 0.0
    low, high = (100 * value for value in wilson(paired.tuned, paired.n))
    rate = 100 * paired.tuned / paired.n
    share = f"{paired.tuned}/{paired.n} = {rate:.1f} %"
    reason = Reason(
        f"{share}（95% 区间 {low:.1f} 至 {high:.1f}）；要求至少 {bar:g} %",
        f"{share} (95 % {low:.1f} to {high:.1f}); wanted at least {bar:g} %",
    )
    if rate < bar:
        return Ruling(rule, Verdict.FAIL, reason)
    if rule.certain and low < bar:
        return Ruling(rule, Verdict.UNDECIDED, reason.unsure())
    return Ruling(rule, Verdict.PASS, reason)


def _judge_loss(rule: Rule, evidence: Evidence) -> Ruling:
    shared = sorted(evidence.base_losses.keys() & evidence.tuned_losses.keys())
    if not shared:
        return _unmeasured(rule, Reason("没有测对话损失", "loss on chat was not measured"))
    base = math.fsum(evidence.base_losses[name] for name in shared) / len(shared)
    tuned = math.fsum(evidence.tuned_losses[name] for name in shared) / len(shared)
    rise = 100 * (tuned / base - 1)
    interval = bootstrap([evidence.tuned_losses[name] - evidence.base_losses[name] for name in shared])
    low, high = (100 * value / base for value in interval)
    bar = rule.max_loss or 0.0
    reason = Reason(
        f"{len(shared)} 段对话上每词元损失 {base:.3f} → {tuned:.3f}：{rise:+.1f} %"
        f"（95% 区间 {low:+.1f} 至 {high:+.1f}）；要求至多 {bar:+g} %",
        f"{base:.3f} to {tuned:.3f} nats a token on {len(shared)} chats: {rise:+.1f} % "
        f"(95 % {low:+.1f} to {high:+.1f}); wanted at most {bar:+g} %",
    )
    if rise > bar:
        return Ruling(rule, Verdict.FAIL, reason)
    certain = not rule.certain or high <= bar
    return Ruling(rule, Verdict.PASS if certain else Verdict.UNDECIDED, reason if certain else reason.unsure())


def _unmeasured(rule: Rule, reason: Reason) -> Ruling:
    return Ruling(rule, Verdict.SKIPPED if rule.optional else Verdict.UNDECIDED, reason)
