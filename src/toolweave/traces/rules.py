"""The rules that flag a reply, each with its reason. They point a reviewer at what to look at; they decide nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from toolweave.data.problems import RowError
from toolweave.data.validate import check_call
from toolweave.facts import Flaw, check_answer, failed, unsupported
from toolweave.facts.claims import denial
from toolweave.traces.cases import Case
from toolweave.traces.trace import FeedbackKind
from toolweave.types import InvalidToolCall, Lang, ToolCall


class Reason(NamedTuple):
    """Why a rule flags a reply, in both languages; the store keeps the English one."""

    zh: str
    en: str

    def to(self, lang: Lang) -> str:
        """Return it in a language."""
        return self.zh if lang is Lang.ZH else self.en


Rule = Callable[[Case], Reason | None]

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

_UNREADABLE = {
    "the call is not valid JSON": "不是合法的 JSON",
    "the call names no tool": "没有写工具名",
    "the arguments are not valid JSON": "参数不是合法的 JSON",
    "the arguments are not a JSON object": "参数不是 JSON 对象",
}
"""The dialects' reasons in Chinese."""


def _no_call(case: Case) -> Reason | None:
    if case.calls or case.earlier or case.observations or not case.trace.tools:
        return None
    if words := denial(case.text, case.context):
        return Reason(f"一个工具也没试，就说{words!r}", f"says {words!r} without trying any of its tools")
    if promise := _PROMISE.search(case.text):
        return Reason(f"答应了（{promise[0]!r}），却没有调用工具", f"promises ({promise[0]!r}) and calls nothing")
    if invented := unsupported(case.text, case.context):
        named = ", ".join(invented[:3])
        return Reason(f"没有调用工具就说{named}", f"states {named} without having called a tool")
    return None


def _unknown_tool(case: Case) -> Reason | None:
    known = [tool.name for tool in case.trace.tools]
    unknown = [call.name for call in case.calls if call.name not in known]
    if not unknown:
        return None
    named = ", ".join(known)
    return Reason(
        f"调用了{unknown[0]!r}；只有{named or '零个工具'}", f"calls {unknown[0]!r}; there is {named or 'no tool'}"
    )


def _invalid_arguments(case: Case) -> Reason | None:
    tools = {tool.name: tool for tool in case.trace.tools}
    for call in case.calls:
        if isinstance(call, InvalidToolCall):
            zh = _UNREADABLE.get(call.reason, call.reason)
            return Reason(f"{call.name} 的调用写错了：{zh}", f"{call.name}: {call.reason}")
        if call.name in tools:
            try:
                check_call(call, tools[call.name])
            except RowError as error:
                return Reason(error.zh, str(error).partition("\n")[0])
    return None


def _contradiction(case: Case) -> Reason | None:
    found = _flaws(case)
    said = found.get(Flaw.DENIAL) or found.get(Flaw.CLASH)
    if said:
        observed = _short(case.observations[-1])
        return Reason(f"工具返回{observed!r}，却说{said!r}", f"says {said!r} after {observed!r}")
    if Flaw.HIDDEN_FAILURE in found:
        observed = _short(case.observations[-1])
        return Reason(f"没有说工具失败了：{observed!r}", f"does not say that the tool failed: {observed!r}")
    return None


def _missing_facts(case: Case) -> Reason | None:
    missing = _flaws(case).get(Flaw.MISSING)
    return None if missing is None else Reason(f"没有说到{missing!r}", f"states nothing of {missing!r}")


def _invented_facts(case: Case) -> Reason | None:
    invented = _flaws(case).get(Flaw.INVENTED)
    if invented is None:
        return None
    return Reason(f"说了{invented}，看到的内容里没有", f"states {invented}, which nothing it was shown says")


def _repeated_call(case: Case) -> Reason | None:
    made = [call for call in case.earlier if isinstance(call, ToolCall)]
    again = next((call for call in case.calls if call in made), None)
    if again is None:
        return None
    return Reason(f"用同样的参数又调用了 {again.name}", f"calls {again.name} once more with the same arguments")


def _no_stop(case: Case) -> Reason | None:
    cut = case.trace.reply.finish_reason == "length"
    return Reason("到了长度上限被截断", "was cut off at the token limit") if cut else None


def _tool_error(case: Case) -> Reason | None:
    if case.outcome is None or not failed(case.outcome):
        return None
    observed = _short(case.outcome)
    return Reason(f"工具返回{observed!r}", f"the tool answered {observed!r}")


def _user_correction(case: Case) -> Reason | None:
    said = [item.text for item in case.trace.feedback if item.kind is FeedbackKind.CORRECTION]
    if case.next_query is not None and _CORRECTION.match(case.next_query):
        said.append(case.next_query)
    return Reason(f"用户说{_short(said[0])!r}", f"the user said {_short(said[0])!r}") if said else None


def _thumbs_down(case: Case) -> Reason | None:
    down = any(item.kind is FeedbackKind.THUMBS_DOWN for item in case.trace.feedback)
    return Reason("用户点了踩", "the user put the thumb down") if down else None


def _empty(case: Case) -> Reason | None:
    empty = not case.text.strip() and not case.calls
    return Reason("什么也没说，也没有调用工具", "says and calls nothing") if empty else None


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
