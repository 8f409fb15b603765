"""Facts are the same in every spelling, in both languages, and nothing else is."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolweave.facts import Flaw, check_answer, extract, failed, states_facts, unsupported
from toolweave.facts.extract import Clock, Day, states
from toolweave.types import Lang

ZH_DIGITS = "零一二三四五六七八九"
ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def chinese(number: int) -> str:
    """Write 0 to 9999 in Chinese numerals."""
    if number < 10:
        return ZH_DIGITS[number]
    if number < 20:
        return "十" + (ZH_DIGITS[number - 10] if number > 10 else "")
    text, gap = "", False
    for scale, unit in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit = number // scale % 10
        if digit:
            text += ("零" if gap else "") + ZH_DIGITS[digit] + unit
            gap = False
        elif text and number % scale:
            gap = True
    return text


def english(number: int) -> str:
    """Write 0 to 999 in English words."""
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10 - 2] + (f"-{ONES[number % 10]}" if number % 10 else "")
    rest = f" and {english(number % 100)}" if number % 100 else ""
    return f"{ONES[number // 100]} hundred{rest}"


@given(st.integers(2, 9999))
def test_chinese_numerals_are_numbers(number: int) -> None:
    assert Decimal(number) in extract(f"现在是{chinese(number)}度").numbers
    assert not unsupported(f"气温{chinese(number)}度", [f'{{"temp": {number}}}'])


@given(st.integers(2, 999))
def test_english_words_are_numbers(number: int) -> None:
    assert extract(f"It is {english(number)} degrees").numbers == {number}
    assert states(f"about {english(number)} left", str(number))


@given(st.integers(-999999, 999999), st.integers(0, 99))
def test_a_number_supports_itself_and_no_other(whole: int, cents: int) -> None:
    spelled = [f"{whole}.{cents:02d}", f"{whole:,}.{cents:02d}"]
    for text in spelled:
        assert not unsupported(f"the price: {text}", [f'"{spelled[0]}"'])
    assert unsupported(f"the price: {whole + 1}.{cents:02d}", [f'"{spelled[0]}"'])


@given(st.text(max_size=300))
def test_any_text_can_be_read(text: str) -> None:
    assert unsupported(text, [text]) == []
    check_answer(text, [text], [text])
    check_answer(text, [], [], [text], Lang.ZH)


@given(
    st.dates(),
    st.sampled_from(["{y}年{m}月{d}日", "{y}-{m:02d}-{d:02d}", "{name} {d}, {y}", "{d} {name} {y}", "{m}月{d}号"]),
)
def test_dates_are_one_day_in_any_spelling(date: date, form: str) -> None:
    y, m, d = date.year, date.month, date.day
    if y < 1000:
        return
    name = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ][m - 1]
    text = form.format(y=y, m=m, d=d, name=name)
    assert not unsupported(text, [f"{y:04d}/{m}/{d}"])
    assert unsupported(text, [f"{y:04d}/{m}/{d % 28 + 1}"]) or d % 28 + 1 == d


@pytest.mark.parametrize(
    ("text", "clock"),
    [
        ("下午三点半", Clock(930, True)),
        ("3:30 pm", Clock(930, True)),
        ("15:30", Clock(930, True)),
        ("两点十分", Clock(130, False)),
        ("9 a.m.", Clock(540, True)),
        ("晚上8点", Clock(1200, True)),
        ("十二点一刻", Clock(735, False)),
    ],
)
def test_times(text: str, clock: Clock) -> None:
    assert extract(text).clocks == (clock,)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("零下五度", {-5}),
        ("-5°C", {-5}),
        ("5 degrees below zero", {-5}),
        ("12-18度", {12, 18}),
        ("百分之二十", {20}),
        ("3.5万元", {35000}),
        ("２０％", {20}),
        ("十分感谢，一下子千万别忘了", set()),
        ("one of them", set()),
        ("订单SF123456", set()),
        ("1. 第一步\n2. 第二步", set()),
        ("五六个人", set()),
        ("twenty-one", {21}),
        ("2 million", {2000000}),
    ],
)
def test_numbers(text: str, numbers: set[int]) -> None:
    assert extract(text).numbers == numbers


def test_dates_need_no_year() -> None:
    assert extract("May 3").dates == (Day(None, 5, 3),)
    assert not unsupported("5月3日", ["2025-05-03"])
    assert unsupported("5月4日", ["2025-05-03"])


SUNNY = "海淀区的天气是晴温度是12度。"


@pytest.mark.parametrize(
    ("answer", "flaws"),
    [
        ("海淀区今天晴，十二度。", set()),
        ("It is sunny in Haidian, twelve degrees.", set()),
        ("抱歉，无法获取实时天气数据。", {Flaw.DENIAL, Flaw.MISSING}),
        ("I cannot access real-time weather, but it may be 12 and sunny.", {Flaw.DENIAL}),
        ("海淀区小雨，12度。", {Flaw.CLASH, Flaw.MISSING}),
        ("海淀区晴，13度。", {Flaw.INVENTED, Flaw.MISSING}),
        ("海淀区晴，12度。如果无法出门，可以看书。", set()),
        ("Action: amap_weather 晴 12", {Flaw.MARKERS}),
        ("晴，12度，详见 https://weather.example/x", {Flaw.INVENTED}),
        ("  ", {Flaw.SILENT}),
    ],
)
def test_flaws(answer: str, flaws: set[Flaw]) -> None:
    assert {finding.flaw for finding in check_answer(answer, [SUNNY], ["海淀区天气"], ["晴", "12"])} == flaws


def test_a_failure_must_be_told() -> None:
    observation = "Tool api amap_weather failed to call. Args: {}.Details: timeout"
    assert failed(observation)
    assert not failed(SUNNY)
    assert [f.flaw for f in check_answer("今天天气很好。", [observation])] == [Flaw.HIDDEN_FAILURE]
    assert not check_answer("抱歉，查询失败了，请稍后再试。", [observation])


def test_without_facts_the_few_observed_must_show() -> None:
    assert [f.flaw for f in check_answer("查好了。", ["余额：35.20元"])] == [Flaw.MISSING]
    assert not check_answer("余额是三十五点二元。", ["余额：35.20元"])


def test_rounding_must_be_said() -> None:
    assert not unsupported("约12度", ["12.3度"])
    assert unsupported("12度", ["12.3度"])


def test_parts_support_a_date_only_without_dates() -> None:
    assert not unsupported("3月5日", ['{"month": 3, "day": 5}'])
    assert unsupported("3月5日", ["2025-05-03"])


def test_states_facts_of_every_kind() -> None:
    answer = "航班 CA1234 于3月5日下午3点半起飞，票价1,280元。"
    assert states_facts(answer, ["CA1234", "2025-03-05", "15:30", "1280"])
    assert not states_facts(answer, ["CA1235"])
    assert not states_facts(answer, ["15:00"])


@pytest.mark.parametrize("part", ["dev", "held"])
def test_agreement_with_hand_labels(part: str) -> None:
    """212 replies labelled by reading them; docs/evaluation.md has the figures of the first, blind run."""
    caught = missed = false_alarms = 0
    for line in (Path(__file__).parent / "fixtures" / "labelled_replies.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        if row["part"] != part:
            continue
        for reply in row["replies"]:
            wrong = check_answer(reply["answer"], row["observations"], [row["query"]], row["facts"], Lang(row["lang"]))
            caught += bool(wrong) and not reply["faithful"]
            missed += not wrong and not reply["faithful"]
            false_alarms += bool(wrong) and reply["faithful"]
    assert caught / (caught + false_alarms) >= 0.94
    assert caught / (caught + missed) >= 0.92
