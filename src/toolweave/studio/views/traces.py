"""The view of traces: find replies, see what happened, judge or correct them, export what is ready to train."""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from toolweave.errors import ToolweaveError
from toolweave.studio.parts import enclosing_tab, note, shown
from toolweave.studio.trace_html import (
    counts_html,
    left_out_name,
    list_label,
    request_html,
    rule_name,
    visit_html,
)
from toolweave.studio.workspace import part
from toolweave.traces.contamination import held_out_queries
from toolweave.traces.curate import JUDGE, flag
from toolweave.traces.export import ExportReport, Selection, export, preview
from toolweave.traces.review import review_all
from toolweave.traces.rows import ANY_RULE
from toolweave.traces.rules import RULES
from toolweave.traces.store import TraceStore
from toolweave.traces.trace import FeedbackKind, Filter, Trace, Verdict

if TYPE_CHECKING:
    from toolweave.studio.shell import Studio

_DAY = 86400
_PAGE = 40  # visits
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def build(studio: Studio) -> None:
    """Make the view in the open tab."""
    view = _View(studio)
    with gr.Column(elem_id="traces"):
        counts = gr.HTML(elem_id="traces-counts", padding=False)
        with gr.Row(elem_id="traces-filters", equal_height=True):
            filters = view.filters()
        with gr.Row(elem_id="traces-body"):
            with gr.Column(scale=4, min_width=300, elem_id="traces-left"):
                listing = gr.Radio(label=studio.text("traces.replies"), choices=[], elem_id="traces-list")
                nothing = gr.HTML(elem_id="traces-nothing", padding=False)
                with gr.Row():
                    refresh = gr.Button(studio.text("traces.refresh"), size="sm", elem_id="traces-refresh")
                    more = gr.Button(studio.text("traces.more"), size="sm", elem_id="traces-more", visible=False)
                with gr.Accordion(studio.text("traces.batch"), open=False, elem_id="traces-batch"):
                    accept_all = gr.Button(studio.text("traces.accept_all"), size="sm", elem_id="traces-accept-all")
                    reject_all = gr.Button(
                        studio.text("traces.reject_all"), size="sm", variant="stop", elem_id="traces-reject-all"
                    )
                with gr.Accordion(studio.text("traces.export"), open=False, elem_id="traces-export"):
                    name = gr.Textbox(label=studio.text("traces.export_name"), value="addition", max_lines=1)
                    clean = gr.Checkbox(label=studio.text("traces.export_clean"), value=False)
                    with gr.Row():
                        check = gr.Button(studio.text("traces.export_check"), size="sm")
                        go = gr.Button(studio.text("traces.export_go"), size="sm", variant="primary")
                    report = gr.HTML(elem_id="traces-report", padding=False)
            with gr.Column(scale=7, min_width=320, elem_id="traces-right", visible=False) as right:
                with gr.Row(elem_id="traces-actions"):
                    accept = gr.Button(studio.text("traces.accept"), variant="primary", elem_id="traces-accept")
                    reject = gr.Button(studio.text("traces.reject"), elem_id="traces-reject")
                    edit = gr.Button(studio.text("traces.edit"), elem_id="traces-edit")
                gr.HTML(f'<p class="muted">{studio.text("traces.keys")}</p>', js_on_load=_KEYS, padding=False)
                with gr.Group(visible=False, elem_id="traces-editing") as editing:
                    label = gr.Textbox(label=studio.text("traces.correction"), lines=6, max_lines=20)
                    save = gr.Button(studio.text("traces.save"), variant="primary", elem_id="traces-save")
                timeline = gr.HTML(elem_id="traces-timeline", padding=False)
                with gr.Accordion(studio.text("traces.tokens"), open=False, elem_id="traces-tokens") as tokens_fold:
                    tokens = gr.HTML(padding=False)
                with gr.Accordion(studio.text("traces.request"), open=False, elem_id="traces-request"):
                    request = gr.HTML(padding=False)
        limit, tokens_open = gr.State(_PAGE), gr.State(value=False)

    fields = list(filters)
    listed = [counts, listing, nothing, more, right]
    here = [listing, limit, *fields]
    judged = [*listed, editing, timeline]
    shows = [timeline, request, label, editing, tokens]
    gr.on([enclosing_tab().select, refresh.click], view.refreshed, here, [*listed, *fields[:4]], **_QUIET).then(
        view.show, [listing, tokens_open], shows, **_QUIET
    )
    gr.on([field.input for field in fields], view.listed, here, listed, trigger_mode="always_last", **_QUIET)
    more.click(lambda limit: limit + _PAGE, limit, limit, **_QUIET).then(view.listed, here, listed, **_QUIET)
    listing.change(view.show, [listing, tokens_open], shows, **_QUIET)
    accept.click(view.accepted, here, judged, **_QUIET)
    reject.click(view.rejected, here, judged, **_QUIET)
    edit.click(lambda: gr.Group(visible=True), None, editing, **_QUIET).then(None, None, None, js=_FOCUS)
    save.click(view.corrected, [label, *here], judged, **_QUIET)
    sure = f"(...given) => {{ if (!confirm({studio.text('traces.sure')!r})) throw new Error('kept'); return given; }}"
    accept_all.click(view.accepted_all, here, judged, js=sure, **_QUIET)
    reject_all.click(view.rejected_all, here, judged, js=sure, **_QUIET)
    tokens_fold.expand(lambda: True, None, tokens_open, **_QUIET).then(view.tokens, listing, tokens, **_QUIET)
    tokens_fold.collapse(lambda: False, None, tokens_open, **_QUIET)
    check.click(view.previewed, [clean, *fields], report, api_visibility="private")
    go.click(view.exported, [name, clean, *fields], report, api_visibility="private")


