"""The words of the reports, in both languages."""

from __future__ import annotations

from toolweave.types import Lang

_ZH = {
    "visits": "访问",
    "lang": "语言",
    "right %": "全对率",
    "called": "该调才调",
    "right": "调用正确",
    "faithful": "总结如实",
    "stopped": "自行停止",
    "seen_tools": "见过的工具",
    "unseen_tools": "没见过的工具",
    "no_call": "无需调用",
    "two_call": "两次调用",
    "follow_up": "追问",
    "tool_error": "工具出错",
    "missing_argument": "缺参数",
    "irrelevant": "与工具无关",
    "injection": "注入攻击",
    "instruction": "指令遵循",
    "all": "全部",
    "failure": "失败类别",
    "example": "例子",
    "failures": "失败",
    "by agent": "按智能体",
    "by tool": "按工具",
    "cost": "开销",
    "base": "原模型",
    "tuned": "微调后",
    "difference": "差值（百分点）",
    "gained": "变对",
    "lost": "变错",
    "interval": "95%区间",
    "verdict": "结论",
    "rule": "规则",
    "reason": "理由",
    "pass": "通过",
    "fail": "不通过",
    "undecided": "样本不足，无法判定",
    "skipped": "未测",
    "visits compared": "逐次对比",
    "evaluation": "评测报告",
    "gate": "放行评测：微调模型能否替换原模型",
    "whole visits": "完整访问",
    "expected": "参考",
    "query": "问题",
    "calls": "调用",
    "answer": "回答",
    "model calls": "模型调用",
    "prompt tokens": "输入词元",
    "completion tokens": "输出词元",
    "median seconds": "中位耗时（秒）",
    "p95 seconds": "95分位耗时（秒）",
}  # fmt: skip


def say(word: str, lang: Lang) -> str:
    """Return a word of the reports in a language; a word without translation stays as it is."""
    return _ZH.get(word, word) if lang is Lang.ZH else word
