"""Time the conversion of ms_agent rows to validated samples against the article's script on the same rows.

The article's script rewrites one string a row; ours reads every call, checks it against its tool's schema,
renders every request of the conversation, reads each reply back and writes them all. Prints both times and
their ratio for rows that share tool lists, that share tools, and that share nothing; with a second
number, also the memory that streaming that many rows takes.

Usage: python bench/convert_speed.py [ROWS] [ROWS_FOR_MEMORY]
"""

from __future__ import annotations

import json
import random
import resource
import sys
import tempfile
import time
from enum import StrEnum
from pathlib import Path
from typing import Any

import seed_convert

from toolweave.data.convert import convert


class Lists(StrEnum):
    """Where the tool list of a row comes from."""

    SHARED = "300 tool lists"
    DRAWN = "lists drawn from 2,000 tools"
    OWN = "new tools in every row"


def tool_list(rng: random.Random, mark: int) -> list[dict[str, Any]]:
    """Return two to six tools of one to four parameters, as ms_agent's system prompt lists them."""
    return [
        {
            "name": f"tool_{mark}_{number}",
            "parameters": [
                {"name": f"field_{index}", "description": f"第{index}个参数的说明文字", "required": "True"}
                for index in range(rng.randint(1, 4))
            ],
        }
        for number in range(rng.randint(2, 6))
    ]


def row(rng: random.Random, number: int, tools: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a row of one to three turns with a call each."""
    listed = "\n\n".join(
        f"{index}. {tool['name']}: Call this tool to interact with the {tool['name']} API. What is the "
        f"{tool['name']} API useful for? 查询与{tool['name']}有关的信息. Parameters: "
        f"{json.dumps(tool['parameters'], ensure_ascii=False)}"
        for index, tool in enumerate(tools, start=1)
    )
    system = (
        "Answer the following questions as best you can. You have access to the following APIs:\n" + listed + "\n\n"
        "Use the following format:\n\nThought: you should always think about what to do\nBegin!"
    )
    conversations = [{"from": "system", "value": system}]
    for turn in range(rng.randint(1, 3)):
        tool = rng.choice(tools)
        arguments = {p["name"]: f"值{rng.randrange(1000)}" for p in tool["parameters"]}
        said = (
            f"Thought: 需要调用工具\nAction: {tool['name']}\nAction Input: {arguments!r}\n"
            f"Observation: {{'结果': '{'数据' * 40}'}}\n"
            f"Thought: I now know the final answer\nFinal Answer: {'回答' * 40}。"
        )
        conversations += [{"from": "user", "value": f"第{turn}个问题是什么？"}, {"from": "assistant", "value": said}]
    return {"id": f"row-{number}", "conversations": conversations}


def write_rows(path: Path, count: int, lists: Lists) -> None:
    rng = random.Random(0)
    shared = [tool_list(rng, mark) for mark in range(300)]
    tools = [tool for mark in range(500) for tool in tool_list(rng, mark)]
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            match lists:
                case Lists.SHARED:
                    listed = shared[number % len(shared)]
                case Lists.DRAWN:
                    listed = rng.sample(tools, rng.randint(2, 6))
                case Lists.OWN:
                    listed = tool_list(rng, number)
            file.write(json.dumps(row(rng, number, listed), ensure_ascii=False) + "\n")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 30_000
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.jsonl", Path(folder) / "out.jsonl"
        for lists in Lists:
            write_rows(source, count, lists)
            started = time.process_time()
            seed_convert.convert(source, target)
            seed = time.process_time() - started
            started = time.process_time()
            report = convert(source, target, from_="ms_agent")
            ours = time.process_time() - started
            print(f"{count} rows, {lists}: {report.samples} samples, {len(report.dropped)} rows left out")
            print(f"  article's script {seed:6.2f} s   toolweave {ours:6.2f} s   ratio {ours / seed:5.2f}")
    if len(sys.argv) > 2:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "in.jsonl"
            write_rows(source, int(sys.argv[2]), Lists.SHARED)
            convert(source, Path(folder) / "out.jsonl", from_="ms_agent")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{sys.argv[2]} rows: {peak:.0f} MiB at most")


if __name__ == "__main__":
    main()
