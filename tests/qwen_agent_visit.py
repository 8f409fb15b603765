"""A weather visit by Qwen-Agent itself: `python qwen_agent_visit.py API_BASE QUERY` prints its messages as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

from qwen_agent.agents import Assistant
from qwen_agent.tools.base import BaseTool, register_tool


@register_tool("amap_weather", allow_overwrite=True)  # the real one needs a key
class Weather(BaseTool):
    description = "获取对应城市的天气数据"
    parameters = {  # noqa: RUF012  # as Qwen-Agent wants it
        "type": "object",
        "properties": {"location": {"type": "string", "description": "城市"}},
        "required": ["location"],
    }

    def call(self, params: str, **_: Any) -> str:
        return f"{json.loads(params)['location']}：晴"


if __name__ == "__main__":
    api_base, query = sys.argv[1:]
    llm = {"model": "tiny", "model_server": api_base, "api_key": "EMPTY",
           "generate_cfg": {"use_raw_api": True, "temperature": 0}}  # fmt: skip
    agent = Assistant(llm=llm, function_list=["amap_weather"], system_message="你是天气助手。")
    *_, messages = agent.run([{"role": "user", "content": query}])
    print(json.dumps(messages, ensure_ascii=False))
