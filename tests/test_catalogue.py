"""The embedded catalogue: broad enough, consistent, and with nothing of the test part in the training rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cache

import pytest
from jsonschema import Draft202012Validator

from toolweave.data.catalogue import Agent, Breadth, Slot, Split, load_catalogue
from toolweave.data.synthesize import VISITS_PER_GROUP, Kind, held_out_episodes, training_groups
from toolweave.dialects import get_dialect
from toolweave.types import Episode, Lang, Sample, ToolCall

# A group for every agent and language.
VISITS = 2 * len(load_catalogue().known(Breadth.ALL)) * VISITS_PER_GROUP


@cache
def groups() -> tuple[tuple[Sample, ...], ...]:
    return tuple(map(tuple, training_groups(VISITS, breadth=Breadth.ALL)))


@cache
def held_out() -> tuple[Episode, ...]:
    return tuple(held_out_episodes(breadth=Breadth.ALL))


def queries(sample: Sample) -> Iterator[str]:
    """Yield what users say in a sample, with and without the notes that the client puts before it."""
    for message in sample.messages:
        if message["role"] == "user":
            yield message["content"]
            yield message["content"].partition(")")[2]


def test_the_catalogue_is_broad() -> None:
    core = load_catalogue().known(Breadth.CORE)
    assert len(core) >= 8
    assert len({tool.name for agent in core for tool in agent.tools}) >= 25
    assert sum(agent.held_out for agent in load_catalogue().agents) >= 2
    assert {"amap_weather", "image_gen"} <= {tool.name for agent in core for tool in agent.tools}
    assert set(map(id, core)) < set(map(id, load_catalogue().known(Breadth.ALL)))


def test_tool_names_are_unique() -> None:
    names = [tool.name for agent in load_catalogue().agents for tool in agent.tools]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("lang", Lang)
def test_every_tool_has_a_valid_schema(lang: Lang) -> None:
    for agent in load_catalogue().agents:
        for tool in agent.tools:
            Draft202012Validator.check_schema(tool.spec(lang).parameters)


def test_training_covers_agents_languages_and_kinds() -> None:
    metas = [sample.meta for group in groups() for sample in group]
    assert {meta["agent"] for meta in metas} == {agent.key for agent in load_catalogue().known(Breadth.ALL)}
    assert {meta["lang"] for meta in metas} == set(Lang)
    assert {meta["kind"] for meta in metas} == set(Kind)
    assert {meta["dialect"] for meta in metas} == {"agentfabric-v06", "agentfabric-v07"}


def test_the_starter_learns_no_tool_of_the_demo() -> None:
    demo = [agent for agent in load_catalogue().agents if agent.core or agent.held_out]
    theirs = {tool.spec(lang).description for agent in demo for tool in agent.tools for lang in Lang}
    learned = [sample for group in training_groups(40 * VISITS_PER_GROUP, breadth=Breadth.OTHERS) for sample in group]
    assert not {sample.meta["agent"] for sample in learned} & {agent.key for agent in demo}
    shown = {tool.description for sample in learned for tool in sample.tools}
    assert shown
    assert not shown & theirs


def test_held_out_visits_cover_languages_kinds_and_unseen_agents() -> None:
    assert len(held_out_episodes()) >= 200
    visits = held_out()
    unseen = {agent.key for agent in load_catalogue().agents if agent.held_out}
    for lang in Lang:
        of_lang = [visit for visit in visits if visit.lang is lang]
        assert {visit.meta["kind"] for visit in of_lang} == set(Kind)
        assert unseen <= {visit.meta["agent"] for visit in of_lang}


def test_no_held_out_query_is_trained_on() -> None:
    trained = {query for group in groups() for sample in group for query in queries(sample)}
    assert not [visit.turns[-1].query for visit in held_out() if visit.turns[-1].query in trained]


@pytest.mark.parametrize("lang", Lang)
def test_no_phrase_kept_for_testing_is_trained_on(lang: Lang) -> None:
    catalogue = load_catalogue()
    for tool in (tool for agent in catalogue.agents for tool in agent.tools):
        phrases = {kind: [plain(phrase) for phrase in by_lang[lang]] for kind, by_lang in tool.phrases.items()}
        for kind in ("followups", "missing"):
            assert phrases[kind][-1] not in phrases[kind][:-1]
        trained = {phrase for kind in ("clauses", "questions") for phrase in phrases[kind]} | {*phrases["missing"][:-1]}
        assert not trained & {*phrases["heldout"], phrases["missing"][-1]}
    kinds = ("greetings", "thanks", "identity", "capability", "chat")
    names = {"name", "functions"}
    trained, held = (
        {plain(pair["q"]) for kind in kinds for pair in catalogue.talk(kind, lang, split, names)} for split in Split
    )
    assert len(trained) > 700
    assert not trained & held


def plain(phrase: str) -> str:
    """Return a phrase without what its capitals, spaces and punctuation make different."""
    return "".join(char for char in phrase.casefold() if char.isalnum() or char in "{}_")


def slots_of(agents: Iterable[Agent], lang: Lang) -> list[Slot]:
    """Return the parameters' slots that list their values."""
    slots = (parameter.slot for agent in agents for tool in agent.tools for parameter in tool.parameters)
    return [slot for slot in slots if isinstance(slot.source.get(lang), list)]


