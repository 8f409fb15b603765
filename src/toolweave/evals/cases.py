"""What is asked: visits, from the embedded held-out set, the challenges, or a file of episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from toolweave.data.jsonl import read_jsonl
from toolweave.data.synthesize import Kind, held_out_episodes, selection_episodes
from toolweave.dialects import get_dialect
from toolweave.errors import DataError, ToolweaveError
from toolweave.types import Episode, Json, Lang, Step, ToolCall, ToolSpec, Turn


class Line(StrEnum):
    """A line of the report."""

    SEEN_TOOLS = "seen_tools"
    UNSEEN_TOOLS = "unseen_tools"
    NO_CALL = "no_call"
    TWO_CALL = "two_call"
    FOLLOW_UP = "follow_up"
    TOOL_ERROR = "tool_error"
    MISSING = "missing_argument"
    IRRELEVANT = "irrelevant"
    INJECTION = "injection"
    INSTRUCTION = "instruction"


HELD_OUT_LINES = tuple(Line)[: tuple(Line).index(Line.IRRELEVANT)]
"""The lines of the embedded held-out visits; the others have sets of their own."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A held-out visit: the last turn of `episode` is what is asked, earlier turns are history."""

    id: str
    line: Line
    episode: Episode

    @property
    def turn(self) -> Turn:
        """The turn under test, with its expected calls and reference answer."""
        return self.episode.turns[-1]

    @property
    def expected(self) -> tuple[ToolCall, ...]:
        """The calls this visit needs."""
        return tuple(step.call for step in self.turn.steps)


def held_out_visits(limit: int | None = None) -> list[Visit]:
    """Return the fixed held-out visits, or a fixed part of about `limit` with every line and language in it."""
    visits = [Visit(f"{i:03d}", _line(episode), episode) for i, episode in enumerate(held_out_episodes())]
    return stratified(visits, limit)


def selection_visits(count: int) -> list[Visit]:
    """Return visits to choose a checkpoint by: none of them, and none of their phrases, is in `held_out_visits`."""
    return [Visit(f"s{i:03d}", _line(episode), episode) for i, episode in enumerate(selection_episodes(count))]


def stratified(visits: Sequence[Visit], limit: int | None) -> list[Visit]:
    """Return about `limit` visits, spread over lines and languages in proportion; all when None."""
    if limit is None or limit >= len(visits):
        return list(visits)
    strata: dict[tuple[Line, Lang], list[Visit]] = {}
    for visit in visits:
        strata.setdefault((visit.line, visit.episode.lang), []).append(visit)
    chosen: list[Visit] = []
    for stratum in strata.values():
        take = max(1, round(limit * len(stratum) / len(visits)))
        chosen += [stratum[i * len(stratum) // take] for i in range(take)]
    return sorted(chosen, key=lambda visit: visit.id)


def read_visits(path: Path) -> list[Visit]:
    """Read visits from a file of episodes, one JSON object a line.

    A row has `turns` (`query`, `steps` with `name`, `arguments`, `observation`, and `answer`; the last turn is what
    is asked), `tools` (OpenAI function schemas), and may have `id`, `line` or `kind`, `instruction`, `lang`,
    `knowledge`, `dialect`, and `facts`, what the answer must state. Raises DataError naming file and line.
    """
    visits = []
    for number, row in read_jsonl(path):
        try:
            visits.append(_visit(row, f"{number:03d}"))
        except (KeyError, TypeError, ValueError, AttributeError, ToolweaveError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise DataError(
                f"{path}, line {number}: not an episode: {reason}",
                "an episode has turns [{query, steps: [{name, arguments, observation}], answer}] and tools",
            ) from error
    if not visits:
        raise DataError(f"{path} holds no episode", "write one JSON object a line")
    return visits


def visit_json(visit: Visit) -> Json:
    """Return a visit as a row that `read_visits` reads."""
    episode = visit.episode
    turns = [
        {
            "query": turn.query,
            "steps": [_step_json(step) for step in turn.steps],
            "answer": turn.answer,
            "files": list(turn.files),
        }
        for turn in episode.turns
    ]
    about = {"id": visit.id, "line": visit.line, "lang": episode.lang, "dialect": episode.meta.get("dialect", "v06")}
    return {
        **about,
        "agent": episode.meta.get("agent", ""),
        "instruction": episode.instruction,
        "knowledge": episode.knowledge,
        "tools": [tool.openai() for tool in episode.tools],
        "turns": turns,
        "facts": episode.meta.get("facts"),
        "forbidden": episode.meta.get("forbidden", []),
    }


def _step_json(step: Step) -> Json:
    return {"name": step.call.name, "arguments": step.call.arguments, "observation": step.observation}


def _visit(row: Json, number: str) -> Visit:
    turns = tuple(
        Turn(
            str(turn["query"]),
            tuple(
                Step(ToolCall(step["name"], dict(step["arguments"])), str(step["observation"]))
                for step in turn.get("steps") or ()
            ),
            str(turn.get("answer") or ""),
            tuple(turn.get("files") or ()),
        )
        for turn in row["turns"]
    )
    if not turns:
        raise ValueError("no turns")
    tools = tuple(ToolSpec.from_openai(tool) for tool in row.get("tools") or ())
    dialect = row.get("dialect") or "v06"
    get_dialect(dialect)
    meta = {"agent": row.get("agent") or "", "dialect": dialect, "facts": row.get("facts")}
    meta["forbidden"] = list(row.get("forbidden") or ())
    lang = Lang(row.get("lang") or "zh")
    episode = Episode(tools, turns, row.get("instruction") or "", lang, row.get("knowledge") or "", meta)
    return Visit(str(row.get("id") or number), _line_of(row, turns), episode)


def _line_of(row: Json, turns: tuple[Turn, ...]) -> Line:
    name = row.get("line") or row.get("kind")
    if name and name != Kind.ONE_CALL:
        return Line(name)
    steps = len(turns[-1].steps)
    if steps == 0:
        return Line.NO_CALL
    return Line.TWO_CALL if steps > 1 else Line.FOLLOW_UP if len(turns) > 1 else Line.SEEN_TOOLS


def _line(episode: Episode) -> Line:
    kind = Kind(episode.meta["kind"])
    if kind is not Kind.ONE_CALL:
        return Line(kind)
    return Line.UNSEEN_TOOLS if episode.meta["held_out_agent"] else Line.SEEN_TOOLS
