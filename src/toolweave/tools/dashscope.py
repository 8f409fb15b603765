"""DashScope over HTTP: asynchronous tasks, uploads, and one request at a time.

The protocol is that of https://help.aliyun.com/zh/model-studio: submit with `X-DashScope-Async: enable`, then look
at `/tasks/{task_id}`; local files go to the temporary store and are named by an `oss://` URL.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import quote

from toolweave.errors import ToolError
from toolweave.tools.base import BaseTool, Effect
from toolweave.tools.http import Place, Service
from toolweave.types import Json

PLACE = Place(
    "DashScope",
    "https://dashscope.aliyuncs.com/api/v1",
    url_variable="DASHSCOPE_HTTP_BASE_URL",
    key_variable="DASHSCOPE_API_KEY",
    key_names=("api_key",),
    key_hint="get a key at https://dashscope.console.aliyun.com",
)
MAX_UPLOAD = 100_000_000


@dataclass(frozen=True, slots=True)
class Waiting:
    """How a task is waited for: `seconds` in all, one look each `interval` seconds."""

    seconds: float = 120.0
    interval: float = 1.0


@dataclass(frozen=True, slots=True)
class DashScope:
    """A client of one key."""

    service: Service
    waiting: Waiting = Waiting()

    @classmethod
    def configured(cls, cfg: Mapping[str, Any]) -> DashScope:
        """Read `api_key`, `base_url`, `request_timeout`, `timeout` and `interval`. Raises ToolError without a key."""
        waiting = Waiting(float(cfg.get("timeout", 120)), float(cfg.get("interval", 1)))
        return cls(PLACE.service(cfg, float(cfg.get("request_timeout", 10))), waiting)

    def ask(self, path: str, body: Json, headers: Mapping[str, str] | None = None) -> Json:
        """Return the answer to one request. Raises ToolError."""
        return self.service.request("POST", path, json=body, headers=self._headers(headers))

    def run(self, path: str, body: Json, kwargs: Mapping[str, Any]) -> Json:
        """Submit a task, wait for it and return its output.

        `kwargs` are those of the tool call: `cancel` ends the waiting, `progress` hears each change of state.
        Raises ToolError when the task fails, is cancelled or takes too long.
        """
        answer = self.ask(path, body, {"X-DashScope-Async": "enable"})
        task_id = (answer.get("output") or {}).get("task_id")
        if not task_id:
            raise self.service.error(answer.get("message") or "no task_id")
        return self._wait(str(task_id), kwargs)

    def upload(self, file: Path, model: str) -> str:
        """Put a file into the temporary store (48 hours) of `model` and return its `oss://` URL. Raises ToolError."""
        if file.stat().st_size > MAX_UPLOAD:
            raise ToolError(f"{file.name} is larger than {MAX_UPLOAD:,} bytes")
        query = {"action": "getPolicy", "model": model}
        policy = self.service.request("GET", "/uploads", params=query, headers=self._headers()).get("data") or {}
        try:
            key = f"{policy['upload_dir']}/{file.name}"
            form = {
                "OSSAccessKeyId": policy["oss_access_key_id"],
                "Signature": policy["signature"],
                "policy": policy["policy"],
                "x-oss-object-acl": policy["x_oss_object_acl"],
                "x-oss-forbid-overwrite": policy["x_oss_forbid_overwrite"],
                "key": key,
                "success_action_status": "200",
            }
            host = str(policy["upload_host"])
        except KeyError as error:
            raise self.service.error(f"an upload policy without {error}") from None
        # The form carries its own signature: the key stays at home.
        stored = self.service.send("POST", host, data=form, files={"file": (file.name, file.read_bytes())})
        if stored.status >= 400:
            raise self.service.error(f"HTTP {stored.status} to the upload of {file.name}")
        return f"oss://{key}"

    def _wait(self, task_id: str, kwargs: Mapping[str, Any]) -> Json:
        deadline = time.monotonic() + self.waiting.seconds
        cancel: Event = kwargs.get("cancel") or Event()
        progress = kwargs.get("progress")
        seen = ""
        while True:
            answer = self.service.request("GET", f"/tasks/{quote(task_id, safe='')}", headers=self._headers())
            output: Json = answer.get("output") or {}
            status = str(output.get("task_status"))
            if progress is not None and status != seen:
                progress(f"DashScope: {status}")
            seen = status
            match status:
                case "SUCCEEDED":
                    return output
                case "PENDING" | "RUNNING":
                    pass
                case _:
                    reason = output.get("message") or answer.get("message") or "no reason"
                    raise self.service.error(f"{status}, {reason}")
            if time.monotonic() + self.waiting.interval > deadline:
                raise ToolError(f"the result was not ready within {self.waiting.seconds:g} s")
            if cancel.wait(self.waiting.interval):
                raise ToolError("cancelled")

    def _headers(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        return {
            "Authorization": f"Bearer {self.service.key}",
            "X-DashScope-OssResourceResolve": "enable",
            **(more or {}),
        }


class DashScopeTool(BaseTool):
    """A tool that asks DashScope.

    `cfg`: `model`, `api_key` (or environment DASHSCOPE_API_KEY), `base_url` (or DASHSCOPE_HTTP_BASE_URL), and in
    seconds `timeout` for the whole task, `request_timeout` for each request and `interval` between two looks.
    """

    model: str = ""
    effect = Effect.WRITE

    def client(self) -> DashScope:
        """Return the client as configured. Raises ToolError without a key."""
        return DashScope.configured(self.cfg)

    def model_name(self) -> str:
        """Return the model that `cfg` names, or the tool's own."""
        return str(self.cfg.get("model") or self.model)

    def picture(self, client: DashScope, url: object) -> str:
        """Return a picture as AgentFabric shows it. Raises ToolError for a result without a URL."""
        if not isinstance(url, str) or not url:
            raise client.service.error("no picture")
        return f"![IMAGEGEN]({url})"
