"""The embedded server: the engine's laws on tiny models, and the OpenAI client over real HTTP."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest
import torch
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from conftest import byte_tokenizer
from toolweave.errors import ModelError, ServerError
from toolweave.models.base_models import LoadedModel
from toolweave.models.template import ChatTemplate
from toolweave.serving import engine as engine_module
from toolweave.serving.app import create_app
from toolweave.serving.engine import Engine
from toolweave.serving.generation import FinishReason, TokenLogprob
from toolweave.serving.sampling import RequestError, SamplingParams
from toolweave.serving.server import deploy
from toolweave.serving.text import TextStream
from toolweave.types import Message
from toolweave.weights.manifest import Manifest
from waiting import wait_until

TEMPLATE = ChatTemplate(byte_tokenizer())
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": len(TEMPLATE.tokenizer),
    "max_position_embeddings": 8192,
    "bos_token_id": None,
    "eos_token_id": None,
}
REPLIES = {
    "天气": "朝阳区今天晴，12°C ☀️。\nObservation: 12",
    "hi": "Hello! 你好 👋",
    "call": 'Action: w\nAction Input: {"a": "海淀区"}\nObservation:',
}
SYSTEM = "You are a terse assistant. " * 8
Ids = list[int]


def lively(model: LlamaForCausalLM | Qwen3ForCausalLM) -> LlamaForCausalLM | Qwen3ForCausalLM:
    """Make random weights large, so that greedy replies depend on the whole prompt."""
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() == 2:
                weights.mul_(4)
    return model.eval()


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def random_model(request: pytest.FixtureRequest) -> LlamaForCausalLM | Qwen3ForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        if request.param == "llama":
            return lively(LlamaForCausalLM(LlamaConfig(**SHAPE)).float())
        return lively(Qwen3ForCausalLM(Qwen3Config(**SHAPE)).float())


@pytest.fixture(scope="module")
def talker() -> LoadedModel:
    """A model that has learned the `REPLIES` by heart."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**SHAPE)).float()
    rows = []
    for query, reply in REPLIES.items():
        for system in ("", SYSTEM):
            prompt = TEMPLATE.prompt_ids(chat(query, system))
            rows.append((prompt, TEMPLATE.completion_ids(reply)))
    length = max(len(prompt) + len(reply) for prompt, reply in rows)
    ids = torch.tensor([p + r + [0] * (length - len(p) - len(r)) for p, r in rows])
    labels = torch.tensor([[-100] * len(p) + r + [-100] * (length - len(p) - len(r)) for p, r in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(400):
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss < 0.01:
            break
    assert loss < 0.05
    return LoadedModel(model.eval(), TEMPLATE)


@contextmanager
def engine_on(loaded: LoadedModel, **options: int) -> Iterator[Engine]:
    engine = Engine(loaded, **options)
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture
def engine(talker: LoadedModel) -> Iterator[Engine]:
    with engine_on(talker, max_length=2048) as engine:
        yield engine


def chat(query: str, system: str = "") -> list[Message]:
    head = [Message(role="system", content=system)] if system else []
    return [*head, Message(role="user", content=query)]


# --- the engine -------------------------------------------------------------------------------------------------


def prompts() -> list[Ids]:
    dice = random.Random(0)
    system = [dice.randrange(256) for _ in range(300)]
    made = [
        system[: dice.choice([0, 20, 150, 300])] + [dice.randrange(256) for _ in range(dice.choice([1, 5, 90]))]
        for _ in range(12)
    ]
    return [*made, made[0], made[5]]


def tokens_of(engine: Engine, wanted: list[Ids], monkeypatch: pytest.MonkeyPatch) -> list[Ids]:
    """Run all prompts at once and return the tokens of each; nothing but max_tokens ends them."""
    seen: dict[int, Ids] = {}
    deliver = engine._deliver

    def record(row: engine_module._Row, token: int, measured: TokenLogprob | None) -> FinishReason | None:
        seen.setdefault(id(row.generation), []).append(token)
        return deliver(row, token, measured)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_deliver", record)
        patch.setattr(engine, "_end_ids", set())
        # A step that fails is not tried again, one request at a time.
        patch.setattr(engine, "_step", lambda: engine._advance(range(len(engine._rows))))
        generations = [engine.submit(prompt, SamplingParams(max_tokens=12)) for prompt in wanted]
        for generation in generations:
            "".join(generation)
    return [seen[id(generation)] for generation in generations]


@pytest.fixture(scope="module")
def expected(random_model: LlamaForCausalLM | Qwen3ForCausalLM) -> list[Ids]:
    replies = []
    for prompt in prompts():
        ids = torch.tensor([prompt])
        out = random_model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0
        )
        replies.append(out[0, len(prompt) :].tolist())
    return replies


@pytest.mark.parametrize(
    ("max_batch", "cache_tokens", "step_tokens"), [(1, 0, 1024), (16, 32768, 1024), (4, 700, 50), (8, 0, 64)]
)
def test_replies_depend_neither_on_the_batch_nor_on_the_cache(
    random_model: LlamaForCausalLM | Qwen3ForCausalLM,
    expected: list[Ids],
    max_batch: int,
    cache_tokens: int,
    step_tokens: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_module, "_STEP_TOKENS", step_tokens)
    loaded = LoadedModel(random_model, TEMPLATE)
    with engine_on(loaded, max_batch=max_batch, cache_tokens=cache_tokens) as engine:
        assert tokens_of(engine, prompts(), monkeypatch) == expected  # cold
        assert tokens_of(engine, prompts(), monkeypatch) == expected  # warm
        assert engine._prefixes.tokens <= cache_tokens


def test_a_known_prefix_is_not_computed_again(engine: Engine) -> None:
    first = engine.submit(TEMPLATE.prompt_ids(chat("hi", SYSTEM)))
    assert "".join(first) == REPLIES["hi"]
    again = engine.submit(TEMPLATE.prompt_ids(chat("hi", SYSTEM)))
    other = engine.submit(TEMPLATE.prompt_ids(chat("天气", SYSTEM)))
    assert "".join(again) == REPLIES["hi"]
    assert "".join(other) == REPLIES["天气"]
    assert first.usage.cached_tokens == 0
    assert again.usage.cached_tokens == again.usage.prompt_tokens - 1
    assert other.usage.cached_tokens > len(SYSTEM)


def test_requests_that_come_together_compute_their_prefix_once(engine: Engine) -> None:
    queries = [*REPLIES, *REPLIES]
    generations = [engine.submit(TEMPLATE.prompt_ids(chat(query, SYSTEM))) for query in queries]
    assert ["".join(generation) for generation in generations] == [REPLIES[query] for query in queries]
    assert sum(generation.usage.cached_tokens < len(SYSTEM) for generation in generations) == 1


def test_the_model_is_given_back(talker: LoadedModel) -> None:
    before = talker.model.config._attn_implementation
    weights = {name: weight.clone() for name, weight in talker.model.state_dict().items()}
    with engine_on(talker):
        assert talker.model.config._attn_implementation != before
    assert talker.model.config._attn_implementation == before
    assert_close(talker.model.state_dict(), weights, rtol=0, atol=0)


@pytest.mark.parametrize("stop", ["Observation:", "servation:", "\nObs", "☀️", "今天", "x"])
def test_a_stop_word_ends_the_text_before_itself(engine: Engine, stop: str) -> None:
    generation = engine.submit(TEMPLATE.prompt_ids(chat("天气")), SamplingParams(stop=(stop, "never")))
    assert "".join(generation) == REPLIES["天气"].split(stop)[0]
    assert generation.finish_reason is FinishReason.STOP


def test_characters_come_whole_also_at_the_limit(engine: Engine) -> None:
    prompt = TEMPLATE.prompt_ids(chat("天气"))
    reply = REPLIES["天气"]
    for limit in range(1, 20):
        generation = engine.submit(prompt, SamplingParams(max_tokens=limit))
        deltas = list(generation)
        assert "\ufffd" not in "".join(deltas)
        assert "".join(deltas) == reply.encode()[:limit].decode(errors="ignore")
        assert generation.finish_reason is FinishReason.LENGTH
        assert generation.usage.completion_tokens == limit


def test_a_seed_gives_the_same_reply_alone_and_among_others(engine: Engine) -> None:
    prompt = TEMPLATE.prompt_ids(chat("ratio"))
    params = SamplingParams(temperature=1.5, top_p=0.95, top_k=50, seed=7, max_tokens=20)
    alone = "".join(engine.submit(prompt, params))
    others = [engine.submit(prompt, SamplingParams(temperature=1.5, seed=n, max_tokens=20)) for n in range(5)]
    among = "".join(engine.submit(prompt, params))
    texts = {"".join(other) for other in others}
    assert alone == among
    assert len(texts) > 1


def test_top_k_of_one_is_greedy(engine: Engine) -> None:
    params = SamplingParams(temperature=2.0, top_k=1)
    assert "".join(engine.submit(TEMPLATE.prompt_ids(chat("hi")), params)) == REPLIES["hi"]
    params = SamplingParams(temperature=2.0, top_p=1e-6)
    assert "".join(engine.submit(TEMPLATE.prompt_ids(chat("hi")), params)) == REPLIES["hi"]


def test_cancelling_frees_the_place(talker: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine_on(talker, max_batch=1) as engine:
        prompt = TEMPLATE.prompt_ids(chat("hi"))
        monkeypatch.setattr(engine, "_end_ids", set())
        endless = engine.submit(prompt, SamplingParams(max_tokens=4000))
        waiting = engine.submit(prompt, SamplingParams(max_tokens=4000))
        next_one = engine.submit(prompt, SamplingParams(max_tokens=3))
        next(iter(endless))
        waiting.cancel()
        endless.cancel()
        assert "".join(next_one) == "Hel"
        assert list(waiting) == []
        assert endless.usage.completion_tokens < 4000
        assert waiting.finish_reason is FinishReason.CANCELLED


def test_the_context_ends_a_reply(talker: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = TEMPLATE.prompt_ids(chat("hi"))
    with engine_on(talker, max_length=len(prompt) + 1) as engine:
        generation = engine.submit(prompt)
        assert "".join(generation) == "H"
        assert generation.finish_reason is FinishReason.LENGTH
        with pytest.raises(RequestError, match=f"{len(prompt) + 1} tokens; at most {len(prompt)} fit"):
            engine.submit([*prompt, 1])
    with pytest.raises(RequestError, match="empty"):
        engine.submit([])
    with pytest.raises(ServerError, match="closed"):
        engine.submit(prompt)


def test_a_reply_whose_end_is_ignored_is_as_long_as_allowed(engine: Engine) -> None:
    query = next(iter(REPLIES))
    prompt = TEMPLATE.prompt_ids(chat(query, SYSTEM))
    ended = engine.submit(prompt)
    assert "".join(ended) == REPLIES[query]
    allowed = ended.usage.completion_tokens + 5
    longer = engine.submit(prompt, SamplingParams(max_tokens=allowed, ignore_eos=True))
    assert "".join(longer).startswith(REPLIES[query])
    assert (longer.usage.completion_tokens, longer.finish_reason) == (allowed, FinishReason.LENGTH)


def test_a_failing_model_ends_its_requests_not_the_engine(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = TEMPLATE.prompt_ids(chat("hi"))

    def fail(indices: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_advance", fail)
        with pytest.raises(ServerError, match="out of memory"):
            "".join(engine.submit(prompt))
    assert "".join(engine.submit(prompt)) == REPLIES["hi"]


def test_closing_ends_what_runs(talker: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine_on(talker) as engine:
        monkeypatch.setattr(engine, "_end_ids", set())
        deltas = iter(engine.submit(TEMPLATE.prompt_ids(chat("hi")), SamplingParams(max_tokens=4000)))
        next(deltas)
    with pytest.raises(ServerError, match="closed"):
        list(deltas)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}, {"max_tokens": 0}, {"seed": 2**70}]
)
def test_parameters_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(RequestError, match=next(iter(wrong))):
        SamplingParams(**wrong)


# --- text -------------------------------------------------------------------------------------------------------

LETTERS = st.sampled_from("abc你好☀️👩‍🔬")


@settings(max_examples=200)
@given(st.text(LETTERS, max_size=30), st.lists(st.text(LETTERS, min_size=1, max_size=4), max_size=3))
def test_text_comes_up_to_the_stop_word_that_is_complete_first(text: str, stop: list[str]) -> None:
    stream = TextStream(TEMPLATE.tokenizer, stop)
    deltas = []
    for token in TEMPLATE.tokenizer(text)["input_ids"]:
        deltas.append(stream.push(token))
        if stream.stopped:
            break
    deltas.append(stream.flush())
    ends = sorted((text.index(word) + len(word), text.index(word)) for word in stop if word in text)
    assert "".join(deltas) == (text[: ends[0][1]] if ends else text)
    assert stream.stopped == bool(ends)
    assert all("\ufffd" not in delta for delta in deltas)


# --- HTTP -------------------------------------------------------------------------------------------------------


@contextmanager
def served(engine: Engine, name: str = "models/tiny") -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(create_app(engine, name, "v06"), port=0, log_level="warning", ws="none"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def shared_engine(talker: LoadedModel) -> Iterator[Engine]:
    with engine_on(talker, max_length=2048) as engine:
        yield engine


@pytest.fixture(scope="module")
def url(shared_engine: Engine) -> Iterator[str]:
    with served(shared_engine) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_chat_with_the_openai_client(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="tiny", messages=chat("hi"), temperature=0)
    assert reply.object == "chat.completion"
    assert reply.model == "tiny"
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].message.content == REPLIES["hi"]
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == len(TEMPLATE.prompt_ids(chat("hi")))
    assert reply.usage.completion_tokens == len(TEMPLATE.completion_ids(REPLIES["hi"]))
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


@pytest.mark.parametrize("query", REPLIES)
@pytest.mark.parametrize("stop", [None, "Observation:", ["好", "Observation:\n"]])
def test_a_stream_says_the_same(client: openai.OpenAI, query: str, stop: str | list[str] | None) -> None:
    request = {"model": "models/tiny", "messages": chat(query), "temperature": 0, "stop": stop, "max_tokens": 60}
    whole = client.chat.completions.create(**request)
    chunks = list(client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks[-3:-1]] == [None, whole.choices[0].finish_reason]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_completions_take_the_text_as_it_is(client: openai.OpenAI) -> None:
    prompt = TEMPLATE.tokenizer.decode(TEMPLATE.prompt_ids(chat("call")))
    whole = client.completions.create(model="tiny", prompt=prompt, stop="Observation:", temperature=0)
    assert whole.object == "text_completion"
    assert whole.choices[0].text == REPLIES["call"].removesuffix("Observation:")
    chunks = list(client.completions.create(model="tiny", prompt=[prompt], stop="Observation:", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_completions_take_token_ids(client: openai.OpenAI) -> None:
    ids = TEMPLATE.prompt_ids(chat("call"))
    for prompt in (ids, [ids]):
        reply = client.completions.create(model="tiny", prompt=prompt, stop="Observation:", temperature=0)
        assert reply.choices[0].text == REPLIES["call"].removesuffix("Observation:")
        assert reply.usage
        assert reply.usage.prompt_tokens == len(ids)


@pytest.mark.parametrize("strange", [-1, 10**6])
def test_a_token_that_the_model_does_not_know_is_refused(client: openai.OpenAI, strange: int) -> None:
    with pytest.raises(openai.BadRequestError, match=f"no token {strange}"):
        client.completions.create(model="tiny", prompt=[strange])


def test_the_models_own_settings_decide_what_a_request_leaves_open(client: openai.OpenAI) -> None:
    replies = {
        client.chat.completions.create(model="tiny", messages=chat("hm")).choices[0].message.content for _ in range(3)
    }
    assert len(replies) == 1  # no do_sample in generation_config: greedy


def test_content_may_come_in_parts_and_unknown_fields_are_ignored(url: str) -> None:
    parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    body = {"messages": [{"role": "user", "content": parts, "name": "x"}], "frequency_penalty": 1, "foo": {}}
    reply = httpx.post(f"{url}/v1/chat/completions", json=body)
    assert reply.json()["choices"][0]["message"]["content"] == REPLIES["hi"]


def test_concurrent_requests_get_what_they_would_get_alone(client: openai.OpenAI) -> None:
    def ask(query: str) -> str | None:
        reply = client.chat.completions.create(model="tiny", messages=chat(query, SYSTEM), temperature=0)
        return reply.choices[0].message.content

    queries = [*REPLIES] * 6
    with ThreadPoolExecutor(len(queries)) as pool:
        assert list(pool.map(ask, queries)) == [REPLIES[query] for query in queries]


def test_models_and_health(client: openai.OpenAI, url: str) -> None:
    models = client.models.list().data
    assert [model.id for model in models] == ["models/tiny", "tiny"]
    assert models[0].model_extra is not None
    assert models[0].model_extra["dialect"] == "v06"
    assert httpx.get(f"{url}/health").json() == {"status": "ok", "running": 0, "waiting": 0}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"messages": "hi"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "no role"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "content"),
        ({"temperature": "warm"}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"stop": 5}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"messages": [{"role": "user", "content": "long " * 500}]}, "tokens; at most 2047 fit"),
    ],
)
def test_a_wrong_request_is_answered_with_what_is_wrong(
    client: openai.OpenAI, change: dict[str, object], says: str
) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **change}
    with pytest.raises(openai.BadRequestError) as error:
        client.post("/chat/completions", body=body, cast_to=object)
    assert says in error.value.message
    assert error.value.type == "invalid_request_error"


