"""The conversion script of the article that this project grew from, typed again for comparison of speed.

It is kept as it was: it finds the first nine tools only, takes every parameter for a string, and writes the
parameters of a tool without commas between them. A tool it cannot read raises AttributeError.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

_PREFIX = "\n# 工具\n\n## 你拥有如下工具：\n\n"
_TAIL = (
    "## 当你需要调用工具时，请在你的回复中穿插如下的工具调用命令，可以根据需求调用零次或多次：\n\n工具调用\n"
    "Action: 工具的名称，必须是{names}之一\nAction Input: 工具的输入\nObservation: <result>工具返回的结果</result>\n"
    "Answer: 根据Observation总结本次工具调用返回的结果，如果结果中出现url，请使用如下格式展示出来：![图片](url)\n\n\n"
    "# 指令\n\n你扮演AI-Agent，\n你具有下列具体功能：\n下面你将开始扮演\n\n"
    "请注意：你具有图像和视频的展示能力，也具有运行代码的能力，不要在回复中说你做不到。\n"
)


def _group(pattern: str, text: str) -> str:
    found: Any = re.search(pattern, text)
    return str(found.group(1))


def process_system(text: str) -> str:
    apis = re.findall(r"(?<=\n\d\.)(.*?})(?=])", text, re.DOTALL)
    prompt, names = _PREFIX, []
    for api in apis:
        name = _group(r"(.*?):", api).strip()
        names.append(name)
        api_name, description = _group(r"(\S+)\sAPI", api), _group(r"useful for\?\s(.*?)\.", api)
        prompt += f"{name}: {api_name} API。{description} "
        prompt += '输入参数: {"type": "object", "properties": {'
        required = []
        for parameter in re.findall(r"Parameters: \[({.*})", api, re.DOTALL):
            key = _group(r'"name": "(.*?)"', parameter)
            says = _group(r'"description": "(.*?)"', parameter)
            if _group(r'"required": "(.*)"', parameter).strip().lower() == "true":
                required.append(key)
            prompt += f'"{key}": {{"type": "string", "description": "{says}"}}'
        prompt += '},"required": ' + json.dumps(required) + "} Format the arguments as a JSON object.\n\n"
    return prompt + _TAIL.replace("{names}", json.dumps(names))


def convert(source: Path, target: Path) -> int:
    """Convert a file of ms_agent rows; return how many there were."""
    rows = []
    with source.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            row["conversations"][0]["value"] = process_system(row["conversations"][0]["value"])
            rows.append(row)
    with target.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return len(rows)
