"""Guided calls against free ones, on visits: how many calls a tool can take, and what a token costs.

    python bench/guided.py --model embedded --visits 1000

Every request is the first of a held-out visit. `free`: the model writes what it wants. `guided`: once it begins a call,
only a valid one can follow. `quoting`: its text leans towards what was said, as well. `required`: it must call. A call
is valid when its tool is offered and its arguments follow the tool's schema; a reply cut off by --max_tokens inside a
call is not. Prints one line of JSON for each.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice

from jsonschema import Draft202012Validator

from toolweave.data.synthesize import held_out_episodes
from toolweave.dialects import Dialect, get_dialect
from toolweave.models.base_models import load
from toolweave.serving.engine import Engine
from toolweave.serving.grammar import CallFrame, call_grammar
from toolweave.serving.sampling import SamplingParams
from toolweave.types import Episode, InvalidToolCall, Reply, ToolSpec

MODES = ("free", "guided", "quoting", "required")


@dataclass(frozen=True, slots=True)
class Visit:
    """The first request of an episode."""

    dialect: Dialect
    prompt: list[int]
    said: tuple[str, ...]
    tools: tuple[ToolSpec, ...]
    episode: Episode


def visits(engine: Engine, count: int) -> Iterator[Visit]:
    """Yield `count` requests that offer tools; episodes come again when there are fewer, sampled otherwise."""
    offering = [episode for episode in held_out_episodes() if episode.tools]
    for episode in islice(cycle(offering), count):
        dialect = get_dialect(episode.meta["dialect"])
        messages = dialect.render(episode)[0].messages
        said = tuple(message["content"] for message in messages if message["role"] != "system")
        yield Visit(dialect, engine.template.prompt_ids(messages), said, episode.tools, episode)


def verdict(reply: Reply, tools: Sequence[ToolSpec]) -> str:
    """Return whether a reply calls at all, and whether all of its calls are valid."""
    schemas = {tool.name: tool.parameters for tool in tools}
    if not reply.calls:
        return "no_call"
    for call in reply.calls:
        if isinstance(call, InvalidToolCall) or call.name not in schemas:
            return "invalid"
        if not Draft202012Validator(schemas[call.name]).is_valid(call.arguments):
            return "invalid"
    return "valid"


def measure(engine: Engine, asked: Sequence[Visit], mode: str, max_tokens: int, temperature: float) -> dict[str, float]:
    def ask(numbered: tuple[int, Visit]) -> tuple[str, int]:
        seed, visit = numbered
        grammar = None
        if mode != "free":
            frame = CallFrame.of(visit.dialect, visit.episode.lang)
            grammar = call_grammar(frame, visit.tools, forced=mode == "required")
        params = SamplingParams(temperature, seed=seed, max_tokens=max_tokens, stop=visit.dialect.stop)
        said = visit.said if mode == "quoting" else ()
        generation = engine.submit(visit.prompt, params, grammar=grammar, said=said)
        reply = visit.dialect.parse("".join(generation))
        found = verdict(reply, visit.tools)
        if reply.calls and generation.finish_reason == "length":
            found = "cut_off"
        return found, generation.usage.completion_tokens

    started = time.perf_counter()
    with ThreadPoolExecutor(engine.max_batch) as clients:
        answers = list(clients.map(ask, enumerate(asked)))
    seconds = time.perf_counter() - started
    counts = Counter(found for found, _ in answers)
    tokens = sum(made for _, made in answers)
    calls = len(answers) - counts["no_call"]
    return {
        **{name: counts[name] for name in ("valid", "invalid", "cut_off", "no_call")},
        "valid_percent_of_calls": round(100 * counts["valid"] / max(1, calls), 2),
        "tokens": tokens,
        "ms_per_token": round(1000 * seconds / tokens, 2),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="embedded")
    options.add_argument("--visits", type=int, default=1000)
    options.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    options.add_argument("--max_tokens", type=int, default=192)
    options.add_argument("--temperature", type=float, default=1.0)
    given = options.parse_args()
    engine = Engine(load(given.model))
    try:
        asked = list(visits(engine, given.visits))
        for mode in given.modes:
            found = measure(engine, asked, mode, given.max_tokens, given.temperature)
            print(json.dumps({"mode": mode, "visits": len(asked), **found}), flush=True)
    finally:
        engine.close()


if __name__ == "__main__":
    main()
