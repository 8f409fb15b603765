"""What a text states that can be checked: numbers, dates, times, links and codes, spelled alike in zh and en."""

from __future__ import annotations

import calendar
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

from toolweave.facts.numerals import digitise

_URL = re.compile(r"https?://[^\s<>\"'`，。；！？、）】」』\]\)\}\u4e00-\u9fff]+")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    r"(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_DATES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?<!\d)(?P<year>\d{4})\s?[-/.年]\s?(?P<month>\d{1,2})\s?[-/.月]\s?(?P<day>\d{1,2})\s?[日号]?(?!\d)",
        r"(?<!\d)(?P<month>\d{1,2})\s?月\s?(?P<day>\d{1,2})\s?[日号]?(?!\d)",
        rf"\b{_MONTH}\s+{_DAY}\b(?:,?\s+(?P<year>\d{{4}})\b)?",
        rf"\b{_DAY}\s+(?:of\s+)?{_MONTH}\b(?:,?\s+(?P<year>\d{{4}})\b)?",
    )
)
_ZH_HALF = r"(?P<zh>凌晨|早上|清晨|早晨|上午|中午|下午|傍晚|晚上|夜里|晚)?\s?"
_EN_HALF = r"(?P<en>[ap]\.?m\b\.?|in the (?:morning|afternoon|evening)\b|at night\b)"
_CLOCKS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_ZH_HALF}(?<!\d)(?<!\d:)(?P<hour>[01]?\d|2[0-4]):(?P<minute>[0-5]\d)(?::[0-5]\d)?(?![\d:])\s?{_EN_HALF}?",
        rf"{_ZH_HALF}(?<![\d.])(?P<hour>[01]?\d|2[0-4])\s?点(?:(?P<half>半)|(?P<quarter>[一三13])刻|零?(?P<minute>[0-5]?\d)分?(?!\d))",
        r"(?P<zh>凌晨|早上|清晨|早晨|上午|中午|下午|傍晚|晚上|夜里|晚)\s?(?P<hour>[01]?\d)\s?点",
        rf"(?<![\d:.])(?P<hour>1?\d)\s?{_EN_HALF}",
    )
)
_PHONE = re.compile(r"(?<![\d-])(\d{3})[- ](\d{3,4})[- ](\d{4})(?![\d-])")
_WEEKDAYS = tuple(
    re.compile(rf"(?:周|星期|礼拜){zh}|\b{en}(?:day)?\b", re.IGNORECASE)
    for zh, en in (
        ("一", "mon"), ("二", "tue(?:s)?"), ("三", "wed(?:nes)?"), ("四", "thu(?:rs)?"), ("五", "fri"), ("六", "satur"),
        ("[日天]", "sun"),
    )
)  # fmt: skip
_RECKONS = re.compile(
    r"共|合计|总|还差|还需|剩|相差|多|均|每|in all|total|more|left|remain|differ|each|over", re.IGNORECASE
)
_FAHRENHEIT = re.compile(r"°F|℉|华氏|Fahrenheit", re.IGNORECASE)
_METRIC = re.compile(
    r"[米克升]|公里|公斤|\b(?:kilo)?(?:met(?:er|re)|gram|lit(?:er|re))s?\b|\d\s?(?:k?m|k?g|m?l)\b", re.I
)
_FALLS = re.compile(r"跌|降|亏|减|低|down|fell|fall|drop|declin|lost|loss|lower|below|decreas", re.IGNORECASE)
_LATE = ("中午", "下午", "傍晚", "晚上", "夜里", "晚")
_CURRENCY = re.compile(r"\b(?:USD|RMB|CNY|EUR|GBP|HKD|JPY)(?=\s?\d)", re.IGNORECASE)
_CODE = re.compile(r"(?<![A-Za-z])[A-Za-z]{1,12}[-_]?\d(?:[\w-]*(?:\.\d+)?)", re.ASCII)
_NUMBERING = re.compile(r"(?m)^[ \t>*#-]*\d{1,2}(?:[.)](?!\d)|、)")
_NUMBER = re.compile(r"(?:(?<![A-Za-z0-9_)\].])-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")
_ABOUT = r"(?:约|大概|差不多|将近|about|around|approximately|nearly|roughly|almost)"
_CLOSE = Decimal("0.01")
_FEW = 6
_PLAIN = re.compile(r"[\s,./\-_*^，。、！？!?'\"“”‘’：:；;]")


class Day(NamedTuple):
    """A date; the year may be left open."""

    year: int | None
    month: int
    day: int

    def same(self, other: Day) -> bool:
        """Tell whether both can be one day."""
        return self[1:] == other[1:] and (self.year is None or other.year is None or self.year == other.year)


