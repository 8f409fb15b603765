"""The rules that flag a reply, each with its reason. They point a reviewer at what to look at; they decide nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from toolweave.data.validate import check_call
from toolweave.errors import DataError
from toolweave.facts import Flaw, check_answer, failed, unsupported
from toolweave.facts.claims import denial
from toolweave.traces.cases import Case
from toolweave.traces.trace import FeedbackKind
from toolweave.types import InvalidToolCall, ToolCall

Rule = Callable[[Case], str | None]

_PROMISE = re.compile(
    r"请?稍(?:等|候)|正在(?:为您|帮您|给您)?(?:查|获取|生成|绘制|调用)|我(?:来|会|将|去|马上)(?:为您|帮您|给您)?(?:查|获取|生成|绘制)"
    r"|\b(?:let me|i'?ll|i will|i'm going to) (?:check|look|find|get|fetch|search|generate|draw)|\bone moment\b"
    r"|\bhold on\b",
    re.IGNORECASE,
)
_CORRECTION = re.compile(
    r"\s*(?:不对|不是(?:这|那|的|吧|，|,)|错了|你?(?:搞|弄|说|查|理解)错|我(?:说|问|要|指)的(?:是|不是|明明)|我没(?:有)?(?:让|叫|问|说)|不是让你"
    r"|no[,.! ]+|nope\b|wrong\b|incorrect\b|that'?s (?:not|wrong|incorrect)|that is (?:not|wrong)|not what i"
    r"|i (?:said|meant|asked for|asked about)\b|you (?:misunderstood|got (?:it|that) wrong))",
    re.IGNORECASE,
)


def _no_call(case: Case) -> str | None:
    if case.calls or case.earlier or case.observations or not case.trace.tools:
        return None
    if words := denial(case.text, case.context):
        return f"says {words!r} without trying any of its tools"
    if promise := _PROMISE.search(case.text):
        return f"promises ({promise[0]!r}) and calls nothing"
    if invented := unsupported(case.text, case.context):
        return f"states {', '.join(invented[:3])} without having called a tool"
    return None


def _unknown_tool(case: Case) -> str | None:
    known = [tool.name for tool in case.trace.tools]
    unknown = [call.name for call in case.calls if call.name not in known]
    return f"calls {unknown[0]!r}; there is {', '.join(known) or 'no tool'}" if unknown else None


def _invalid_arguments(case: Case) -> str | None:
    tools = {tool.name: tool for tool in case.trace.tools}
    for call in case.calls:
        if isinstance(call, InvalidToolCall):
            return f"{call.name}: {call.reason}"
        if call.name in tools:
            try:
                check_call(call, tools[call.name])
            except DataError as error:
                return str(error).partition("\n")[0]
    return None


def _contradiction(case: Case) -> str | None:
    found = _flaws(case)
    if Flaw.DENIAL in found:
        return f"says {found[Flaw.DENIAL]!r} after {_short(case.observations[-1])!r}"
    if Flaw.CLASH in found:
        return f"says {found[Flaw.CLASH]!r} after {_short(case.observations[-1])!r}"
    if Flaw.HIDDEN_FAILURE in found:
        return f"does not say that the tool failed: {_short(case.observations[-1])!r}"
    return None


def _missing_facts(case: Case) -> str | None:
    found = _flaws(case)
    return f"states nothing of {found[Flaw.MISSING]!r}" if Flaw.MISSING in found else None


def _invented_facts(case: Case) -> str | None:
    found = _flaws(case)
    return f"states {found[Flaw.INVENTED]}, which nothing it was shown says" if Flaw.INVENTED in found else None


def _repeated_call(case: Case) -> str | None:
    made = [call for call in case.earlier if isinstance(call, ToolCall)]
    again = next((call for call in case.calls if call in made), None)
    return f"calls {again.name} once more with the same arguments" if again is not None else None


def _no_stop(case: Case) -> str | None:
    return "was cut off at the token limit" if case.trace.reply.finish_reason == "length" else None


def _tool_error(case: Case) -> str | None:
    return f"the tool answered {_short(case.outcome)!r}" if case.outcome is not None and failed(case.outcome) else None


def _user_correction(case: Case) -> str | None:
    said = [item.text for item in case.trace.feedback if item.kind is FeedbackKind.CORRECTION]
    if case.next_query is not None and _CORRECTION.match(case.next_query):
        said.append(case.next_query)
    return f"the user said {_short(said[0])!r}" if said else None


def _thumbs_down(case: Case) -> str | None:
    down = any(item.kind is FeedbackKind.THUMBS_DOWN for item in case.trace.feedback)
    return "the user put the thumb down" if down else None


def _empty(case: Case) -> str | None:
    return "says and calls nothing" if not case.text.strip() and not case.calls else None


RULES: Mapping[str, Rule] = {
    "no_call": _no_call,
    "unknown_tool": _unknown_tool,
    "invalid_arguments": _invalid_arguments,
    "contradiction": _contradiction,
    "missing_facts": _missing_facts,
    "invented_facts": _invented_facts,
    "repeated_call": _repeated_call,
    "no_stop": _no_stop,
    "tool_error": _tool_error,
    "user_correction": _user_correction,
    "thumbs_down": _thumbs_down,
    "empty_reply": _empty,
}


def _flaws(case: Case) -> dict[Flaw, str]:
    """Return what is wrong with an answer that rests on observations, with the evidence."""
    if case.calls or not case.observations:
        return {}
    findings = check_answer(case.text, case.observations, case.context)
    return {finding.flaw: finding.evidence for finding in reversed(findings)}


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
