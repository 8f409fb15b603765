"""Constrained decoding: which tokens may come next, so that a call always is one that a tool can take.

llguidance follows the grammars of `toolweave.serving.grammar`; `toolweave.serving.quoting` leans free text towards
what was said.
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
from toolweave.serving.quoting import HEAD_START, Quoting, Vocabulary

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

    def in_text(self, allowed: np.ndarray) -> bool:
        """Tell by the tokens that may come next whether they go on a text that may be anything."""
        return bool(len(self._letters)) and bool(allowed[self._letters].all())

    def _next(self, allowed: np.ndarray) -> int:
        for wanted in (self._quote,) if self.in_text(allowed) else (self._bracket, self._comma, self._quote):
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

    def __init__(self, matcher: LLMatcher, closer: _Closer, quoting: Quoting | None, *, strict: bool) -> None:
        self._matcher, self._closer, self._quoting, self._strict = matcher, closer, quoting, strict
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
        """Return logits [vocabulary] with the tokens that may not come next at minus infinity, and quotes ahead.

        With `left` tokens to go, this one included, and a call not closed in them otherwise, only what closes it may.
        """
        if not self._given_up:
            if not self._way and left <= self._look_at and not self.may_stop:
                self._look(left)
            allowed = _allowed(self._matcher)[: len(logits)]
            self._check()
        if self._given_up:
            return logits
        if self._way:
            allowed = np.zeros_like(allowed)
            allowed[self._way[0]] = True
        limited = logits.masked_fill(torch.from_numpy(~allowed).to(logits.device), -torch.inf)
        if self._quoting is not None and not self.may_stop and self._closer.in_text(allowed):
            limited[self._quoting.preferred()] += HEAD_START
        return limited

    def accept(self, token: int) -> None:
        """Go on by a token that was chosen."""
        if not self._given_up:
            self._matcher.consume_token(token)
            if self._quoting is not None:
                self._quoting.push(token)
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
        self._ready: tuple[LLTokenizer, Vocabulary] | None = None
        self._lock = threading.Lock()

    def start(self, grammar: str, said: Sequence[str] = (), *, strict: bool = True) -> Guide:
        """Return a guide at the start of a reply, which leans towards words of `said` where it is free within a call.

        Raises GuideError for a grammar that makes no sense or is too large. Takes tens of milliseconds and more: not a
        thing for the event loop.
        """
        if len(grammar) > _MAX_GRAMMAR:
            raise GuideError(f"the schemas have {len(grammar)} characters; at most {_MAX_GRAMMAR} are followed")
        tokenizer, vocabulary = self._prepared()
        matcher = LLMatcher(tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise GuideError(f"the schema cannot be followed: {_first_line(matcher.get_error())}")
        return Guide(matcher, self._closer, Quoting(vocabulary, said) if said else None, strict=strict)

    def _prepared(self) -> tuple[LLTokenizer, Vocabulary]:
        with self._lock:
            if self._ready is None:
                tokenizer, vocabulary, end_ids = self._source
                if not isinstance(tokenizer, PreTrainedTokenizerFast):
                    raise GuideError("constrained decoding needs a model with a fast tokenizer (tokenizer.json)")
                prepared = from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=end_ids)
                self._ready = prepared, Vocabulary(prepared)
            return self._ready


def _first_line(error: str) -> str:
    return error.strip().splitlines()[0][:300] if error.strip() else "unknown reason"