@pytest.mark.parametrize("lang", Lang)
def test_no_held_out_value_is_trained_on(lang: Lang) -> None:
    catalogue = load_catalogue()
    tested = slots_of((agent for agent in catalogue.agents if agent.core or agent.held_out), lang)
    # A short list is a closed set: the same values are trained on and tested.
    held_out = {
        value
        for slot in tested
        for value in slot.listed(lang, Split.TEST)
        if value not in Slot(slot.source, {}).listed(lang, Split.TRAIN)
    }
    trained = {
        value for slot in slots_of(catalogue.known(Breadth.ALL), lang) for value in slot.listed(lang, Split.TRAIN)
    }
    assert len(held_out) > 200
    assert len({value for slot in tested for value in slot.more.get(lang, ())}) > 2_500
    assert not trained & held_out


def test_no_held_out_tool_is_trained_on() -> None:
    unseen = {tool.name for agent in load_catalogue().agents if agent.held_out for tool in agent.tools}
    for group in groups():
        for sample in group:
            # Names are varied by prefixes and suffixes, so look for the name inside.
            assert not [spec.name for spec in sample.tools if any(name in spec.name for name in unseen)]
            assert not [name for name in unseen if name in sample.messages[0]["content"]]


def test_samples_of_a_group_share_their_system_message() -> None:
    for group in groups():
        assert len({sample.messages[0]["content"] for sample in group}) == 1


def check_call(call: object, specs: dict[str, Draft202012Validator]) -> None:
    assert isinstance(call, ToolCall)
    specs[call.name].validate(call.arguments)


def test_every_rendered_call_is_valid_for_its_tool() -> None:
    calls = 0
    for group in groups():
        for sample in group:
            validators = {spec.name: Draft202012Validator(spec.parameters) for spec in sample.tools}
            for call in get_dialect(sample.meta["dialect"]).parse(sample.completion).calls:
                check_call(call, validators)
                calls += 1
    assert calls > VISITS // 2


def test_every_held_out_call_is_valid_for_its_tool() -> None:
    for visit in held_out():
        validators = {spec.name: Draft202012Validator(spec.parameters) for spec in visit.tools}
        for turn in visit.turns:
            for step in turn.steps:
                check_call(step.call, validators)


def test_of_two_calls_one_may_fail_and_the_other_is_told() -> None:
    """Where one failed, training answers apologise and tell a result; held-out visits with two calls have no error."""
    apologies, introductions = ("抱歉，操作失败：", "Sorry, that failed: "), ("结果如下：", "Here is the result: ")
    answers = [s.completion for group in groups() for s in group if s.meta["kind"] is Kind.TWO_CALL]
    both = [text for text in answers if any(a in text for a in apologies) and any(i in text for i in introductions)]
    assert 0 < len(both) < len(answers) / 4
    assert not [text for text in answers if any(a in text for a in apologies) and text not in both]
    for visit in held_out():
        if visit.meta["kind"] is Kind.TWO_CALL:
            assert not any(apology in visit.turns[-1].answer for apology in apologies)


def test_no_placeholder_is_left_over() -> None:
    names = {
        f"{{{slot}}}"
        for agent in load_catalogue().agents
        for tool in agent.tools
        for slot in (*tool.results, *(parameter.name for parameter in tool.parameters))
    }
    for group in groups():
        for sample in group:
            text = sample.completion + sample.messages[-1]["content"]
            assert not [name for name in names if name in text]


def test_synthesis_is_deterministic_for_a_seed() -> None:
    def rows(seed: int) -> str:
        return json.dumps([sample.to_json() for group in training_groups(48, seed) for sample in group])

    assert rows(3) == rows(3)
    assert rows(3) != rows(4)
    assert held_out_episodes(5) == held_out_episodes(5)
