"""From tokens back to text while they come: whole characters only, up to the first stop word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from transformers import PreTrainedTokenizerBase

_INCOMPLETE = "\ufffd"


class TextStream:
    """Decodes one reply token by token.

    `stopped` becomes true at the first stop word; neither it nor anything after it is ever given out.
    Text that may turn out to be the beginning of a stop word is held back until that is clear.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(word for word in stop if word)
        self._ids: list[int] = []
        # Tokens before `_shown` are given out; decoding starts at `_context` as a token's text may
        # depend on the one before it.
        self._context = self._shown = 0
        self._held = ""
        self.stopped = False

    def push(self, token: int, *, may_stop: bool = True) -> str:
        """Take a token, return the text that is certain now; without `may_stop` a stop word is text like any other."""
        self._ids.append(token)
        new = self._decode(self._context, len(self._ids))
        if new.endswith(_INCOMPLETE):
            return ""
        new = new[len(self._decode(self._context, self._shown)) :]
        self._context, self._shown = self._shown, len(self._ids)
        if not may_stop:
            new, self._held = self._held + new, ""
            return new
        return self._until_stop(new)

    def flush(self) -> str:
        """Return what was held back, without the bytes of an unfinished character."""
        if self.stopped:
            return ""
        rest = self._decode(self._context, len(self._ids)).rstrip(_INCOMPLETE)
        rest = self._until_stop(rest[len(self._decode(self._context, self._shown)) :])
        held, self._held = self._held, ""
        return rest + held

    def _decode(self, start: int, stop: int) -> str:
        text = self._tokenizer.decode(
            self._ids[start:stop], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return cast(str, text)

    def _until_stop(self, new: str) -> str:
        text = self._held + new
        # The word that is complete first wins, however the text was cut into tokens.
        found = [(at + len(word), at) for word in self._stop if (at := text.find(word)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        keep = max((_overlap(text, word) for word in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, word: str) -> int:
    """Return the length of the longest end of `text` that begins `word`."""
    return next((n for n in range(min(len(word) - 1, len(text)), 0, -1) if text.endswith(word[:n])), 0)
