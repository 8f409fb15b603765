"""Client 0.7's parallel variant: all calls first, then all observations, then the answer."""

from __future__ import annotations

from toolweave.dialects.agentfabric import AgentFabric
from toolweave.dialects.base import CallsPerReply, Prompt
from toolweave.types import Lang

# Client 0.7's words, slips included: they are wire format.
_CALLS = {
    Lang.ZH: (
        "Action: 工具1的名称，必须是[{names}]之一\nAction Input: 工具1的输入\n"
        "Action: 工具2的名称，必须是[{names}]之一\nAction Input: 工具2的输入\n...\n"
        "Action: 工具N的名称，必须是[{names}]之一\nAction Input: 工具N的输入\n"
        "Observation: <result>工具1返回的结果</result>\nObservation: <result>工具2返回的结果</result>\n...\n"
        "Observation: <result>工具N返回的结果</result>\n\n"
        "Answer: 根据Observation总结本次工具调用返回的结果\n\n"
    ),
    Lang.EN: (
        "Action: The name of the tool 1, must be one of [{names}]\nAction Input: Tool input ot tool 1\n"
        "Action: The name of the tool 2, must be one of [{names}]\nAction Input: Tool input ot tool 2\n...\n"
        "Action: The name of the tool N, must be one of [{names}]\nAction Input: Tool input ot tool N\n"
        "Observation: <result>Tool 1 returns result</result>\n"
        "Observation: <result>Tool 1 returns result</result>\n...\n"
        "Observation: <result>Tool N returns result</result>\n"
        "Answer: Summarize the results of this tool call based on Observation.\n\n"
    ),
}


class ParallelAgentFabric(AgentFabric):
    """The `v07` dialect in which a reply makes any number of calls."""

    calls_per_reply = CallsPerReply.MANY

    def __init__(self) -> None:
        super().__init__("v07")
        self.name = "agentfabric-v07-parallel"

    def _tools(self, prompt: Prompt) -> str:
        # The tool list is the same; what a call looks like is not.
        before, _, _ = super()._tools(prompt).rpartition("Action: ")
        names = ",".join(tool.name for tool in prompt.tools)
        return before + _CALLS[prompt.lang].replace("{names}", names)
