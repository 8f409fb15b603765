"""The study's data differ in what they say they differ in, and a piece runs from data to table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from oracle import Oracle
from toolweave.evals.cases import held_out_visits
from toolweave.evals.study import (
    MEASURES,
    Condition,
    StudyPlan,
    measure_all,
    public_episodes,
    run_study,
    table,
    training_data,
    write_study,
)
from toolweave.evals.visit import run_visit
from toolweave.types import Lang

PLAN = StudyPlan(training_visits=40, chats=6, self_cognition=4)


def test_conditions_differ_in_what_they_say() -> None:
    off, matched, captured, mixed = (training_data(condition, PLAN, 1) for condition in list(Condition)[1:])
    assert len(off) == len(matched)
    assert {sample.meta["dialect"] for sample in off} == {"react"}
    assert all(sample.meta["dialect"].startswith("agentfabric") for sample in matched)
    assert {sample.meta["lang"] for sample in matched} == {Lang.EN}
    assert {sample.meta["lang"] for sample in captured} == set(Lang)
    assert mixed[: len(captured)] == captured
    assert len(mixed) == len(captured) + 10
    assert training_data(Condition.MIXED, PLAN, 1) == mixed
    assert training_data(Condition.MIXED, PLAN, 2) != mixed
    assert not training_data(Condition.BASE, PLAN, 1)


def test_public_rows_play_no_role() -> None:
    episodes = public_episodes(40, 3)
    assert len(episodes) == 40
    assert {episode.instruction for episode in episodes} == {""}
    assert all(episode.turns[-1].steps for episode in episodes)


def test_measures_and_table(tmp_path: Path) -> None:
    good = [run_visit(visit, Oracle([visit])) for visit in held_out_visits(16)]
    bad = [replace(result, right=False, faithful=False) for result in good]
    measures = measure_all([good, bad])
    assert measures["whole visits"].mean == 0.5
    assert measures["whole visits"].seeds == (1.0, 0.0)
    assert measures["calls"].mean == measures["stopping"].mean == 1
    assert "50 (50–50) [0…100]" in table({Condition.CAPTURED: measures})
    write_study(tmp_path, {Condition.BASE: [bad], Condition.CAPTURED: [good, bad]})
    content = json.loads((tmp_path / "study.json").read_text())
    assert set(content["captured"]) == set(MEASURES)
    assert (tmp_path / "study.png").stat().st_size > 1000


def test_a_piece_runs_from_data_to_table_and_only_once(bpe_model_dir: Path, tmp_path: Path) -> None:
    plan = StudyPlan(str(bpe_model_dir), training_visits=4, visits=9, max_steps=1)
    console = Console(record=True)
    run_study(tmp_path, plan, console, [Condition.FORMAT_MATCHED], [1])
    assert (tmp_path / "format_matched-1" / "visits.jsonl").is_file()
    assert not (tmp_path / "format_matched-1" / "merged").exists()
    assert "the same rows" in (tmp_path / "table.md").read_text()
    run_study(tmp_path, plan, console, [Condition.FORMAT_MATCHED], [1])
    assert "finished before" in console.export_text()
