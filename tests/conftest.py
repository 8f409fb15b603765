"""Tiny models that behave like real ones: safetensors, byte-level tokenizer, ChatML template."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from scripted_llm import scripted_llm
from stub_server import serve
from tiny import bpe_tokenizer, byte_tokenizer, save_tiny_llama
from toolweave.data.synthesize import training_groups
from toolweave.studio.workspace import Workspace

# How fast an example runs says nothing about the law: a busy machine must not fail a test.
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples every time: a test fails for what was changed, not for what chance found.
settings.register_profile("laws", settings.get_profile("search"), derandomize=True)
settings.load_profile("laws")


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `toolweave.models.base_models.load` takes, with one token a byte."""
    return save_tiny_llama(tmp_path_factory.mktemp("tiny-model"), byte_tokenizer())


@pytest.fixture(scope="session")
def bpe_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a tokenizer that keeps whole visits within 2,048 tokens."""
    samples = [sample for group in training_groups(160) for sample in group]
    texts = (text for s in samples for text in (s.messages[0]["content"], s.messages[-1]["content"], s.completion))
    return save_tiny_llama(tmp_path_factory.mktemp("bpe-model"), bpe_tokenizer(texts))


@pytest.fixture(scope="module")
def llm() -> Iterator[str]:
    """Base URL of a server of the scripted model."""
    with serve(scripted_llm()) as url:
        yield f"{url}/v1"


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """An empty workspace of the Studio."""
    made = Workspace(tmp_path / "studio")
    yield made
    made.close()
