"""The metrics of the field: a perfect model has them all, and each defect named in the module is mended."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracle import Oracle
from toolweave.evals.cache import ReplyCache, Source
from toolweave.evals.cases import Line, held_out_visits
from toolweave.evals.steps import compare_step, rouge_l, run_steps, steps_of, summarise
from toolweave.types import InvalidToolCall, Reply, ToolCall

WEATHER = Reply("", (ToolCall("weather", {"city": "Paris", "days": 3}),))
OFFERED = ["weather", "image"]


def test_a_perfect_model_scores_perfectly() -> None:
    visits = held_out_visits(40)
    with ReplyCache(None) as cache:
        metrics = summarise(run_steps(visits, Source(Oracle(visits), "", {}), cache))
    assert metrics.steps == len(steps_of(visits))
    assert (metrics.plan_em, metrics.act_em, metrics.avg_f1, metrics.rouge_l) == (1, 1, 1, 1)
    assert metrics.hallu_rate == 0


def test_only_last_turns_are_asked() -> None:
    follow_up = next(visit for visit in held_out_visits() if visit.line is Line.FOLLOW_UP)
    assert len(steps_of([follow_up])) == len(follow_up.turn.steps) + 1


@pytest.mark.parametrize(
    ("arguments", "f1"),
    [
        ({"city": "Paris", "days": 3}, 1.0),
        ({"city": "Paris", "days": 4}, 0.75),
        ({"city": "Paris"}, 2 / 3),
        ({"city": "Paris", "days": 3, "unit": "C"}, 0.8),
        ({"city": "Paris", "days": True}, 0.75),
        ({"town": "Paris"}, 0.0),
        ({}, 0.0),
    ],
)
def test_argument_f1(arguments: dict[str, object], f1: float) -> None:
    step = compare_step(WEATHER, Reply("", (ToolCall("weather", arguments),)), OFFERED)
    assert step.arguments == (pytest.approx(f1),)
    assert step.actions == (True,)


def test_plan_action_and_invention() -> None:
    silent = compare_step(WEATHER, Reply("It is sunny."), OFFERED)
    assert (silent.plan, silent.actions, silent.arguments, silent.answer) == (False, (False,), (0.0,), None)
    invented = compare_step(WEATHER, Reply("", (ToolCall("forecast", {}),)), OFFERED)
    assert (invented.plan, invented.invented, invented.actions) == (True, True, (False,))
    malformed = compare_step(WEATHER, Reply("", (InvalidToolCall("weather", "{", "no JSON"),)), OFFERED)
    assert (malformed.actions, malformed.arguments) == ((True,), (0.0,))
    needless = compare_step(Reply("Hello"), WEATHER, OFFERED)
    assert (needless.plan, needless.answer) == (False, 0.0)


def test_metrics_without_steps_are_none() -> None:
    assert summarise([]).named() == {}
    assert "Act.EM" not in summarise([compare_step(Reply("hi"), Reply("hi"), [])]).named()


def test_chinese_counts_by_characters() -> None:
    assert rouge_l("朝阳区今天晴", "朝阳区今天阴") == pytest.approx(5 / 6)
    assert rouge_l("", "") == 1
    assert rouge_l("", "sunny") == 0


@given(st.lists(st.sampled_from(["a", "b", "c", "晴", "雨"]), max_size=12), st.lists(st.sampled_from(["a", "b", "晴"])))
def test_rouge_is_symmetric_and_a_share(left: list[str], right: list[str]) -> None:
    made, wanted = " ".join(left), " ".join(right)
    assert 0 <= rouge_l(made, wanted) <= 1
    assert rouge_l(made, wanted) == pytest.approx(rouge_l(wanted, made))
    assert rouge_l(made, made) == 1
