"""Time one training step, without the optimiser: a batch as a prefix tree against one sample at a time.

A random model of middle size and a batch shaped like agent data: all visits share the system message
(the tools), and the second request of a visit repeats the first and grows it. Prints both times, their
ratio and both losses, and fails unless these are equal.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from toolweave.training import attention
from toolweave.training.loss import tree_loss
from toolweave.training.prefix_tree import Encoded, PrefixTree

VOCABULARY = 8192
VISITS = 8
ROUNDS = 2


def agent_batch(rng: random.Random) -> list[Encoded]:
    """Return two requests a visit, as long as those of a real agent, in tokens."""

    def some(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(VOCABULARY) for _ in range(count))

    system, samples = some(600), []
    for _ in range(VISITS):
        asked = system + some(30)
        called = asked + some(35)
        observed = called + some(40)
        samples += [Encoded(called, len(asked)), Encoded(observed + some(25), len(observed))]
    return samples


def one_by_one(model: nn.Module, samples: list[Encoded]) -> float:
    """Backward through every sample on its own, logits only where a label is; return the summed loss."""
    total = 0.0
    for sample in samples:
        ids = torch.tensor([sample.ids])
        labels = torch.tensor(sample.ids[sample.prompt :])
        logits: Tensor = model(ids, use_cache=False, logits_to_keep=len(labels) + 1).logits[0, :-1]
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
        loss.backward()
        total += loss.item()
    return total


def as_tree(model: nn.Module, samples: list[Encoded]) -> float:
    """Backward through the whole batch at once; return the summed loss."""
    loss = tree_loss(model, PrefixTree.build(samples))
    loss.backward()
    return loss.item()


def best_of(step: Callable[[], float], model: nn.Module) -> tuple[float, float]:
    """Return the shortest time in seconds of some rounds, and the loss."""
    seconds, loss = [], 0.0
    for _ in range(ROUNDS):
        model.zero_grad()
        started = time.perf_counter()
        loss = step()
        seconds.append(time.perf_counter() - started)
    return min(seconds), loss


def main() -> None:
    torch.manual_seed(0)
    samples = agent_batch(random.Random(0))
    config = LlamaConfig(
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        vocab_size=VOCABULARY,
    )
    model = LlamaForCausalLM(config).float()
    tree = PrefixTree.build(samples)
    print(f"{len(samples)} samples, {tree.nominal} tokens, {len(tree.tokens)} of them distinct")

    model.set_attn_implementation("sdpa")
    slow, expected = best_of(lambda: one_by_one(model, samples), model)
    print(f"one by one   {slow:7.2f} s  {tree.nominal / slow:8.0f} tokens/s  loss {expected:.4f}")
    model.set_attn_implementation(attention.NAME)
    fast, loss = best_of(lambda: as_tree(model, samples), model)
    print(f"prefix tree  {fast:7.2f} s  {tree.nominal / fast:8.0f} tokens/s  loss {loss:.4f}")
    print(f"ratio        {slow / fast:7.2f} times as fast")
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0.0)


if __name__ == "__main__":
    main()