class Clock(NamedTuple):
    """A time of day in minutes; `half_known` says whether morning or afternoon is certain."""

    minutes: int
    half_known: bool

    def same(self, other: Clock) -> bool:
        """Tell whether both can be one time."""
        if self.half_known and other.half_known:
            return self.minutes == other.minutes
        return self.minutes % 720 == other.minutes % 720


@dataclass(frozen=True, slots=True)
class Facts:
    """The checkable facts of a text. `loose` are numbers that can support a claim but make none."""

    numbers: frozenset[Decimal]
    loose: frozenset[Decimal]
    dates: tuple[Day, ...]
    clocks: tuple[Clock, ...]
    urls: tuple[str, ...]
    codes: tuple[str, ...]
    weekdays: frozenset[int]
    """0 is Monday."""

    def all_numbers(self) -> frozenset[Decimal]:
        """Return every number a reader may find here, parts of dates and times among them."""
        parts = [part for date in self.dates for part in date if part is not None]
        parts += [part for clock in self.clocks for part in (clock.minutes // 60, clock.minutes // 60 % 12 or 12)]
        parts += [clock.minutes % 60 for clock in self.clocks]
        inside = (Decimal(run) for code in self.codes for run in re.findall(r"\d+", code))
        return self.numbers | self.loose | frozenset(map(Decimal, parts)) | frozenset(inside)


def extract(text: str) -> Facts:
    """Return the facts of a text in Chinese or English, prose or JSON."""
    urls = tuple(url.rstrip(".,;:!?*") for url in _URL.findall(text))
    rest, loose = digitise(_URL.sub(" ", text))
    rest = _PHONE.sub(r"\1\2\3", _NUMBERING.sub(" ", _CURRENCY.sub(" ", rest)))
    dates: list[Day] = []
    clocks: list[Clock] = []
    for pattern in _DATES:
        rest = pattern.sub(lambda match: _take(_day(match), dates, match), rest)
    for pattern in _CLOCKS:
        rest = pattern.sub(lambda match: _take(_clock(match), clocks, match), rest)
    codes = tuple(compact(code) for code in _CODE.findall(rest))
    rest = _CODE.sub(" ", rest)
    numbers = frozenset(Decimal(number.replace(",", "")) for number in _NUMBER.findall(rest))
    weekdays = frozenset(number for number, pattern in enumerate(_WEEKDAYS) if pattern.search(text))
    return Facts(numbers, loose, tuple(dates), tuple(clocks), urls, codes, weekdays)


def unsupported(answer: str, sources: Iterable[str]) -> list[str]:
    """Return what the answer states and no source does, as readable pieces: numbers, dates, times, links, codes."""
    claimed = extract(answer)
    texts = list(sources)
    known = [extract(text) for text in texts]
    numbers = frozenset().union(*(facts.all_numbers() for facts in known), *map(_lengths, texts))
    dates = [date for facts in known for date in facts.dates]
    clocks = [clock for facts in known for clock in facts.clocks]
    missing = [url for url in claimed.urls if not any(url in text for text in texts)]
    # Where the sources hold parts only ({"month": 3, "day": 5}), the parts are what can be compared.
    missing += [_date_text(date) for date in claimed.dates if not _any_day(date, dates, numbers)]
    missing += [
        f"{clock.minutes // 60}:{clock.minutes % 60:02d}"
        for clock in claimed.clocks
        if not any(clock.same(other) for other in clocks)
        and (clocks or not {Decimal(clock.minutes // 60), Decimal(clock.minutes // 60 % 12 or 12)} & numbers)
    ]
    plain = [compact(digitise(text)[0]) for text in texts]
    missing += [
        code for code in claimed.codes if sum(map(str.isdigit, code)) > 1 and not any(code in text for text in plain)
    ]
    if any(facts.weekdays for facts in known):
        days = {day for facts in known for day in facts.weekdays} | {_weekday(date) for date in dates}
        missing += [calendar.day_name[day] for day in sorted(claimed.weekdays - days)]
    plausible = numbers | _derived(numbers, answer)
    missing += [format(number, "f") for number in sorted(claimed.numbers) if not _near(number, plausible, answer)]
    return missing


def states(answer: str, fact: str) -> bool:
    """Tell whether the answer states a fact: a number, date, time or link in any spelling, words as written."""
    if compact(fact) and compact(fact) in compact(answer) and not any(map(str.isdigit, fact)):
        return True
    wanted, given = extract(fact), extract(answer)
    pieces = len(wanted.numbers) + len(wanted.dates) + len(wanted.clocks) + len(wanted.urls) + len(wanted.codes)
    if not pieces:
        return bool(wanted.loose) and wanted.loose <= given.all_numbers()
    plain = compact(digitise(answer)[0])
    return (
        all(number in given.all_numbers() or _rounded(number, given.numbers, answer) for number in wanted.numbers)
        and all(any(date.same(other) for other in given.dates) for date in wanted.dates)
        and all(any(clock.same(other) for other in given.clocks) for clock in wanted.clocks)
        and all(url in answer for url in wanted.urls)
        and all(code in plain for code in wanted.codes)
        and all(word in plain for word in _words(fact))
    )


def compact(text: str) -> str:
    """Return the text without case, blanks and punctuation."""
    return _PLAIN.sub("", text).lower()


def _words(fact: str) -> list[str]:
    """Return the words of a fact that stand beside its numbers; units are spelled in too many ways to compare."""
    rest = _URL.sub(" ", fact)
    if _CODE.search(digitise(rest)[0]):
        return []
    return [word.lower() for word in re.findall(r"[A-Za-z]{4,}", rest) if not re.match(r"degree|percent|minute", word)]


def _take(value: Day | Clock | None, taken: list[Any], match: re.Match[str]) -> str:
    if value is None:
        return match[0]
    taken.append(value)
    return " "


def _day(match: re.Match[str]) -> Day | None:
    groups = match.groupdict()
    month = groups["month"].lower()
    number = int(month) if month.isdigit() else _MONTHS.index(month[:3]) + 1
    day = int(groups["day"])
    if not 1 <= number <= 12 or not 1 <= day <= 31:
        return None
    return Day(int(groups["year"]) if groups.get("year") else None, number, day)


def _clock(match: re.Match[str]) -> Clock | None:
    groups = match.groupdict()
    hour = int(groups["hour"])
    if groups.get("half"):
        minute = 30
    elif groups.get("quarter"):
        minute = 45 if groups["quarter"] in "三3" else 15
    else:
        minute = int(groups.get("minute") or 0)
    english, chinese = (groups.get("en") or "").lower(), groups.get("zh")
    known = bool(english or chinese) or hour > 12 or hour == 0
    if english.startswith(("p", "in the a", "in the e", "at")) or chinese in _LATE:
        hour = hour + 12 if hour < 12 else hour
    elif english and hour == 12:
        hour = 0
    return Clock(hour % 24 * 60 + minute, known)


def _any_day(date: Day, dates: list[Day], numbers: frozenset[Decimal]) -> bool:
    if dates:
        return any(date.same(other) for other in dates)
    return {Decimal(date.month), Decimal(date.day)} <= numbers


def _near(number: Decimal, numbers: frozenset[Decimal], answer: str) -> bool:
    """Tell whether a number is known, or is a known one rounded and said to be about right."""
    return number in numbers or any(_rounded(other, frozenset((number,)), answer) for other in numbers)


def _rounded(exact: Decimal, said: frozenset[Decimal], answer: str) -> bool:
    """Tell whether one of the numbers said is `exact`, rounded, with a word that says so."""
    text = digitise(answer)[0]
    for number in said:
        places = -int(number.as_tuple().exponent)
        if round(exact, places) == number or (number and abs(exact - number) / abs(number) < _CLOSE):
            digits = re.escape(format(abs(number), "f"))
            if re.search(rf"{_ABOUT}\D{{0,8}}{digits}(?!\d)|{digits}\D{{0,4}}(?:左右|上下)", text, re.IGNORECASE):
                return True
    return False


def _lengths(text: str) -> frozenset[Decimal]:
    """Return how many items the JSON arrays of a text have: `3 results` counts them."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return frozenset()
    found: set[Decimal] = set()
    left = [content]
    while left:
        item = left.pop()
        if isinstance(item, list):
            found.add(Decimal(len(item)))
            left += item
        elif isinstance(item, dict):
            left += item.values()
    return frozenset(found)


def _date_text(date: Day) -> str:
    return (f"{date.year:04d}-" if date.year is not None else "") + f"{date.month:02d}-{date.day:02d}"


def _weekday(date: Day) -> int | None:
    try:
        return None if date.year is None else calendar.weekday(date.year, date.month, date.day)
    except ValueError:
        return None


def _derived(numbers: frozenset[Decimal], answer: str) -> frozenset[Decimal]:
    """Return what reckoning with known numbers gives, where the answer shows that it reckons.

    Sums, differences and halves, Celsius as Fahrenheit, kilometres as metres, a fall as a positive number.
    """
    found: set[Decimal] = set()
    # Among many numbers, a sum or difference is found for almost anything.
    if _RECKONS.search(answer) and len(numbers) <= _FEW:
        found |= {value for a in numbers for b in numbers if a > b for value in (a + b, a - b)}
        found |= {a / 2 for a in numbers}
    if _FAHRENHEIT.search(answer):
        found |= {round(a * 9 / 5 + 32, 0) for a in numbers}
    if _METRIC.search(answer):
        found |= {value for a in numbers for value in (a * 1000, a / 1000)}
    if _FALLS.search(answer):
        found |= {-a for a in numbers if a < 0}
    return frozenset(found)
