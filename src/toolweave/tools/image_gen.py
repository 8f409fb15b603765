"""Pictures by Wanx and its successors, as an asynchronous task of DashScope."""

from __future__ import annotations

from typing import Any

from toolweave.errors import ToolError
from toolweave.tools.dashscope import DashScopeTool
from toolweave.tools.registry import register_tool
from toolweave.types import Json

_RESOLUTIONS = ("1024*1024", "720*1280", "1280*720")


@register_tool("image_gen")
class ImageGen(DashScopeTool):
    """Text to image. `cfg` is that of `DashScopeTool`; `model` may be any of wanx-v1, wanx2.x, wan2.x-t2i."""

    name = "image_gen"
    description = "AI绘画（图像生成）服务，输入文本描述和图像分辨率，返回根据文本信息绘制的图片URL。"
    parameters = (
        {
            "name": "text",
            "type": "string",
            "description": "详细描述了希望生成的图像具有什么内容，例如人物、环境、动作等细节描述",
            "required": True,
        },
        {
            "name": "resolution",
            "type": "string",
            "description": ("格式是 数字*数字，表示希望生成的图像的分辨率大小，选项有[1024*1024, 720*1280, 1280*720]"),
            "required": True,
        },
    )
    model = "wanx-v1"

    def call(self, params: str, **kwargs: Any) -> str:
        """Return the picture as `![IMAGEGEN](url)`. Raises ToolError when it fails or takes too long."""
        arguments = self._verify_args(params)
        if arguments["resolution"] not in _RESOLUTIONS:
            raise ToolError(f"resolution must be one of {', '.join(_RESOLUTIONS)}")
        client = self.client()
        model = self.model_name()
        # wan2.6 and later speak in messages; the models before it take a prompt.
        request = _messages_request if model.startswith(("wan2.6", "wan2.7", "wan3")) else _prompt_request
        path, body = request(model, arguments)
        output = client.run(path, body, kwargs)
        results = output.get("results") or [{}]
        if results[0].get("message") and not results[0].get("url"):
            raise client.service.error(results[0]["message"])
        return self.picture(client, results[0].get("url") or _first_image(output))


def _prompt_request(model: str, arguments: Json) -> tuple[str, Json]:
    parameters: Json = {"size": arguments["resolution"], "n": 1}
    if arguments.get("lora_index"):
        parameters["lora_index"] = arguments["lora_index"]
    body = {"model": model, "input": {"prompt": arguments["text"]}, "parameters": parameters}
    return "/services/aigc/text2image/image-synthesis", body


def _messages_request(model: str, arguments: Json) -> tuple[str, Json]:
    messages = [{"role": "user", "content": [{"text": arguments["text"]}]}]
    # These models want more pixels than AgentFabric offers; the shape is kept.
    size = {"1024*1024": "1280*1280", "720*1280": "960*1696", "1280*720": "1696*960"}[arguments["resolution"]]
    body = {"model": model, "input": {"messages": messages}, "parameters": {"size": size, "n": 1}}
    return "/services/aigc/image-generation/generation", body


def _first_image(output: Json) -> object:
    """Return the image URL of a chat-like output, None if there is none."""
    for choice in output.get("choices") or ():
        for part in (choice.get("message") or {}).get("content") or ():
            if part.get("image"):
                return part["image"]
    return None
