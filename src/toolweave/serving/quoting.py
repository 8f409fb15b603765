"""A lean towards the words of the conversation, where an argument of a call is free text.

What a user names is nearly always copied into the call. A small model begins to copy it and slips ("psychiatry" becomes
"psychiatics"), or begins or stops in the middle of a word. So the tokens that go on as the conversation does get a head
start, and so do those that end the text where a word ends. It is no more than a head start: a model that is sure of
other words, such as a translation, says them.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

import rjieba
from llguidance import LLTokenizer

HEAD_START = 2.0
"""What is added to logits: against all others these tokens become e to the power of it times as likely."""
_LONGEST = 24  # bytes of a token that is looked for
_PLAIN = re.compile(rb'[^"\\]*')  # what JSON writes as it is


class Vocabulary:
    """The tokens of a tokenizer, as bytes. Takes a tenth of a second to make for 50,000 tokens."""

    def __init__(self, tokenizer: LLTokenizer) -> None:
        self.texts: list[bytes] = [
            b"" if tokenizer.is_special_token(token) else tokenizer.decode_bytes([token])
            for token in range(tokenizer.vocab_size)
        ]
        self.tokens = {text: token for token, text in enumerate(self.texts) if text}
        self.closing = [token for token, text in enumerate(self.texts) if text.startswith(b'"')]


class Quoting:
    """Follows the JSON of one reply; `said` are the messages whose words it may quote."""

    def __init__(self, vocabulary: Vocabulary, said: Sequence[str]) -> None:
        text = "\n".join(said)
        words = rjieba.cut(text)
        self._vocabulary = vocabulary
        self._source = text.encode()
        self._bounds = [0, *accumulate(len(word.encode()) for word in words)]
        self._starts = [start for start, word in zip(self._bounds, words, strict=False) if not word.isspace()]
        self._begun = b""  # of the reply, what comes after its last quotation mark

    def push(self, token: int) -> None:
        """Take the next token of the reply."""
        self._begun = (self._begun + self._vocabulary.texts[token]).rpartition(b'"')[2]

    def preferred(self) -> list[int]:
        """Return the tokens that continue the text begun as the conversation continues it."""
        vocabulary, found = self._vocabulary, set[int]()
        # What was said twice goes on alike: a long text that repeats itself costs no more than it says.
        for rest, whole in set(self._places()):
            heads = (rest[:size] for size in range(1, len(rest) + 1))
            found.update(vocabulary.tokens[head] for head in heads if head in vocabulary.tokens)
            if whole:
                found.update(vocabulary.closing)
        return list(found)

    def _places(self) -> Iterator[tuple[bytes, bool]]:
        """Yield what follows each place whose words begin so, and whether whole words have been quoted."""
        for start in self._starts:
            if self._source.startswith(self._begun, start):
                end = start + len(self._begun)
                whole = bool(self._begun) and self._bounds[bisect_left(self._bounds, end)] == end
                plain = _PLAIN.match(self._source, end, end + _LONGEST)
                yield plain[0] if plain else b"", whole
