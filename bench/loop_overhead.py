"""What the loop costs: visits with a scripted model and tool in this process, and a fuzz of replies and observations.

    python bench/loop_overhead.py [--fuzz 10000]

The peer is the least that any client does: the same model, tool and dialect calls without a loop around them.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from toolweave.agents import RolePlay
from toolweave.agents.events import Answered, LimitReached
from toolweave.dialects import Prompt, get_dialect
from toolweave.models.scripted import ScriptedModel
from toolweave.tools import BaseTool

DIALECTS = ("v06", "v07", "v07-parallel", "react", "hermes", "native")
ACTION = 'Action: echo\nAction Input: {"text": "a"}\n'
TAGGED = '<tool_call>{"name": "echo", "arguments": {"text": "a"}}</tool_call>'
SHARDS = (
    ACTION, TAGGED, "Action:", "Action Input:", "<tool_call>", "</tool_call>", "Observation:", "</result>", "Answer:",
    '{"text": ', "{", "}", "[", '"', "'", "\\", "工具调用\n", "👩‍🔬", "\x00", "\u2028", "\n", " ", "```json", "朝阳区",
)  # fmt: skip


class Echo(BaseTool):
    """Says what it is told to."""

    name = "echo"
    description = "Echo"
    parameters = ({"name": "text", "type": "string", "description": "", "required": True},)
    says = "ok"

    def call(self, params: str, **kwargs: Any) -> str:
        """Return what it is told to say."""
        return self.says


def call_of(dialect: str) -> str:
    return TAGGED if dialect in ("hermes", "native") else ACTION


def visit(dialect: str) -> None:
    bot = RolePlay([Echo()], ScriptedModel([call_of(dialect), "done"], 8), "r", dialect=dialect)
    assert isinstance(list(bot.run_events("?"))[-1], Answered)


async def async_visit(dialect: str) -> None:
    bot = RolePlay([Echo()], ScriptedModel([call_of(dialect), "done"], 8), "r", dialect=dialect)
    events = [event async for event in bot.arun_events("?")]
    assert isinstance(events[-1], Answered)


def bare(dialect: str) -> None:
    form, tool, model = get_dialect(dialect), Echo(), ScriptedModel([call_of(dialect), "done"], 8)
    messages = form.start(Prompt("?", (tool.spec(),), "r"))
    reply = "".join(model.complete(messages, form.stop))
    (call,) = form.parse(reply).calls
    messages = form.advance(messages, reply, tool.call(call.raw))
    assert form.parse("".join(model.complete(messages, form.stop))).text == "done"


def median_ms(work: Callable[[str], None], dialect: str, rounds: int) -> float:
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        work(dialect)
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


async def async_median_ms(dialect: str, rounds: int) -> float:
    """Return the median of visits on a running event loop; the sync model and tool take a thread each."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        await async_visit(dialect)
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


def wild(rng: random.Random) -> str:
    return "".join(rng.choice(SHARDS) for _ in range(rng.randrange(12)))


def fuzz(count: int) -> float:
    """Run `count` visits with a wild reply and `count` with a wild observation; return the slowest, in seconds."""
    rng, slowest = random.Random(7), 0.0
    for number in range(2 * count):
        dialect, tool = rng.choice(DIALECTS), Echo()
        tool.says = wild(rng)
        first = wild(rng) if number % 2 else call_of(dialect)
        started = time.perf_counter()
        bot = RolePlay([tool], ScriptedModel([first, wild(rng), "done", "done"], 5), "r", dialect=dialect)
        *_, last = bot.run_events("?")
        slowest = max(slowest, time.perf_counter() - started)
        assert isinstance(last, Answered | LimitReached)
    return slowest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--fuzz", type=int, default=0)
    options = parser.parse_args()
    print(f"{'dialect':14} {'bare':>8} {'run':>8} {'arun':>8} {'overhead':>9}   (ms a visit, p50)")
    for dialect in DIALECTS:
        least = median_ms(bare, dialect, options.rounds)
        sync, not_sync = (
            median_ms(visit, dialect, options.rounds),
            asyncio.run(async_median_ms(dialect, options.rounds)),
        )
        print(f"{dialect:14} {least:8.3f} {sync:8.3f} {not_sync:8.3f} {sync - least:9.3f}")
    if options.fuzz:
        print(f"fuzz: {options.fuzz} replies and {options.fuzz} observations, slowest {fuzz(options.fuzz):.3f} s")


if __name__ == "__main__":
    main()
