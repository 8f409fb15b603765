"""The metrics of ToolBench's static evaluation, which SWIFT and EvalScope report: one step of a visit at a time.

A step is a request with the reference calls and observations before it; the reply is compared with the reference
reply. Plan.EM: it calls where the reference calls and answers where that answers. Act.EM: the reference's tools are
named. HalluRate: it names a tool that was not offered. Avg.F1: arguments, where a right key with a wrong value counts
half. R-L: answers, by longest common subsequence. Defects of EvalScope's `toolbench_static/eval.py`, mended here:

- It searches a reply for the last `Action:`, so prose can be a call. Here the visit's dialect reads it.
- An answer in plain words counts as a call of the tool `none`: only `Finish` is an answer. Here what calls nothing is.
- "Give up" is a plan of its own, which needs `Finish`, too; here it is an answer.
- A step whose reference arguments cannot be read is left out of Avg.F1 without a word. Here a reference is structured.
- HalluRate is divided by all rows, also those it skips. Here by the steps that were scored.
- Arguments of which none is right divide by zero, which a bare `except` turns into the 0 that is meant.
- R-L splits at blanks, so a Chinese sentence is one word, and scores a call in place of an answer as the answer `none`,
  and an empty one not at all. Here Chinese counts by characters, and what is no answer scores 0.
- Without a step of a kind it divides by zero. Here the metric is None.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

from toolweave.dialects import CallsPerReply, Dialect, ToolsIn, get_dialect
from toolweave.evals.cache import Metered, ReplyCache, Source
from toolweave.evals.cases import Visit
from toolweave.types import InvalidToolCall, Json, Reply, Sample, ToolCall

_WORDS = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")


@dataclass(frozen=True, slots=True)
class Step:
    """How one reply compares with its reference.

    `actions` and `arguments` (F1) have an item for each reference call; `answer` (R-L) is None where there are some.
    """

    plan: bool
    invented: bool
    actions: tuple[bool, ...] = ()
    arguments: tuple[float, ...] = ()
    answer: float | None = None


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """The metrics as shares of 1; None where there was no such step. Of `hallu_rate`, less is better."""

    steps: int
    plan_em: float | None
    act_em: float | None
    hallu_rate: float | None
    avg_f1: float | None
    rouge_l: float | None

    def named(self) -> dict[str, float]:
        """Return those that were measured, under the names of the field."""
        names = ("Plan.EM", "Act.EM", "HalluRate", "Avg.F1", "R-L")
        values = (self.plan_em, self.act_em, self.hallu_rate, self.avg_f1, self.rouge_l)
        return {name: value for name, value in zip(names, values, strict=True) if value is not None}

    def to_json(self) -> Json:
        """Return the JSON form."""
        return asdict(self)


def run_steps(
    visits: Sequence[Visit],
    source: Source,
    cache: ReplyCache,
    concurrency: int = 12,
    done: Callable[[], None] = lambda: None,
) -> list[Step]:
    """Ask every step of the visits' last turns and score the replies, in order.

    What a visit has asked already comes from `cache`: a model that is right needs no further request.
    Raises ServerError when the server cannot be reached.
    """

    def ask(job: tuple[Dialect, Sample]) -> Step:
        dialect, sample = job
        tools = sample.tools if dialect.tools_in is ToolsIn.REQUEST else ()
        text = "".join(Metered(source, cache).complete(sample.messages, sample.stop, tools))
        made = _running(dialect, dialect.parse(text))
        done()
        return compare_step(dialect.parse(sample.completion), made, [tool.name for tool in sample.tools])

    with ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(ask, steps_of(visits)))


def steps_of(visits: Iterable[Visit]) -> list[tuple[Dialect, Sample]]:
    """Return the requests of the visits' last turns with their reference replies."""
    found = []
    for visit in visits:
        dialect = get_dialect(visit.episode.meta.get("dialect", "v06"))
        last = len(visit.episode.turns) - 1
        found += [(dialect, sample) for sample in dialect.render(visit.episode) if sample.meta["turn"] == last]
    return found


def compare_step(reference: Reply, reply: Reply, offered: Sequence[str]) -> Step:
    """Compare a reply with its reference; `offered` are the names of the tools."""
    plan = bool(reference.calls) == bool(reply.calls)
    invented = any(call.name not in offered for call in reply.calls)
    if not reference.calls:
        return Step(plan, invented, answer=0.0 if reply.calls else rouge_l(reply.text, reference.text))
    pairs = list(zip_longest(reply.calls[: len(reference.calls)], reference.calls))
    return Step(
        plan,
        invented,
        tuple(made is not None and made.name == wanted.name for made, wanted in pairs),
        tuple(_arguments_f1(made, wanted) for made, wanted in pairs),
    )


def summarise(steps: Sequence[Step]) -> StepMetrics:
    """Add up the metrics."""
    return StepMetrics(
        steps=len(steps),
        plan_em=_mean([step.plan for step in steps]),
        act_em=_mean([action for step in steps for action in step.actions]),
        hallu_rate=_mean([step.invented for step in steps]),
        avg_f1=_mean([f1 for step in steps for f1 in step.arguments]),
        rouge_l=_mean([step.answer for step in steps if step.answer is not None]),
    )


def rouge_l(text: str, reference: str) -> float:
    """Return the F1 of the longest common subsequence of words (of Chinese: characters), without regard to case."""
    made, wanted = _WORDS.findall(text.lower()), _WORDS.findall(reference.lower())
    lengths = [0] * (len(wanted) + 1)
    for word in made:
        before = lengths
        lengths = [0]
        for at, other in enumerate(wanted):
            lengths.append(before[at] + 1 if word == other else max(before[at + 1], lengths[at]))
    common = lengths[-1]
    return 2 * common / (len(made) + len(wanted)) if common else float(made == wanted)


def figures(metrics: StepMetrics) -> str:
    """Return the metrics as a line of text."""
    return ", ".join(f"{name} {value:.1%}" for name, value in metrics.named().items())


def _running(dialect: Dialect, reply: Reply) -> Reply:
    """Leave out the calls that the agent would not run."""
    return reply if dialect.calls_per_reply is CallsPerReply.MANY else Reply(reply.text, reply.calls[:1])


def _arguments_f1(made: ToolCall | InvalidToolCall | None, wanted: ToolCall | InvalidToolCall) -> float:
    if not isinstance(made, ToolCall) or not isinstance(wanted, ToolCall) or made.name != wanted.name:
        return 0.0
    if not wanted.arguments or not made.arguments:
        return float(made.arguments == wanted.arguments)
    credit = sum(
        1.0 if _equal(made.arguments[key], value) else 0.5
        for key, value in wanted.arguments.items()
        if key in made.arguments
    )
    return 2 * credit / (len(made.arguments) + len(wanted.arguments))


def _equal(value: Any, other: Any) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
