"""Run the parity gate over every form of a model: adapter, merged, embedded server, GGUF, and any other server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import openai
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from toolweave.models.base_models import load
from toolweave.models.presets import Endpoint
from toolweave.models.server_errors import explain
from toolweave.models.template import ChatTemplate
from toolweave.serving.engine import Engine
from toolweave.serving.sampling import SamplingParams
from toolweave.types import Sample
from toolweave.weights.manifest import Manifest
from toolweave.weights.parity import Agreement, Reply, compare, greedy, load_adapter, parity_requests, reply_tokens

MAX_TOKENS = 48


def run_parity(
    folder: Path,
    *,
    adapter: Path | None = None,
    gguf: Sequence[Path] = (),
    api_bases: Sequence[str] = (),
    others: Mapping[str, Reply] | None = None,
    count: int = 50,
) -> Iterator[Agreement]:
    """Yield how each form agrees with the merged model of `folder` by transformers, in float32, on `count` requests.

    `api_bases` are servers of the same model, such as vLLM; `others` are more forms by name, which say at most
    MAX_TOKENS. Raises ModelError when a form cannot be loaded.
    """
    requests = parity_requests(count)
    merged = load(str(folder), torch.float32)
    template = merged.template
    reference = greedy(merged.model, template, MAX_TOKENS)
    # A server tells text, not tokens, so every form is compared by the tokens of its text.
    expected = [_canonical(reference, template)(request) for request in requests]
    if adapter is not None:
        manifest = Manifest.of_adapter(adapter)
        adapted, _ = load_adapter(adapter, manifest.base)
        yield compare(
            "adapter", requests, expected, _canonical(greedy(adapted, template, MAX_TOKENS), template), template
        )
    engine = Engine(merged)
    try:
        yield compare("embedded engine", requests, expected, _embedded(engine), template)
    finally:
        engine.close()
    for path in gguf:
        reply = _canonical(greedy(_from_gguf(path), template, MAX_TOKENS), template)
        yield compare(path.name, requests, expected, reply, template)
    for api_base in api_bases:
        yield compare(api_base, requests, expected, _served(api_base, template), template)
    for name, reply in (others or {}).items():
        yield compare(name, requests, expected, _canonical(reply, template), template)


def _from_gguf(path: Path) -> PreTrainedModel:
    """Read the weights back. The chat template in the file is for others: transformers does not read it."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32
    )
    model.eval()
    return model


def _canonical(reply: Reply, template: ChatTemplate) -> Reply:
    def said(request: Sample) -> list[int]:
        text = template.tokenizer.decode(reply(request), skip_special_tokens=True)
        return reply_tokens(str(text).rstrip("\ufffd"), template)

    return said


def _embedded(engine: Engine) -> Reply:
    def reply(request: Sample) -> list[int]:
        params = SamplingParams(max_tokens=MAX_TOKENS)
        generation = engine.submit(engine.template.request_ids(request), params)
        return reply_tokens("".join(generation), engine.template)

    return reply


def _served(api_base: str, template: ChatTemplate) -> Reply:
    endpoint = Endpoint.of({"model_server": "vllm-server", "api_base": api_base})
    client = openai.OpenAI(base_url=endpoint.url, api_key=endpoint.key)
    try:
        model = client.models.list().data[0].id
    except openai.OpenAIError as error:
        raise explain(error, endpoint, "") from None

    def reply(request: Sample) -> list[int]:
        try:
            answer = client.completions.create(
                model=model,
                prompt=template.request_ids(request),
                temperature=0,
                max_tokens=MAX_TOKENS,
            )
        except openai.OpenAIError as error:
            raise explain(error, endpoint, model) from None
        return reply_tokens(answer.choices[0].text, template)

    return reply
