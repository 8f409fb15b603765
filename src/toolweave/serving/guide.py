"""Constrained decoding: which tokens may come next, so that a call always is one that a tool can take.

llguidance follows the grammars of `toolweave.serving.grammar`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from toolweave.serving.grammar import GuideError

_MAX_GRAMMAR = 256 * 1024  # characters
# This near to a reply's limit it is first asked how long its call would take to close; with no more tokens than so to
# spare it is closed, as the next one may begin something that has to be said whole.
_FAR, _SPARE = 512, 24


class _Closer:
    """Finds a short way to the end of a call or a JSON text, for a reply that has few tokens left."""

    def __init__(self, tokens: Mapping[str, int], vocabulary: int) -> None:
        # Punctuation is spelled as itself by byte-level and by SentencePiece tokenizers.
        # A tokenizer may have more tokens than its model has logits.
        def ids(pattern: str) -> np.ndarray:
            found = [token for text, token in tokens.items() if token < vocabulary and re.fullmatch(pattern, text)]
            return np.array(found, dtype=int)

        self._quote, self._bracket, self._comma = ids(r'"[}\]]*'), ids(r"[}\]]+"), ids(r",.?")
        self._letters = ids("[qzK]")

    def way(self, matcher: LLMatcher, most: int) -> list[int] | None:
        """Return at most `most` tokens that lead from here to where the reply may end; None if none are found."""
        ahead, found = matcher.deep_copy(), list[int]()
        while not ahead.is_accepting():
            tokens = ahead.compute_ff_tokens() or [self._next(_allowed(ahead))]
            if len(found) + len(tokens) > most or not ahead.consume_tokens(tokens):
                return None
            found += tokens
        return found

    def _next(self, allowed: np.ndarray) -> int:
        in_text = bool(len(self._letters)) and bool(allowed[self._letters].all())
        for wanted in (self._quote,) if in_text else (self._bracket, self._comma, self._quote):
            if (fitting := wanted[allowed[wanted]]).size:
                return int(fitting[0])
        return int(allowed.argmax())


def _allowed(matcher: LLMatcher) -> np.ndarray:
    """Return which tokens may come next, as booleans."""
    bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    return np.unpackbits(bits, bitorder="little").astype(bool)


class Guide:
    """Follows one reply through a grammar, and closes a call before its tokens run out.

    A grammar may grow beyond its limits on the way. Then a strict guide raises GuideError; another one leaves the rest
    of the reply free.
    """

    def __init__(self, matcher: LLMatcher, closer: _Closer, *, strict: bool) -> None:
        self._matcher, self._closer, self._strict = matcher, closer, strict
        self._given_up = False
        self._way: list[int] = []
        self._look_at = _FAR

    @property
    def done(self) -> bool:
        """Whether the grammar is complete: nothing more may be said."""
        return not self._given_up and bool(self._matcher.is_stopped())

    @property
    def may_stop(self) -> bool:
        """Whether the reply may end here; not so inside a call, where a stop word is only text."""
        return self._given_up or bool(self._matcher.is_accepting())

    def limit(self, logits: Tensor, left: int) -> Tensor:
        """Return logits [vocabulary] with the tokens that may not come next at minus infinity.

        With `left` tokens to go, this one included, and a call not closed in them otherwise, only what closes it may.
        """
        if not self._given_up:
            if not self._way and left <= self._look_at and not self.may_stop:
                self._look(left)
            allowed = torch.from_numpy(_allowed(self._matcher)[: len(logits)])
            self._check()
        if self._given_up:
            return logits
        if self._way:
            allowed = torch.zeros_like(allowed)
            allowed[self._way[0]] = True
        return logits.masked_fill(~allowed.to(logits.device), -torch.inf)

    def accept(self, token: int) -> None:
        """Go on by a token that was chosen."""
        if not self._given_up:
            self._matcher.consume_token(token)
            self._way = self._way[1:]
            self._check()

    def _look(self, left: int) -> None:
        way = self._closer.way(self._matcher, left)
        spare = left - len(way) if way else left
        if way and spare <= _SPARE:
            self._way = way
        self._look_at = left - max(1, (spare - _SPARE) // 2)

    def _check(self) -> None:
        if self._matcher.is_error() and self._strict:
            raise GuideError(f"the grammar cannot be followed: {_first_line(self._matcher.get_error())}")
        self._given_up = bool(self._matcher.is_error())


class Guides:
    """Makes guides for one tokenizer, whose model has `vocabulary` logits and ends replies with `end_ids`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary: int, end_ids: Sequence[int]) -> None:
        self._source = tokenizer, vocabulary, list(end_ids)
        self._closer = _Closer(tokenizer.get_vocab(), vocabulary)
        self._tokenizer: LLTokenizer | None = None
        self._lock = threading.Lock()

    def start(self, grammar: str, *, strict: bool = True) -> Guide:
        """Return a guide at the start of a reply. Raises GuideError for a grammar that makes no sense or is too large.

        Takes tens of milliseconds and more: not a thing for the event loop.
        """
        if len(grammar) > _MAX_GRAMMAR:
            raise GuideError(f"the schemas have {len(grammar)} characters; at most {_MAX_GRAMMAR} are followed")
        guide = LLMatcher(self._prepared(), grammar, log_level=0)
        if guide.is_error():
            raise GuideError(f"the schema cannot be followed: {_first_line(guide.get_error())}")
        return Guide(guide, self._closer, strict=strict)

    def _prepared(self) -> LLTokenizer:
        with self._lock:
            if self._tokenizer is None:
                tokenizer, vocabulary, end_ids = self._source
                if not isinstance(tokenizer, PreTrainedTokenizerFast):
                    raise GuideError("constrained decoding needs a model with a fast tokenizer (tokenizer.json)")
                self._tokenizer = from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=end_ids)
            return self._tokenizer


def _first_line(error: str) -> str:
    return error.strip().splitlines()[0][:300] if error.strip() else "unknown reason"
