"""The review queue: one trace after another, one key for each verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import StrEnum

from rich.console import Console

from toolweave.traces.store import TraceStore
from toolweave.traces.trace import Filter, Outcome, Verdict
from toolweave.traces.views import print_trace


class Key(StrEnum):
    """What a reviewer can do with a trace."""

    ACCEPT = "a"
    REJECT = "r"
    EDIT = "e"
    SKIP = "s"
    BACK = "b"
    MESSAGES = "m"
    QUIT = "q"


_HELP = "[b]a[/]ccept  [b]r[/]eject  [b]e[/]dit the reply  [b]s[/]kip  [b]b[/]ack  all [b]m[/]essages  [b]q[/]uit"


def queue(store: TraceStore, wanted: Filter) -> list[str]:
    """Return the ids of the traces to review: whole answers without a verdict, flagged ones first, oldest first."""
    open_ = replace(wanted, verdict=wanted.verdict or Verdict.UNREVIEWED, outcome=wanted.outcome or Outcome.ANSWERED)
    found = [(not trace.flags, trace.id) for trace in store.traces(open_)]
    return [trace for _, trace in sorted(found, key=lambda item: item[0])]


def review_all(store: TraceStore, wanted: Filter, verdict: Verdict, reviewer: str) -> int:
    """Give every trace of the queue the same verdict, accepted or rejected, and return how many there were."""
    ids = queue(store, wanted)
    for trace in ids:
        store.review(trace, verdict, reviewer)
    return len(ids)


def review(
    store: TraceStore,
    wanted: Filter,
    reviewer: str,
    console: Console,
    read_key: Callable[[], str],
    edit: Callable[[str], str | None],
) -> Mapping[Verdict, int]:
    """Walk through the queue and return how many verdicts of each kind were given.

    `read_key` waits for a key (empty: the input has ended), `edit` returns the edited reply, None to leave it.
    Each verdict is stored at once, so quitting loses nothing.
    """
    ids = queue(store, wanted)
    given: dict[str, Verdict] = {}
    at, whole = 0, False
    while at < len(ids):
        trace = store.trace(ids[at])
        console.print(f"\n{at + 1} of {len(ids)}", highlight=False)
        print_trace(trace, console, whole=whole)
        console.print(_HELP)
        key, whole = read_key().lower(), False
        if key in ("", Key.QUIT):
            break
        if key == Key.BACK:
            at = max(0, at - 1)
        elif key == Key.MESSAGES:
            whole = True
        elif key == Key.SKIP:
            at += 1
        elif key in (Key.ACCEPT, Key.REJECT):
            given[trace.id] = Verdict.ACCEPTED if key == Key.ACCEPT else Verdict.REJECTED
            store.review(trace.id, given[trace.id], reviewer)
            at += 1
        elif key == Key.EDIT:
            old = trace.review.label if trace.review.label is not None else trace.reply.written
            label = edit(old)
            if label is not None and label != trace.reply.written:
                given[trace.id] = Verdict.CORRECTED
                store.review(trace.id, Verdict.CORRECTED, reviewer, label)
                at += 1
    return Counter(given.values())
