"""Numbers in words, Chinese and English, rewritten as digits: 十二度 and twelve degrees become 12."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal

_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F) if chr(code) not in "，（）"} | {ord("−"): "-"}

_DIGITS = {char: index for index, char in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_SMALL = {"十": 10, "百": 100, "千": 1000}
_LARGE = {"万": 10**4, "亿": 10**8}
_ZH = re.compile(r"[零〇一二两三四五六七八九十百千万亿]+(?:点[零〇一二三四五六七八九]+(?!分|刻|半))?")
# A single numeral counts where a unit follows; before other words it is as often part of them (一下, 十分, 统一).
_ZH_UNIT = re.compile(
    r"\s*(?:度|°|℃|摄氏|华氏|元|块|米|公里|千米|厘米|公斤|千克|克|斤|升|小时|分|秒|点|月|日|号|年|岁|级|折|%|角|"
    r"页|篇|首|封|条|家|张|份|次|位|种|项|间|杯|片|倍|楼|层|站)"
)
_NOT_NUMBERS = ("万一", "千万", "百分", "十分", "一点", "一些", "一下", "一次", "一样", "一起", "一直")
_PRICE = re.compile(
    r"([一二两三四五六七八九十百]+|\d+)块([一二三四五六七八九])[毛角]?([一二三四五六七八九])?分?(?=$|[^一二三四五六七八九十\w])"
)
_MIXED = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)\s?(百万|千万|[百千万亿])(?![分克米卡瓦帕])")
_PERCENT = re.compile(r"百分之\s?(-?\d+(?:\.\d+)?)")

_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_EN_VALUES = {word: index for index, word in enumerate((_ONES + " seventeen eighteen nineteen").split())}
_EN_VALUES |= {
    word: 10 * index
    for index, word in enumerate(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], 2)
}
_EN_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_EN_WORD = "|".join(sorted((*_EN_VALUES, *_EN_SCALES), key=len, reverse=True))
_EN = re.compile(rf"\b(?:a\s)?(?:{_EN_WORD})(?:(?:[\s-]+|\sand\s|\spoint\s)(?:{_EN_WORD}))*\b", re.IGNORECASE)
_EN_SCALED = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)\s(hundred|thousand|million|billion)\b", re.IGNORECASE)

_BELOW_ZERO = (
    (re.compile(r"负\s?(?=\d)"), "-"),
    (re.compile(r"\b(?:minus|negative)\s(?=\d)", re.IGNORECASE), "-"),
    (re.compile(r"(?<![\d.-])(\d+(?:\.\d+)?)\s?(?:°C|degrees?)?\s?(?:Celsius )?below (?:0|freezing)", re.IGNORECASE),
     r"-\1"),
)  # fmt: skip


def digitise(text: str) -> tuple[str, frozenset[Decimal]]:
    """Return the text with full-width characters and number words as digits, and the words left as they were.

    Those left are single numerals that may be part of a word (一, one): they can support a number, but claim none.
    """
    loose: set[Decimal] = set()
    text = text.translate(_WIDE).replace("零下", "负")
    text = _PRICE.sub(_spoken_price, text)
    text = _ZH.sub(lambda match: _chinese(match, loose), text)
    text = _EN.sub(_noting(_english, loose), text)
    text = _MIXED.sub(lambda match: _plain(Decimal(match[1]) * _zh_scale(match[2])), text)
    text = _EN_SCALED.sub(lambda match: _plain(Decimal(match[1]) * _EN_SCALES[match[2].lower()]), text)
    text = _PERCENT.sub(r"\1%", text)
    for pattern, replacement in _BELOW_ZERO:
        text = pattern.sub(replacement, text)
    return text, frozenset(loose)


def _noting(read: Callable[[str], Decimal | None], loose: set[Decimal]) -> Callable[[re.Match[str]], str]:
    def replace(match: re.Match[str]) -> str:
        value = read(match[0])
        if value is None:
            return match[0]
        if match[0].lower() == "one":
            loose.add(value)
            return match[0]
        return _plain(value)

    return replace


def _chinese(match: re.Match[str], loose: set[Decimal]) -> str:
    word, text, end = match[0], match.string, match.end()
    value = _read_chinese(word)
    if value is None:
        return word
    follows = _ZH_UNIT.match(text, end)
    if _is_word(text, match.start()):
        return word
    if (
        len(word) == 2
        and _DIGITS.get(word[1], 0) - _DIGITS.get(word[0], 0) == 1
        and set(word) <= _DIGITS.keys()
        and not text.startswith("年", end)
    ):
        loose.update(Decimal(_DIGITS[char]) for char in word)  # 五六个 is five or six, not 56
        return word
    if len(word) == 1 and (word == "一" or not follows):
        loose.add(value)
        return f"{value}" if word == "一" and follows and follows[0].strip() in ("月", "日", "号") else word
    return _plain(value)


def _is_word(text: str, start: int) -> bool:
    """Tell whether a word that only looks like a number begins here: 十分 is `very`, but not in 十分钟 and 两点十分."""
    if text.startswith("十分", start) and (text.startswith("十分钟", start) or text[max(0, start - 1)] == "点"):
        return False
    return any(text.startswith(word, start) for word in _NOT_NUMBERS)


def _spoken_price(match: re.Match[str]) -> str:
    """Turn 七块六毛五 into 7.65元."""
    whole = match[1] if match[1].isdigit() else _read_chinese(match[1])
    return match[0] if whole is None else f"{whole}.{_DIGITS[match[2]]}{_DIGITS[match[3]] if match[3] else ''}元"


def _read_chinese(word: str) -> Decimal | None:
    whole, _, fraction = word.partition("点")
    tail = "".join(str(_DIGITS[char]) for char in fraction)
    if not any(char in _DIGITS or char == "十" for char in whole):
        return None  # 百, 千万: no number of their own
    if not any(char in _SMALL or char in _LARGE for char in whole):
        number = int("".join(str(_DIGITS[char]) for char in whole))
    else:
        number = _positional(whole)
    return Decimal(f"{number}.{tail}") if tail else Decimal(number)


def _positional(word: str) -> int:
    total = section = digit = 0
    for char in word:
        if char in _DIGITS:
            digit = _DIGITS[char]
        elif char in _SMALL:
            section += (digit or 1) * _SMALL[char]
            digit = 0
        else:
            total = (total + section + digit) * _LARGE[char]
            section = digit = 0
    return total + section + digit


def _zh_scale(unit: str) -> int:
    scale = 1
    for char in unit:
        scale *= _SMALL.get(char) or _LARGE[char]
    return scale


def _english(words: str) -> Decimal | None:
    whole, _, fraction = words.lower().partition(" point ")
    total = current = 0
    seen = whole.startswith("a ")
    for word in re.split(r"[\s-]+", whole.removeprefix("a ")):
        if word in _EN_VALUES:
            # `twenty five` adds up; `five six` is two numbers, and better left alone.
            if current % 100 and not (current % 10 == 0 and current % 100 >= 20 and _EN_VALUES[word] < 10):
                return None
            current += _EN_VALUES[word]
            seen = True
        elif word == "hundred":
            current = (current or 1) * 100
        elif word in _EN_SCALES:
            total += (current or 1) * _EN_SCALES[word]
            current = 0
    if not seen:
        return None  # `thousand` alone, as in `a few thousand`
    tail = "".join(str(_EN_VALUES[word]) for word in fraction.split() if _EN_VALUES.get(word, 10) < 10)
    return Decimal(f"{total + current}.{tail}") if tail else Decimal(total + current)


def _plain(value: Decimal) -> str:
    return format(value.normalize(), "f")