@pytest.mark.parametrize("prompt", [["a", "b"], [], [[1], [2]], [[]], 5])
def test_completions_take_one_text(url: str, prompt: object) -> None:
    reply = httpx.post(f"{url}/v1/completions", json={"model": "tiny", "prompt": prompt})
    assert reply.status_code == 400
    assert "prompt" in reply.json()["error"]["message"]


def test_broken_json_is_no_server_error(url: str) -> None:
    reply = httpx.post(f"{url}/v1/chat/completions", content="{", headers={"content-type": "application/json"})
    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_an_unknown_model_names_the_served_one(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="models/tiny") as error:
        client.chat.completions.create(model="gpt-9", messages=chat("hi"))
    assert error.value.code == "model_not_found"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_place(
    talker: LoadedModel, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    with engine_on(talker) as engine, served(engine) as url:
        monkeypatch.setattr(engine, "_end_ids", set())
        # Slow enough that the reply would still run when the test ends.
        step = engine._step
        monkeypatch.setattr(engine, "_step", lambda: (time.sleep(0.05), step()))
        body = {"messages": chat("hi"), "stream": stream, "max_tokens": 4000}
        if stream:
            with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as reply:
                lines = reply.iter_lines()  # kept: without its iterator the reply would be closed at once
                assert next(lines).startswith("data: ")
                wait_until(lambda: engine.running == 1)
        else:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{url}/v1/chat/completions", json=body, timeout=1)
        wait_until(lambda: engine.running == 0)


def test_an_error_while_streaming_ends_the_stream(talker: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine_on(talker) as engine, served(engine) as url:

        def fail(indices: object) -> None:
            raise RuntimeError("out of memory")

        monkeypatch.setattr(engine, "_advance", fail)
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            with pytest.raises(openai.APIError, match="out of memory"):
                list(client.chat.completions.create(model="tiny", messages=chat("hi"), stream=True))
            with pytest.raises(openai.InternalServerError, match="out of memory"):
                client.chat.completions.create(model="tiny", messages=chat("hi"))


# --- deploy -----------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_refused_before_the_model_is_loaded() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ServerError, match=f"port {port} is in use"):
            deploy("/no/such/model", port=port)


def test_an_adapter_is_to_be_merged_first(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"toolweave export --ckpt_dir .* --merge_lora true"):
        deploy(tmp_path, port=0)


def test_another_template_than_in_training_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    for file in tiny_model_dir.iterdir():
        (tmp_path / file.name).symlink_to(file)
    Manifest("embedded", "0" * 16).save(tmp_path)
    with pytest.raises(ModelError, match="chat template"):
        deploy(tmp_path, port=0)


def test_deploy_serves_until_it_is_told_to_stop(tiny_model_dir: Path) -> None:
    command = [sys.executable, "-m", "toolweave", "deploy", "--ckpt_dir", str(tiny_model_dir), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        base = ready.split(" at ")[1].split()[0]
        reply = httpx.post(f"{base}/completions", json={"prompt": "hi", "max_tokens": 2}, timeout=60)
        process.terminate()
        assert process.wait(120) == -signal.SIGTERM
    assert reply.json()["usage"]["completion_tokens"] == 2
    assert "curl http://127.0.0.1:" in ready
