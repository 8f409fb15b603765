"""What an answer claims about the work: that it failed, that it cannot, that things are other than observed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


_FAILURE = re.compile(
    r"抱歉|不好意思|对不起|失败|出错|错误|无法|未能|没能|没法|没有成功|不成功|暂时|问题|异常|超时|故障|不可用|"
    r"没有(?:找到|查到|响应)|没响应|没[^，。]{0,2}成|再试|"
    r"sorry|apolog|fail|error|unable|could ?n[o']t|can ?not|can't|unfortunately|problem|went wrong|trouble|"
    r"did ?n[o']t work|not (?:available|found|working)|unavailable|timed? ?out|no luck|hiccup|unsuccessful|"
    r"n['o]t respond|no response|is down\b|try (?:it )?again",
    re.IGNORECASE,
)
_ASKING = re.compile(
    r"[?？]|请问|请告诉|请提供|请说|请给|告诉我|请选|请输入|请描述|请把|麻烦发|"
    r"\b(?:what|which|where|who|when|how)\b.*\?|please (?:tell|provide|give|let|specify|share|name|send|describe)|"
    r"tell me|could you|let me know|i(?:'ll| will)? need (?:to know|the|your)",
    re.IGNORECASE,
)
_ZH_VERBS = (
    "获取|获得|查询|查到|查看|查找|提供|访问|完成|得到|取得|调用|找到|联网|上网|连接|浏览|生成|绘制|画|回答|执行|"
    "确定|确认|判断|知道|计算|帮助|操作|控制|打开|使用|处理|翻译|预订|发送"
)
_EN_VERBS = (
    r"get|retriev\w+|access|find|found|provide|check|fetch|look|obtain|browse|give|tell|determine|complete|connect|"
    r"create|generate|draw|see|view|display|show|answer|help|perform|assist|search|verify|confirm|book|send|translate"
)
_DENIAL = _any(
    r"(?:无法|不能|未能|没能|没法|没有办法|不支持|没有权限|没有能力)"
    r"(?:够|[为帮给向]您|直接|实时|立即|成功|准确|再|进行|从|通过|上网|联网|在线|\s)*" + f"(?:{_ZH_VERBS})",
    r"没有(?:找到|查到|查询到|获取到|能(?:找到|查到))",
    r"(?:查询|获取|调用|请求|绘制|生成|操作)(?:\S{0,6})(?:失败|出错|未成功|不成功)",
    r"我(?:只)?是一个?(?:AI|人工智能)?语言模型",
    r"\b(?:can ?not|can't|could ?n[o']t|unable to|not able to|failed to|was ?n[o']t able to)\s+"
    r"(?:(?:directly|currently|actually|really|help you|be)\s+)*" + f"(?:{_EN_VERBS})",
    r"\b(?:do ?n[o']t|do not|does ?n[o']t) have (?:\w+\s){0,2}"
    r"(?:access|ability|capability|real-?time|information|data)",
    r"\bas an ai(?: language)? model\b|\bi'?m just an? (?:ai|language)",
    r"\bno (?:information|data|results?) (?:is |was |were |are )?(?:available|found)",
)
# A denial under a condition denies nothing.
_CONDITION = _any(r"(?:如果|若|要是|假如|万一|以防|如)[^，。；]{0,12}$", r"\b(?:if|in case|should)\b[^,.;]{0,24}$")
_FAILED = _any(
    r"^\s*(?:Tool api \S+ failed to call|error\b|错误|\[?\w*(?:Error|Exception)\b|traceback|failed\b|失败|超时)",
    r"^\s*(?:timeout|timed out)",
    r"\"(?:error|errmsg|error_message)\"\s*:\s*(?!null|\"\"|false|0\b|\"0\"|\"ok\")",
    r"\"(?:success|ok)\"\s*:\s*false|\"status\"\s*:\s*\"(?:error|failed|failure|fail)\"",
    r"(?:请求|连接|调用|服务)(?:超时|失败|异常|不可用)|服务器内部错误",
    r"(?:request|connection|service|upstream) (?:timed out|failed|unavailable|refused)",
    r"\b(?:quota|rate limit) exceeded|internal server error|\b(?:401|403|404|429|500|502|503|504) [A-Z]",
    r"\b(?:permission denied|access denied|invalid api ?key|unauthori[sz]ed)\b",
)  # In a short observation these words are the whole of it; in a long one they may stand in a text that was found.
_SHORT = 160
_FINE = _any(r"\"(?:ok|success)\"\s*:\s*true|\"error\w*\"\s*:\s*(?:null|\"\")", r"成功|success|\bdelivered\b")
_FAILED_SHORT = _any(
    r"无法|额度|余额不足|未找到|没有找到|不存在|已过期|无权|没有权限|拒绝|错误|失败|异常|超时|稍后再?试",
    r"nothing matched|no (?:match|results?)\b|not found|exceeded|exhausted|refused|denied|expired|could not|cannot|"
    r"unable|error|failed|time-?out|timed out|try again|unavailable|invalid|"
    r"not (?:available|supported|permitted|allowed)",
)

# Classes whose groups exclude each other. In each group any word says the same, in either language.
_CLASSES: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("晴", "sunny", "clear sk", "clear weather"),
     ("雨", "rain", "shower", "drizzle", "thunderstorm"),
     ("雪", "snow", "sleet"), ("多云", "partly cloudy", "mostly cloudy"), ("阴", "overcast"),
     ("雾", "fog", "mist"), ("霾", "haz")),
    (("打开", "开启", "开着", "已开", "turned on", "switched on", "is on", '"on"'),
     ("关闭", "关上", "关掉", "关着", "已关", "没开", "没有开", "未开", "turned off", "switched off", "is off")),
    (("有货", "in stock"), ("缺货", "无货", "没货", "没有货", "售罄", "out of stock", "sold out")),
    (("已签收", "已送达", "delivered"), ("运输中", "派送中", "配送中", "在途", "in transit", "out for delivery"),
     ("未发货", "待发货", "not shipped", "not yet shipped")),
    (("上涨", "涨了", "上升", "rose", "gained", "is up"), ("下跌", "跌了", "下降", "fell", "dropped", "is down")),
    (("准点", "正点", "准时", "on time", "on schedule"), ("延误", "晚点", "delayed"),
     ("取消", "cancelled", "canceled")),
    (("营业中", "正在营业", "开门", "open now", "is open"), ("已打烊", "关门", "休业", "closed", "shut")),
    (("制冷", "cooling", "cool mode"), ("制热", "heating", "heat mode"), ("除湿", "dehumidif")),
    (("可用", "空闲", "available"), ("不可用", "已满", "已占用", "unavailable", "fully booked", "occupied")),
    (("锁上", "已锁", "上锁", "locked"), ("解锁", "未锁", "unlocked")),
    (("胜", "赢", " won", "beat"), ("输", "负于", " lost"), ("平局", "战平", "draw", "tied")),
    (("通畅", "畅通", "smooth"), ("拥堵", "堵车", "congest", "heavy traffic")),
)  # fmt: skip
_NEGATED_BY = ("不", "没", "没有", "无", "未", "别", "不会", "不会下", "没下", "不下", "没有下", "no ", "not ", "n't ")
_NEGATIONS = "".join(f"(?<!{word})" for word in _NEGATED_BY)


def admits_failure(answer: str) -> bool:
    """Tell whether the answer says that something went wrong."""
    return bool(_FAILURE.search(answer))


def asks(answer: str) -> bool:
    """Tell whether the answer asks the user for something."""
    return bool(_ASKING.search(answer))


def failed(observation: str) -> bool:
    """Tell whether an observation reports a failure of the tool."""
    return bool(_FAILED.search(observation)) or (
        len(observation) < _SHORT and bool(_FAILED_SHORT.search(observation)) and not _FINE.search(observation)
    )


def denial(answer: str, observations: Iterable[str]) -> str | None:
    """Return the words by which the answer denies what was observed (`cannot get the weather`), or None.

    Words that an observation itself uses are no denial.
    """
    known = "\n".join(observations).lower()
    for match in _DENIAL.finditer(answer):
        if match[0].lower() not in known and not _CONDITION.search(answer[: match.start()]):
            return match[0]
    return None


def clash(answer: str, observations: Sequence[str], context: Iterable[str] = ()) -> str | None:
    """Return a word of the answer that excludes what was observed (`sunny` after rain), or None.

    Words of the query or history are not held against it: an answer may repeat them.
    """
    seen, around = "\n".join(observations), "\n".join(context)
    for groups in _CLASSES:
        observed = [group for group in groups if _says(seen, group)]
        if not observed or any(_says(answer, group) for group in observed):
            continue
        for group in groups:
            if group not in observed and (word := _says(answer, group)) and not _says(around, group):
                return word
    return None


def same_word(answer: str, fact: str) -> bool:
    """Tell whether fact and answer name the same state in their own language (晴 and sunny)."""
    return any(_says(fact, group) and _says(answer, group) for groups in _CLASSES for group in groups)


def _says(text: str, group: tuple[str, ...]) -> str | None:
    match = _pattern(group).search(text)
    return match[0] if match else None


@cache
def _pattern(group: tuple[str, ...]) -> re.Pattern[str]:
    words = "|".join(rf"(?<![a-z]){re.escape(word)}" if word.isascii() else re.escape(word) for word in group)
    return re.compile(rf"{_NEGATIONS}(?:{words})", re.IGNORECASE)
