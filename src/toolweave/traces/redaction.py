"""Striking private data and keys out of traces before they reach the disk.

What is private is replaced by a made-up value of the same shape, not by a tag: arguments stay valid JSON, a tuned
model learns to copy a phone number and not the word `[phone]`, and redacting twice changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from toolweave.errors import DataError

_STRUCK = "***"
# The shapes of keys that services hand out, also where no header named them.
_KEY_SHAPES = re.compile(
    r"\b(?:(?:sk|pk|rk|ms|hf|xox[abp]|gh[pousr])[-_](?=[A-Za-z_-]{0,64}\d)|AKIA|AIza)[\w-]{16,}|\bBearer\s++[\w.~+/=-]{8,}",
    re.ASCII,
)
_MIN_SECRET = 6  # a shorter "key" (EMPTY, none) is a word, and words must stay
_SCHEMES = ("bearer", "basic", "digest")


@dataclass(frozen=True, slots=True)
class Pattern:
    """What to look for, and what takes its place: a text, or the mask that keeps length and shape (None)."""

    regex: re.Pattern[str]
    replacement: str | None = None


BUILT_IN: Mapping[str, Pattern] = {
    # Chinese ids end in a check digit or X; they go first, for they hold what looks like a phone number.
    "id_number": Pattern(
        re.compile(
            r"(?<!\d)[1-9]\d{5}(?:18|19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx](?![\dA-Za-z])"
        ),
        "110101199001011234",
    ),
    "phone": Pattern(
        re.compile(
            r"(?<![\d.])1[3-9]\d{9}(?!\d)|(?<![\d.])1[3-9]\d[- ]\d{4}[- ]\d{4}(?!\d)"
            r"|(?<!\w)\+\d{1,3}[- ]?(?:\(?\d{1,4}\)?[- ]?){2,4}\d{2,4}(?!\d)"
        ),
        "13800000000",
    ),
    "email": Pattern(
        re.compile(r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]++@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+"), "user@example.com"
    ),
}


@dataclass(frozen=True, slots=True)
class Redactor:
    """Replaces private data in texts and JSON; see `from_names` and `from_file`. Keys are struck in any case."""

    patterns: tuple[Pattern, ...] = tuple(BUILT_IN.values())

    @classmethod
    def from_names(cls, names: Iterable[str]) -> Redactor:
        """Return a redactor of built-in patterns. Raises DataError for an unknown name."""
        chosen = set(names)
        unknown = chosen - set(BUILT_IN)
        if unknown:
            raise DataError(f"no such redaction: {', '.join(sorted(unknown))}", f"choose from {', '.join(BUILT_IN)}")
        return cls(tuple(pattern for name, pattern in BUILT_IN.items() if name in chosen))

    @classmethod
    def from_file(cls, path: Path) -> Redactor:
        """Read a YAML file: `redact` lists built-in names, `patterns` maps names to own regexes.

        An own pattern is a regex, or `{regex: …, replacement: …}`. Raises DataError that says what is wrong.
        """
        try:
            content = yaml.safe_load(path.read_text("utf-8")) or {}
        except (OSError, UnicodeError, yaml.YAMLError) as error:
            raise DataError(
                f"cannot read {path}: {error}", "a redaction file is YAML; see toolweave capture --help"
            ) from error
        if not isinstance(content, dict) or set(content) - {"redact", "patterns"}:
            raise DataError(f"{path} is not a redaction file", "its keys are redact (a list) and patterns (a map)")
        built_in = cls.from_names(content.get("redact") or ())
        own = tuple(_own(path, name, spec) for name, spec in (content.get("patterns") or {}).items())
        return cls((*own, *built_in.patterns))

    def text(self, text: str, secrets: Iterable[str] = ()) -> str:
        """Return the text without private data, keys and `secrets`."""
        for secret in secrets:
            if len(secret) >= _MIN_SECRET:
                text = text.replace(secret, _STRUCK)
        text = _KEY_SHAPES.sub(_STRUCK, text)
        for pattern in self.patterns:
            text = pattern.regex.sub(_replacer(pattern), text)
        return text

    def json(self, value: Any, secrets: Iterable[str] = ()) -> Any:
        """Return a JSON value with every text in it redacted, keys of objects too."""
        if isinstance(value, str):
            return self.text(value, secrets)
        if isinstance(value, dict):
            return {self.text(key, secrets): self.json(item, secrets) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.json(item, secrets) for item in value]
        return value


def secrets_of(headers: Iterable[tuple[bytes, bytes]], query: bytes = b"") -> tuple[str, ...]:
    """Return the keys that a request carries in its headers and query string."""
    found = []
    for name, value in headers:
        if name.lower() in (b"authorization", b"proxy-authorization", b"cookie") or b"key" in name.lower():
            found += value.decode("latin-1").split()
    for part in query.decode("latin-1").split("&"):
        field, _, content = part.partition("=")
        if "key" in field.lower() or "token" in field.lower():
            found.append(content)
    return tuple(secret for secret in found if len(secret) >= _MIN_SECRET and secret.lower() not in _SCHEMES)


def _own(path: Path, name: str, spec: object) -> Pattern:
    regex, replacement = spec, None
    if isinstance(spec, dict):
        regex, replacement = spec.get("regex"), spec.get("replacement")
    if not isinstance(regex, str) or not (replacement is None or isinstance(replacement, str)):
        raise DataError(f"{path}: pattern {name!r} is no regex", "write name: 'regex', or {regex: …, replacement: …}")
    try:
        compiled = re.compile(regex)
    except re.error as error:
        raise DataError(f"{path}: pattern {name!r} is no regex: {error}", "it is Python's syntax") from error
    if compiled.match(""):
        raise DataError(f"{path}: pattern {name!r} matches nothing at all, so everywhere", "make it need a character")
    return Pattern(compiled, replacement)


def _replacer(pattern: Pattern) -> Callable[[re.Match[str]], str]:
    if pattern.replacement is None:
        return lambda match: _mask(match[0])
    replacement = pattern.replacement
    return lambda match: replacement


def _mask(text: str) -> str:
    """Keep length, punctuation and what is a digit; a number masked with 1s is still a number."""
    return "".join("1" if char.isdigit() else "x" if char.isalpha() else char for char in text)
