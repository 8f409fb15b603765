"""What the preview can do beside answering, without a browser: consent, forks, faces, comparisons kept."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from toolweave.errors import ToolweaveError
from toolweave.evals.cases import Line
from toolweave.studio import avatar, compare
from toolweave.studio.avatar import drawn, give_avatar, paint
from toolweave.studio.builder import Builder
from toolweave.studio.cast import cast
from toolweave.studio.compare import Wanted, visits_for
from toolweave.studio.consent import Answer
from toolweave.studio.conversation import Conversation, State, Step
from toolweave.studio.form import avatar_file, set_avatar
from toolweave.studio.talks import Place, begin, fork, own_talk, places, talks
from toolweave.studio.workspace import Home, Workspace
from toolweave.tools.base import BaseTool
from toolweave.types import Lang

AGENT = "weather_painter"


@pytest.fixture
def home(workspace: Workspace, llm: str) -> Home:
    """A home whose first agent asks the scripted model and may run code."""
    made = workspace.home()
    made.agents()
    made.save_model("scripted", {"type": "openai", "model": "scripted", "api_base": llm})
    spec = made.agent(AGENT)
    tools = {**spec.builder["tools"], "code_interpreter": {"name": "code", "is_active": True, "use": True}}
    made.save_agent(AGENT, replace(spec, builder=spec.builder | {"model": "scripted", "tools": tools}))
    return made


def steps(talk: Conversation, turn: int = -1) -> list[Step]:
    return [part for part in talk.turns[turn].parts if isinstance(part, Step)]


def ask(home: Home, talk: Conversation, query: str) -> None:
    talk.ask(query, lambda source: cast(home, AGENT, source, confirm=talk.consent))


def until_asked(talk: Conversation) -> None:
    while talk.question is None:
        assert talk.running
        time.sleep(0.01)


# --- consent ---------------------------------------------------------------------------------


def test_code_runs_only_when_the_user_allows_it(home: Home) -> None:
    talk = home.conversation(AGENT, "s")
    for answer, error, asked in ((Answer.NO, True, True), (Answer.ONCE, False, True), (Answer.ALWAYS, False, True),
                                 (None, False, False)):  # fmt: skip
        ask(home, talk, "运行代码")
        if asked:
            until_asked(talk)
            assert talk.question is not None
            assert (talk.question.tool, "print" in talk.question.arguments) == ("code_interpreter", True)
            assert answer is not None
            talk.answer(answer)
        talk.wait(60)
        (step,) = steps(talk)
        assert step.error is error, step.observation
        assert talk.question is None
    assert steps(talk)[0].observation == "42"
    other = home.conversation(AGENT, "another")
    ask(home, other, "运行代码")
    until_asked(other)  # what was allowed was allowed there only
    other.stop()
    other.wait(60)
    assert other.turns[0].state is State.STOPPED
    assert other.question is None


def test_a_client_of_the_api_is_not_asked(home: Home) -> None:
    talk = home.conversation(AGENT, "s")
    talk.ask("运行代码", lambda source: cast(home, AGENT, source))
    talk.wait(60)
    assert steps(talk)[0].observation == "42"


# --- forks -----------------------------------------------------------------------------------


def test_a_conversation_forks_from_question_step_and_answer(home: Home) -> None:
    talk = home.conversation(AGENT, "s")
    assert places(talk, Lang.EN) == {}
    for query in ("你能做什么", "查一下杭州的天气，再画一张西湖"):
        ask(home, talk, query)
        talk.wait(60)
    before = [replace(turn) for turn in talk.turns]
    found = places(talk, Lang.EN)
    assert list(found) == ["0.0", "0.", "1.0", "1.1", "1.2", "1."]
    assert found["1.1"] == "Turn 2, after step 1: amap_weather"

    question = fork(home, AGENT, "s", talk, Place.read("1.0"))
    assert (question.query, question.rerun) == ("查一下杭州的天气，再画一张西湖", None)
    assert [turn.query for turn in home.conversation(AGENT, question.talk).turns] == ["你能做什么"]
    answer = fork(home, AGENT, "s", talk, Place.read("1."))
    assert home.conversation(AGENT, answer.talk).turns == talk.turns

    recorded = home.traces.counts().traces
    step = fork(home, AGENT, "s", talk, Place.read("1.1"))
    branch = home.conversation(AGENT, step.talk)
    branch.ask(step.query, lambda source: cast(home, AGENT, source, confirm=branch.consent, rerun=step.rerun))
    branch.wait(60)
    assert branch.turns[1].state is State.ANSWERED, branch.turns[1].note
    assert [(each.tool, each.observation) for each in steps(branch)] == [
        (each.tool, each.observation) for each in steps(talk)
    ]
    # What was played again is no new visit: two requests went on from the first step.
    assert home.traces.counts().traces == recorded + 2
    went_on = home.traces.trace(branch.turns[1].trace)
    first = home.traces.trace(home.traces.trace(went_on.previous or "").previous or "")
    assert first.exchange.source == home.traces.trace(talk.turns[1].trace).exchange.source

    assert talk.turns == before
    listed = talks(home, AGENT, "s", Lang.EN)
    assert set(listed) == {"s", question.talk, answer.talk, step.talk}
    assert next(iter(listed)) == step.talk
    assert own_talk(step.talk, "s") == step.talk
    assert own_talk("t.2", "s") == own_talk("s.left", "s") == own_talk(None, "s") == "s"
    for wrong in ("9.0", "1.x", "", "-1."):
        with pytest.raises(ToolweaveError):
            fork(home, AGENT, "s", talk, Place.read(wrong))


def test_a_step_that_was_allowed_is_not_asked_about_when_it_is_played_again(home: Home) -> None:
    talk = home.conversation(AGENT, "s")
    ask(home, talk, "运行代码，再画一只猫")
    until_asked(talk)
    talk.answer(Answer.ONCE)
    talk.wait(60)
    assert [step.tool for step in steps(talk)] == ["code_interpreter", "image_gen"]
    step = fork(home, AGENT, "s", talk, Place(0, 1))
    branch = home.conversation(AGENT, step.talk)
    branch.ask(step.query, lambda source: cast(home, AGENT, source, confirm=branch.consent, rerun=step.rerun))
    branch.wait(60)
    assert (steps(branch)[0].observation, steps(branch)[0].error) == ("42", False)


@given(st.integers(0, 99), st.none() | st.integers(0, 99))
def test_a_place_round_trips(turn: int, kept: int | None) -> None:
    assert Place.read(str(Place(turn, kept))) == Place(turn, kept)


def test_conversations_are_numbered_and_kept(home: Home) -> None:
    assert list(talks(home, AGENT, "s", Lang.EN)) == ["s"]
    assert [begin(home, AGENT, "s") for _ in range(2)] == ["s.2", "s.3"]
    assert begin(home, AGENT, "s2") == "s2.2"
    assert set(talks(home, AGENT, "s", Lang.EN)) == {"s.2", "s.3"}


# --- faces -----------------------------------------------------------------------------------


def test_the_builder_gives_a_face_and_leaves_the_users_own(home: Home, tmp_path: Path) -> None:
    for _ in Builder(home, AGENT, Lang.ZH).chat("我要一个诗人", "scripted"):
        pass
    face = avatar_file(home.agent(AGENT))
    assert face is not None
    assert face.read_bytes() == drawn("诗人") != drawn("画家")
    with Image.open(face) as made:
        assert made.size == (256, 256)

    picture = tmp_path / "me.png"
    Image.new("RGB", (9, 9)).save(picture)
    set_avatar(home, AGENT, picture)
    assert not give_avatar(home, AGENT, "a poet")
    own = avatar_file(home.agent(AGENT))
    assert own is not None
    assert own.read_bytes() == picture.read_bytes()


class Painter(BaseTool):
    """Paints without a service."""

    name = "image_gen"
    said = "![IMAGEGEN](https://pictures.example/a.png)"

    def call(self, params: str, **kwargs: object) -> str:
        """Return where the picture would be."""
        assert "a poet" in params
        return self.said


def test_a_face_is_painted_where_there_is_a_key(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    painted = io.BytesIO()
    Image.new("RGB", (1024, 1024), "red").save(painted, "PNG")
    monkeypatch.setattr(avatar, "painter", lambda *_: Painter())
    monkeypatch.setattr(avatar, "fetch", lambda url: painted.getvalue() if url.endswith("a.png") else b"")
    assert give_avatar(home, AGENT, "a poet")
    face = avatar_file(home.agent(AGENT))
    assert face is not None
    with Image.open(face) as picture:
        assert (picture.size, picture.getpixel((9, 9))) == ((256, 256), (255, 0, 0))
    monkeypatch.setattr(avatar, "fetch", lambda _: b"no picture")
    assert paint(Painter(), "a poet") is None
    assert not give_avatar(home, AGENT, "a poet")


def test_without_a_key_nobody_paints(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DASHSCOPE_API_KEY", raising=False)
    assert avatar.painter(home, AGENT, home.agent(AGENT)) is None
    home.keep_key("tool:image_gen", "secret")
    assert avatar.painter(home, AGENT, home.agent(AGENT)) is not None


# --- comparisons -----------------------------------------------------------------------------


def test_held_out_visits_are_spread_over_lines_and_languages() -> None:
    assert len(visits_for(60)) == 60
    assert {visit.line for visit in visits_for(60)} > {Line.NO_CALL, Line.TWO_CALL, Line.FOLLOW_UP}
    assert {visit.episode.lang for visit in visits_for(12)} == set(Lang)
    assert len(visits_for(1)) == 1


def test_a_comparison_outlives_its_studio(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compare.latest(home) is None
    done = compare.begin(home, Wanted("scripted", "scripted", 3, AGENT, Lang.EN))
    done.wait(120)
    assert done.result is not None, done.error
    del compare._latest[home]  # as another Studio finds it
    again = compare.latest(home)
    assert again is not None
    assert not again.running
    assert (again.result, again.base, again.tuned) == (done.result, done.base, done.tuned)

    broken_off = done.contest.folder
    (broken_off / "tuned.jsonl").unlink()
    del compare._latest[home]
    begun = compare.latest(home)
    assert begun is not None
    begun.wait(120)
    assert begun.result == done.result

    (broken_off / "tuned.jsonl").unlink()
    compare.begin(home, Wanted("gone", "gone", 2)).wait(120)
    del compare._latest[home]
    failed = compare.latest(home)
    assert failed is not None
    assert "gone" in failed.error
