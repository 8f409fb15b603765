"""What makes a visit right, and the laws of the held-out visits."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolweave.agents import RolePlay
from toolweave.dialects import get_dialect
from toolweave.evals import scorers
from toolweave.evals.cases import HELD_OUT_LINES, Line, Visit, held_out_visits
from toolweave.evals.score import count
from toolweave.evals.stats import wilson
from toolweave.evals.visit import run_visit
from toolweave.models.scripted import ScriptedModel
from toolweave.types import Lang, ToolCall

VISITS = held_out_visits()


def replies(visit: Visit) -> list[str]:
    """What a perfect model says on a visit."""
    dialect = get_dialect(visit.episode.meta["dialect"])
    calls = [dialect.visible(dialect.call_completion(call, visit.episode.lang)) for call in visit.expected]
    return [*calls, visit.turn.answer]


@pytest.mark.parametrize("visit", VISITS, ids=lambda visit: f"{visit.id}-{visit.line}")
def test_a_perfect_model_gets_every_visit_right(visit: Visit) -> None:
    result = run_visit(visit, ScriptedModel(replies(visit)))
    assert result.ok, result


@pytest.mark.parametrize("visit", [v for v in VISITS if v.line is Line.SEEN_TOOLS][::9], ids=lambda visit: visit.id)
def test_each_failure_is_its_own_class(visit: Visit) -> None:
    good = replies(visit)
    silent = run_visit(visit, ScriptedModel([visit.turn.answer]))
    assert not silent.called
    assert not silent.right
    name = visit.expected[0].name
    wrong = run_visit(visit, ScriptedModel([f'Action: {name}\nAction Input: {{"no_such": 1}}\n', good[-1]]))
    assert wrong.called
    assert not wrong.right
    invented = run_visit(visit, ScriptedModel([good[0], visit.turn.answer + " 98765"]))
    assert invented.right
    assert not invented.faithful
    looping = run_visit(visit, ScriptedModel([good[0], good[0], good[-1]]))
    assert not looping.stopped


def test_a_call_where_none_is_needed_is_wrong() -> None:
    visit = next(v for v in VISITS if v.line is Line.NO_CALL)
    call = ToolCall(visit.episode.tools[0].name, {})
    dialect = get_dialect(visit.episode.meta["dialect"])
    made = dialect.visible(dialect.call_completion(call, visit.episode.lang))
    result = run_visit(visit, ScriptedModel([made, visit.turn.answer]))
    assert not result.called
    assert not result.ok


def test_the_held_out_visits_cover_every_line_in_both_languages() -> None:
    assert len(VISITS) >= 200
    for chosen in (VISITS, held_out_visits(60)):
        assert {(v.line, v.episode.lang) for v in chosen} == {(line, lang) for line in HELD_OUT_LINES for lang in Lang}
    assert abs(len(held_out_visits(60)) - 60) <= len(HELD_OUT_LINES)
    assert len({v.id for v in VISITS}) == len(VISITS)


def test_counts_add_up() -> None:
    chosen = held_out_visits(30)
    results = [run_visit(visit, ScriptedModel(replies(visit))) for visit in chosen]
    counts = count(results)
    assert Counter(v.line for v in chosen) == {line: c.n for line, c in counts.items() if c.n}
    assert all(c.ok == c.n for c in counts.values())


@given(st.integers(0, 400), st.integers(0, 400))
def test_wilson_holds_the_rate_and_shrinks(ok: int, extra: int) -> None:
    n = ok + extra
    low, high = wilson(ok, n)
    assert low + 1e-12 >= 0
    assert high <= 1 + 1e-12
    if n:
        assert low - 1e-9 <= ok / n <= high + 1e-9
        wide_low, wide_high = wilson(ok * 4, n * 4)
        assert wide_high - wide_low <= high - low


@pytest.mark.parametrize(
    ("value", "expected", "same"),
    [
        ({"city": "New York"}, {"city": "new-york"}, True),
        ({"city": "York"}, {"city": "New York"}, False),
        ({"n": 3}, {"n": 3.0}, True),
        ({"n": "3"}, {"n": 3}, False),
        ({"on": 1}, {"on": True}, False),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ({"l": ["A", "b"]}, {"l": ["a", "b"]}, True),
    ],
)
def test_arguments_are_compared_as_bfcl_does(value: dict[str, object], expected: dict[str, object], same: bool) -> None:
    assert scorers.same_call(ToolCall("t", value), ToolCall("t", expected)) is same


def test_calls_are_compared_in_any_order_and_number() -> None:
    a, b = ToolCall("a", {}), ToolCall("b", {})
    assert scorers.same_calls([b, a], [a, b])
    assert not scorers.same_calls([a, a], [a, b])
    assert not scorers.same_calls([a], [a, b])


def test_role_play_takes_a_scripted_model() -> None:
    assert "".join(RolePlay(llm=ScriptedModel(["你好！"]), instruction="助手").run("你好")) == "你好！"
