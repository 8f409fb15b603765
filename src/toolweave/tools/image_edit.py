"""Pictures out of pictures, and letters as pictures: DashScope's style repaint, enhancement and word art."""

from __future__ import annotations

from typing import Any

from toolweave.errors import ToolError
from toolweave.tools.dashscope import DashScopeTool
from toolweave.tools.files import upload
from toolweave.tools.registry import register_tool

_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_STYLES = "0 复古漫画 1 3D童话 2 二次元 3 小清新 4 未来科技 5 国画古风 6 将军百战 7 炫彩卡通 8 清雅国风 9 喜迎新年"


@register_tool("style_repaint")
class StyleRepaint(DashScopeTool):
    """An uploaded portrait in another style."""

    name = "style_repaint"
    description = "调用style_repaint api处理图片"
    parameters = (
        {
            "name": "input.image_path",
            "type": "string",
            "description": "用户上传的照片的相对路径",
            "required": True,
        },
        {
            "name": "input.style_index",
            "type": "integer",
            "description": f"想要生成的风格化类型索引：{_STYLES} 用户输入数字指定风格",
            "required": True,
        },
    )
    model = "wanx-style-repaint-v1"

    def call(self, params: str, **kwargs: Any) -> str:
        """Return the picture as `![IMAGEGEN](url)`. Raises ToolError."""
        arguments = self._verify_args(params)
        if not 0 <= arguments["input.style_index"] <= 9:
            raise ToolError(f"input.style_index must be one of {_STYLES}")
        file = upload(arguments["input.image_path"], kwargs, _IMAGES)
        client, model = self.client(), self.model_name()
        source = {"image_url": client.upload(file, model), "style_index": arguments["input.style_index"]}
        body = {"model": model, "input": source}
        output = client.run("/services/aigc/image-generation/generation", body, kwargs)
        return self.picture(client, (output.get("results") or [{}])[0].get("url"))


@register_tool("image_enhancement")
class ImageEnhancement(DashScopeTool):
    """An uploaded picture, larger and sharper."""

    name = "image_enhancement"
    description = "追影-放大镜"
    parameters = (
        {
            "name": "input.image_path",
            "type": "string",
            "description": "输入的待增强图片的本地相对路径",
            "required": True,
        },
        {
            "name": "parameters.upscale",
            "type": "integer",
            "description": "选择需要超分的倍率，可选择1、2、3、4",
            "enum": [1, 2, 3, 4],
        },
    )
    model = "wanx-image-enhancement-v1"

    def call(self, params: str, **kwargs: Any) -> str:
        """Return the picture as `![IMAGEGEN](url)`. Raises ToolError."""
        arguments = self._verify_args(params)
        file = upload(arguments["input.image_path"], kwargs, _IMAGES)
        client, model = self.client(), self.model_name()
        body = {
            "model": model,
            "input": {"image_url": client.upload(file, model)},
            "parameters": {"upscale": arguments.get("parameters.upscale", 2)},
        }
        output = client.run("/services/enhance/image-enhancement/generation", body, kwargs)
        return self.picture(client, output.get("result_url"))


@register_tool("wordart_texture_generation")
class WordArtTexture(DashScopeTool):
    """Letters with a texture."""

    name = "wordart_texture_generation"
    description = "生成艺术字纹理图片"
    parameters = (
        {
            "name": "input.text.text_content",
            "type": "string",
            "description": "text that the user wants to convert to WordArt",
            "required": True,
        },
        {
            "name": "input.prompt",
            "type": "string",
            "description": (
                "Users’ style requirements for word art may be requirements in terms of shape, color, entity, etc."
            ),
            "required": True,
        },
        {
            "name": "input.texture_style",
            "type": "string",
            "description": "Type of texture style, material by default",
            "enum": ["material", "scene"],
        },
        {
            "name": "input.text.output_image_ratio",
            "type": "string",
            "description": "The aspect ratio of the image, 1:1 by default",
            "enum": ["1:1", "16:9", "9:16"],
        },
    )
    model = "wordart-texture"

    def call(self, params: str, **kwargs: Any) -> str:
        """Return the picture as `![IMAGEGEN](url)`. Raises ToolError."""
        arguments = self._verify_args(params)
        client = self.client()
        text = {
            "text_content": arguments["input.text.text_content"],
            "output_image_ratio": arguments.get("input.text.output_image_ratio", "1:1"),
        }
        style = arguments.get("input.texture_style", "material")
        source = {"text": text, "prompt": arguments["input.prompt"], "texture_style": style}
        body = {"model": self.model_name(), "input": source, "parameters": {"n": 1}}
        output = client.run("/services/aigc/wordart/texture", body, kwargs)
        return self.picture(client, (output.get("results") or [{}])[0].get("url"))
