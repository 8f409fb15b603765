"""Pictures by Wanx, as an asynchronous task of DashScope."""

from __future__ import annotations

import os
import time
from typing import Any
from urllib.parse import quote

from toolweave.errors import ToolError
from toolweave.tools.base import BaseTool
from toolweave.tools.http import Service
from toolweave.tools.registry import register_tool
from toolweave.types import Json

_RESOLUTIONS = ("1024*1024", "720*1280", "1280*720")


@register_tool("image_gen")
class ImageGen(BaseTool):
    """Text to image.

    `cfg`: `model`, `api_key` (or environment DASHSCOPE_API_KEY), `base_url` (or DASHSCOPE_HTTP_BASE_URL), and in
    seconds `timeout` for the whole picture, `request_timeout` for each request and `interval` between two looks.
    """

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

    def call(self, params: str, **kwargs: Any) -> str:
        """Return the picture as `![IMAGEGEN](url)`. Raises ToolError when it fails or takes too long."""
        arguments = self._verify_args(params)
        if arguments["resolution"] not in _RESOLUTIONS:
            raise ToolError(f"resolution must be one of {', '.join(_RESOLUTIONS)}")
        service = self._service()
        return f"![IMAGEGEN]({self._wait(service, self._submit(service, arguments))})"

    def _service(self) -> Service:
        key = self.cfg.get("api_key") or os.environ.get("DASHSCOPE_API_KEY", "")
        if not key:
            raise ToolError("DASHSCOPE_API_KEY is not set: get a key at https://dashscope.console.aliyun.com")
        env_url = os.environ.get("DASHSCOPE_HTTP_BASE_URL")
        base_url = self.cfg.get("base_url") or env_url or "https://dashscope.aliyuncs.com/api/v1"
        return Service("DashScope", base_url, key, float(self.cfg.get("request_timeout", 10)))

    def _submit(self, service: Service, arguments: Json) -> str:
        parameters: Json = {"size": arguments["resolution"], "n": 1}
        if arguments.get("lora_index"):
            parameters["lora_index"] = arguments["lora_index"]
        body = {
            "model": self.cfg.get("model", "wanx-v1"),
            "input": {"prompt": arguments["text"]},
            "parameters": parameters,
        }
        headers = {"Authorization": f"Bearer {service.key}", "X-DashScope-Async": "enable"}
        answer = service.request("POST", "/services/aigc/text2image/image-synthesis", json=body, headers=headers)
        task_id = (answer.get("output") or {}).get("task_id")
        if not task_id:
            raise service.error(answer.get("message") or "no task_id")
        return str(task_id)

    def _wait(self, service: Service, task_id: str) -> str:
        limit = float(self.cfg.get("timeout", 120))
        deadline = time.monotonic() + limit
        headers = {"Authorization": f"Bearer {service.key}"}
        while True:
            answer = service.request("GET", f"/tasks/{quote(task_id, safe='')}", headers=headers)
            output = answer.get("output") or {}
            match output.get("task_status"):
                case "SUCCEEDED":
                    return self._url(service, output)
                case "PENDING" | "RUNNING":
                    pass
                case status:
                    raise service.error(f"{status}, {output.get('message') or answer.get('message') or 'no reason'}")
            interval = float(self.cfg.get("interval", 1))
            if time.monotonic() + interval > deadline:
                raise ToolError(f"the picture was not ready within {limit:g} s")
            time.sleep(interval)

    def _url(self, service: Service, output: Json) -> str:
        results = output.get("results") or [{}]
        url = results[0].get("url")
        if not url:
            raise service.error(results[0].get("message") or "no picture")
        return str(url)