class _View:
    """The functions of the view's events."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.text = studio.text

    def filters(self) -> tuple[gr.Dropdown | gr.Textbox, ...]:
        """Make the filters: agent, tool, model, rule, verdict, age, words."""
        every = (self.text("traces.any"), "")
        rules = [(rule_name(rule, self.text), rule) for rule in (ANY_RULE, *RULES, JUDGE)]
        verdicts = [(self.text(f"traces.{verdict}"), verdict.value) for verdict in Verdict]
        ages = [(self.text("traces.day"), 1), (self.text("traces.week"), 7), (self.text("traces.month"), 30)]

        def drop(key: str, choices: list[Any]) -> gr.Dropdown:
            return gr.Dropdown([every, *choices], value="", label=self.text(f"traces.{key}"), min_width=130)

        return (
            drop("agent", []), drop("tool", []), drop("model", []), drop("flag", rules), drop("verdict", verdicts),
            drop("age", ages),
            gr.Textbox(label=self.text("traces.search"), placeholder=self.text("traces.search_hint"), min_width=160),
        )  # fmt: skip

    def refreshed(self, current: str | None, limit: int, request: gr.Request, *fields: Any) -> list[Any]:
        """Flag what is new; return the list, and the filters with the agents, tools and models there are."""
        store = self._store(request)
        try:
            flag(store)
        except ToolweaveError as error:
            raise shown(error) from error
        every, have = (self.text("traces.any"), ""), store.counts()
        names = [[(name or "-", name) for name in tally] for tally in (have.by_agent, have.by_tool, have.by_model)]
        drops = [gr.Dropdown(choices=[every, *found]) for found in names]
        return [*self.listed(current, limit, request, *fields), *drops, gr.skip()]

    def listed(self, current: str | None, limit: int, request: gr.Request, *fields: Any) -> list[Any]:
        """Return counts, list, what to say when it is empty, whether there is more, and whether to show a visit."""
        store, wanted = self._store(request), _filter(*fields)
        counts = store.counts(wanted)
        traces = _replies(store, wanted, limit)
        choices = [(list_label(trace, self.text), trace.id) for trace in traces]
        told = "" if traces else self._nothing(any_at_all=wanted != Filter())
        return [
            counts_html(counts, self.text),
            gr.Radio(choices=choices, value=_chosen(current, traces), visible=bool(traces)),
            told,
            gr.Button(visible=counts.visits > limit),
            gr.Column(visible=bool(traces)),
        ]

    def show(self, current: str | None, tokens_open: bool, request: gr.Request) -> list[Any]:
        """Return timeline, request, text to correct, the closed editor, and the tokens if they are looked at."""
        trace = self._trace(current, request)
        if trace is None:
            return ["", "", "", gr.Group(visible=False), ""]
        visit = self._store(request).visit(trace.visit)
        said = [item.text for item in trace.feedback if item.kind is FeedbackKind.CORRECTION]
        proposed = trace.review.label or (said[-1] if said else trace.reply.text)
        shown_tokens = self.tokens(current, request) if tokens_open else gr.skip()
        return [
            visit_html(visit, trace.id, self.text, self.studio.lang),
            request_html(trace, self.text),
            proposed,
            gr.Group(visible=False),
            shown_tokens,
        ]

    def tokens(self, current: str | None, request: gr.Request) -> str:
        """Return the tokens of the chosen reply."""
        # Here, as it loads torch, which takes seconds, and the Studio is to be there at once.
        from toolweave.studio.trace_tokens import tokens_html

        trace = self._trace(current, request)
        try:
            return tokens_html(trace, self.text) if trace else ""
        except ToolweaveError as error:
            return note(str(error), "fail")

    def accepted(self, current: str | None, limit: int, request: gr.Request, *fields: Any) -> list[Any]:
        """Accept the chosen reply and go to the next."""
        return self._judge(current, Verdict.ACCEPTED, None, limit, fields, request)

    def rejected(self, current: str | None, limit: int, request: gr.Request, *fields: Any) -> list[Any]:
        """Reject the chosen reply and go to the next."""
        return self._judge(current, Verdict.REJECTED, None, limit, fields, request)

    def corrected(self, label: str, current: str | None, limit: int, request: gr.Request, *fields: Any) -> list[Any]:
        """Keep what the chosen reply should have been, and go to the next."""
        return self._judge(current, Verdict.CORRECTED, label, limit, fields, request)

    def accepted_all(self, current: str | None, limit: int, request: gr.Request, *fields: Any) -> list[Any]:
        """Accept all unreviewed replies of the filter."""
        return self._judge_all(Verdict.ACCEPTED, current, limit, fields, request)

    def rejected_all(self, current: str | None, limit: int, request: gr.Request, *fields: Any) -> list[Any]:
        """Reject all unreviewed replies of the filter."""
        return self._judge_all(Verdict.REJECTED, current, limit, fields, request)

    def previewed(self, clean: bool, request: gr.Request, *fields: Any) -> str:
        """Say what an export would hold."""
        try:
            report = preview(self._store(request), held_out_queries(), Selection(clean), _filter(*fields))
        except ToolweaveError as error:
            raise shown(error) from error
        return self._report(self.text("traces.would_export", rows=report.rows), report)

    def exported(self, name: str, clean: bool, request: gr.Request, *fields: Any) -> str:
        """Write the reviewed replies of the filter as a data set."""
        try:
            target = self.studio.home(request).datasets / f"{part(name.strip().removesuffix('.jsonl'))}.jsonl"
            report = export(
                self._store(request), target, held_out_queries(), Selection(clean), _filter(*fields),
                drop_held_out=True,
            )  # fmt: skip
        except ToolweaveError as error:
            raise shown(error) from error
        return self._report(self.text("traces.exported", name=target.name, rows=report.rows), report)

    def _judge(
        self, current: str | None, verdict: Verdict, label: str | None, limit: int, fields: Any, request: gr.Request
    ) -> list[Any]:
        if not current:
            return [gr.skip()] * 7
        store = self._store(request)
        before = [trace.id for trace in _replies(store, _filter(*fields), limit)]
        store.review(current, verdict, _reviewer(request), label)
        at = before.index(current) if current in before else -1
        following = next(iter(before[at + 1 :]), current)
        return self._after(following, limit, fields, request)

    def _judge_all(
        self, verdict: Verdict, current: str | None, limit: int, fields: Any, request: gr.Request
    ) -> list[Any]:
        count = review_all(self._store(request), _filter(*fields), verdict, _reviewer(request))
        gr.Info(self.text("traces.reviewed_all", count=count))
        return self._after(current, limit, fields, request)

    def _after(self, current: str | None, limit: int, fields: Any, request: gr.Request) -> list[Any]:
        listed = self.listed(current, limit, request, *fields)
        shown_now = _chosen(current, _replies(self._store(request), _filter(*fields), limit))
        trace = self._trace(shown_now, request)
        visit = self._store(request).visit(trace.visit) if trace else None
        timeline = visit_html(visit, trace.id, self.text, self.studio.lang) if trace and visit else ""
        return [*listed, gr.Group(visible=False), timeline]

    def _report(self, first: str, report: ExportReport) -> str:
        reasons = sorted((left_out_name(why, self.text), count) for why, count in report.left_out.items())
        left = ", ".join(f"{count} × {escape(reason)}" for reason, count in reasons)
        tools = ", ".join(f"{escape(tool)} {count}" for tool, count in report.by_tool.items() if tool != "-")
        told = "".join(
            f"<br>{line}" for line in (tools, f"{self.text('traces.left_out')}: {left}" if left else "") if line
        )
        return f'<p class="notice">{escape(first)}{told}</p>'

    def _nothing(self, *, any_at_all: bool) -> str:
        if any_at_all:
            return note(self.text("traces.no_match"))
        return (
            f'<div class="nothing"><h3>{self.text("traces.empty_title")}</h3><p>{self.text("traces.empty")}</p></div>'
        )

    def _store(self, request: gr.Request) -> TraceStore:
        return self.studio.home(request).traces

    def _trace(self, current: str | None, request: gr.Request) -> Trace | None:
        return self._store(request).trace(current) if current else None


def _filter(agent: str, tool: str, model: str, rule: str, verdict: str, days: int | str, words: str) -> Filter:
    return Filter(
        agent=agent or None, tool=tool or None, model=model or None, rule=rule or None,
        verdict=Verdict(verdict) if verdict else None, since=time.time() - int(days) * _DAY if days else None,
        text=words.strip() or None,
    )  # fmt: skip


def _replies(store: TraceStore, wanted: Filter, limit: int) -> list[Trace]:
    """Return the replies of a filter, those of one visit in order, the newest visit first."""
    of_filter = set(store.ids(wanted))
    return [trace for visit in store.visits(wanted, limit) for trace in visit.traces if trace.id in of_filter]


def _chosen(current: str | None, traces: Sequence[Trace]) -> str | None:
    """Return the reply that stays chosen among those that are listed, else the first."""
    ids = [trace.id for trace in traces]
    return current if current in ids else next(iter(ids), None)


def _reviewer(request: gr.Request) -> str:
    return request.username or "studio"


_FOCUS = "() => setTimeout(() => document.querySelector('#traces-editing textarea')?.focus(), 150)"

# Keys work while the view is seen and nothing is typed.
_KEYS = """
if (window.traceKeys) document.removeEventListener('keydown', window.traceKeys);
window.traceKeys = (event) => {
  const list = document.querySelector('#traces-list'), at = event.target;
  const typing = at.matches?.('textarea, select, [contenteditable], input:not([type=radio]):not([type=checkbox])');
  if (!list || !list.offsetParent || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const radios = [...list.querySelectorAll('input[type=radio]')];
  const now = radios.findIndex((radio) => radio.checked);
  const go = (to) => { if (radios[to]) { radios[to].click(); radios[to].scrollIntoView({block: 'nearest'}); } };
  const press = (id) => document.querySelector('#' + id)?.click();
  const does = {
    j: () => go(now + 1), k: () => go(now - 1),
    a: () => press('traces-accept'), r: () => press('traces-reject'), e: () => press('traces-edit'),
  }[event.key];
  if (does) { event.preventDefault(); does(); }
};
document.addEventListener('keydown', window.traceKeys);
"""
