"""Questions about uploaded pictures, answered by Qwen-VL."""

from __future__ import annotations

from typing import Any

from toolweave.errors import ToolError
from toolweave.tools.base import Effect
from toolweave.tools.dashscope import DashScopeTool
from toolweave.tools.files import upload
from toolweave.tools.registry import register_tool

_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_PATH = "/services/aigc/multimodal-generation/generation"


@register_tool("qwen_vl")
class QwenVL(DashScopeTool):
    """A picture, or several with commas between, and a question. `cfg` is that of `DashScopeTool`."""

    name = "qwen_vl"
    description = "中英文图文对话，支持图片内容识别，支持图片里中英双语的长文本识别"
    parameters = (
        {
            "name": "image_file_paths",
            "type": "string",
            "description": "用户上传的照片的相对路径,如果是多图的话，用逗号隔开。",
            "required": True,
        },
        {"name": "text", "type": "string", "description": "用户针对上传图片的提问文本", "required": True},
    )
    model = "qwen-vl-plus"
    effect = Effect.READ

    def call(self, params: str, **kwargs: Any) -> str:
        """Return the model's answer. Raises ToolError."""
        arguments = self._verify_args(params)
        names = [name for name in arguments["image_file_paths"].replace("，", ",").split(",") if name.strip()]
        if not names:
            raise ToolError("image_file_paths names no picture")
        files = [upload(name, kwargs, _IMAGES) for name in names]
        client, model = self.client(), self.model_name()
        content = [{"image": client.upload(file, model)} for file in files]
        messages = [{"role": "user", "content": [*content, {"text": arguments["text"]}]}]
        answer = client.ask(_PATH, {"model": model, "input": {"messages": messages}})
        try:
            parts = answer["output"]["choices"][0]["message"]["content"]
            text = parts if isinstance(parts, str) else "".join(part.get("text", "") for part in parts)
        except (KeyError, IndexError, TypeError, AttributeError):
            raise client.service.error(answer.get("message") or "no answer") from None
        return str(text)
