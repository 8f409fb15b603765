"""Speech to text and text to speech, by DashScope."""

from __future__ import annotations

import json
import socket
import time
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from toolweave.errors import ToolError
from toolweave.tools.base import Effect
from toolweave.tools.dashscope import DashScope, DashScopeTool
from toolweave.tools.files import WorkFolder, upload
from toolweave.tools.http import parse_json
from toolweave.tools.net import Policy, pinned_url
from toolweave.tools.registry import register_tool
from toolweave.types import Json

_AUDIO = (".wav", ".mp3", ".m4a", ".aac", ".flac", ".ogg", ".opus", ".amr", ".pcm", ".wma", ".webm", ".mp4")
_MAX_AUDIO = 50_000_000


@register_tool("paraformer_asr")
class ParaformerAsr(DashScopeTool):
    """What is said in an uploaded recording, as a task over the recorded file. `cfg` is that of `DashScopeTool`."""

    name = "paraformer_asr"
    description = "Paraformer语音识别服务，将语音转成文本"
    parameters = (
        {"name": "audio_path", "type": "string", "description": "需要转成文本的语音文件路径", "required": True},
    )
    model = "paraformer-v2"
    effect = Effect.READ

    def call(self, params: str, **kwargs: Any) -> str:
        """Return the text. Raises ToolError."""
        file = upload(self._verify_args(params)["audio_path"], kwargs, _AUDIO)
        client, model = self.client(), self.model_name()
        body = {"model": model, "input": {"file_urls": [client.upload(file, model)]}, "parameters": {}}
        output = client.run("/services/audio/asr/transcription", body, kwargs)
        result = (output.get("results") or [{}])[0]
        if not result.get("transcription_url"):
            raise client.service.error(result.get("message") or "no transcription")
        # The address comes with the answer and is signed: no key goes there.
        found = client.service.send("GET", str(result["transcription_url"]))
        transcripts = (parse_json(found) or {}).get("transcripts")
        if found.status >= 400 or not transcripts:
            raise client.service.error(f"HTTP {found.status} and no transcript")
        return "".join(str(transcript.get("text", "")) for transcript in transcripts)


@register_tool("sambert_tts")
class SambertTts(DashScopeTool):
    """Text as speech, over DashScope's WebSocket; the sound is a file in the tool's work folder.

    `cfg` is that of `DashScopeTool`, and `work_dir`. Needs the extra `speech`.
    """

    name = "sambert_tts"
    description = "Sambert语音合成服务，将文本转成语音"
    parameters = ({"name": "text", "type": "string", "description": "需要转成语音的文本", "required": True},)
    model = "sambert-zhijia-v1"
    operator_keys = frozenset({"work_dir"})

    def __init__(self, cfg: Json | None = None) -> None:
        super().__init__(cfg)
        self._folder = WorkFolder(self.cfg.get("work_dir"))

    def call(self, params: str, **kwargs: Any) -> str:
        """Return the sound as AgentFabric shows it, an `<audio>` element. Raises ToolError."""
        text = self._verify_args(params)["text"].strip()
        if not text:
            raise ToolError("text is empty")
        sound = _synthesize(self.client(), self.model_name(), text)
        file = self._folder.path / f"{uuid4().hex[:8]}.wav"
        file.write_bytes(sound)
        return f'<audio src="{file}"/>'


def _synthesize(client: DashScope, model: str, text: str) -> bytes:
    try:
        from websockets.exceptions import WebSocketException
        from websockets.sync.client import connect
    except ImportError:
        raise ToolError("sambert_tts needs the extra `speech`", "pip install 'toolweave[speech]'") from None

    task_id = str(uuid4())
    run_task = {
        "header": {"action": "run-task", "task_id": task_id, "streaming": "out"},
        "payload": {
            "model": model,
            "task_group": "audio",
            "task": "tts",
            "function": "SpeechSynthesizer",
            "input": {"text": text},
            "parameters": {"text_type": "PlainText", "format": "wav", "sample_rate": 16000},
        },
    }
    url, address, port = _endpoint(client.service.base_url)
    limit = client.waiting.seconds
    deadline = time.monotonic() + limit
    sound = bytearray()
    try:
        with connect(
            url,
            sock=socket.create_connection((address, port), timeout=client.service.timeout),
            additional_headers={"Authorization": f"Bearer {client.service.key}"},
            open_timeout=client.service.timeout,
            max_size=_MAX_AUDIO,
            proxy=None,
        ) as connection:
            connection.send(json.dumps(run_task))
            while True:
                message = connection.recv(timeout=max(deadline - time.monotonic(), 0))
                if isinstance(message, bytes):
                    sound += message
                    if len(sound) > _MAX_AUDIO:
                        raise ToolError("the sound is too large")
                    continue
                header = json.loads(message)["header"]
                if header.get("event") == "task-failed":
                    raise client.service.error(header.get("error_message") or "task-failed")
                if header.get("event") == "task-finished":
                    break
    except TimeoutError:
        raise ToolError(f"the speech was not ready within {limit:g} s") from None
    except (OSError, WebSocketException) as error:
        raise ToolError(f"cannot reach DashScope: {type(error).__name__}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise client.service.error("something that is not an event") from None
    if not sound:
        raise client.service.error("no sound")
    return bytes(sound)


def _endpoint(base_url: str) -> tuple[str, str, int]:
    """Return the WebSocket URL that belongs to an HTTP one, and the checked address and port to connect to."""
    parts = urlsplit(base_url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        address = pinned_url(Policy.from_env(), parts.scheme, host, port)
    except OSError:
        raise ToolError("cannot reach DashScope: its name does not resolve") from None
    path = parts.path.rstrip("/").removesuffix("/api/v1") + "/api-ws/v1/inference"
    return f"{'wss' if parts.scheme == 'https' else 'ws'}://{parts.netloc}{path}", address, port
