"""Python code, run in a sandbox; figures come back as pictures."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from stat import S_ISREG
from typing import Any

from toolweave.errors import ToolError
from toolweave.tools.base import BaseTool, Effect
from toolweave.tools.files import WorkFolder, uploads
from toolweave.tools.registry import register_tool
from toolweave.tools.sandbox import Quota, Stop, run_python

_PICTURES = (".png", ".jpg", ".jpeg", ".svg", ".gif", ".webp")
_FENCE = re.compile(r"\A\s*```(?:\w+)?\s*\n(.*?)\n?```\s*\Z", re.DOTALL)
_SCRIPT = "main.py"


@register_tool("code_interpreter")
class CodeInterpreter(BaseTool):
    """Runs Python in a work folder of its own, which later calls find again; uploads are copied into it.

    `cfg`: `max_output` (characters, 2000); and, for the operator only, `work_dir` (or environment
    CODE_INTERPRETER_WORK_DIR), `timeout` (seconds, 60) and `memory_mb` (1024).
    """

    name = "code_interpreter"
    description = "代码解释器，可用于执行Python代码。"
    parameters = ({"name": "code", "type": "string", "description": "待执行的代码", "required": True},)
    effect = Effect.WRITE
    operator_keys = frozenset({"work_dir", "timeout", "memory_mb"})

    def __init__(self, cfg: Mapping[str, Any] | None = None) -> None:
        super().__init__(cfg)
        self._folder = WorkFolder(self.cfg.get("work_dir"))

    def call(self, params: str, **kwargs: Any) -> str:
        """Return what the code printed and the pictures it made. Raises ToolError when it failed or was stopped."""
        code = self._verify_args(params)["code"]
        fenced = _FENCE.match(code)
        folder = self._folder.path
        for name, path in uploads(kwargs).items():
            if name != _SCRIPT:
                _place(path, folder / name)
        _write(folder / _SCRIPT, fenced[1] if fenced else code)
        seconds = float(self.cfg.get("timeout", 60))
        quota = Quota(seconds, cpu_seconds=int(seconds) + 1, memory=int(self.cfg.get("memory_mb", 1024)) << 20)
        before = _pictures(folder)
        kept = set(folder.iterdir())
        outcome = run_python(folder / _SCRIPT, quota, kwargs.get("cancel"))
        output = self._cut(outcome.output.strip())
        if outcome.stop is Stop.DISK:
            # What filled the disk would stop the next code as well.
            for path in set(folder.iterdir()) - kept:
                _remove(path)
        if outcome.stop or outcome.status:
            problem = outcome.stop or f"the code ended with status {outcome.status}"
            raise ToolError(f"{problem}\n{output}".strip())
        pictures = [f"![IMAGEGEN]({path})" for path, stamp in _pictures(folder).items() if before.get(path) != stamp]
        return "\n".join([*([output] if output else []), *pictures]) or "(no output)"

    def _cut(self, text: str) -> str:
        """Keep beginning and end: a traceback's last line says most."""
        limit = int(self.cfg.get("max_output", 2000))
        if len(text) <= limit:
            return text
        return f"{text[: limit // 2]}\n[…]\n{text[-(limit - limit // 2) :]}"


def _pictures(folder: Path) -> dict[Path, int]:
    """Return the pictures in a folder with their times. Links do not count: code could point one at any file."""
    found = {}
    for path in sorted(folder.iterdir()):
        status = path.lstat()
        if path.suffix.lower() in _PICTURES and S_ISREG(status.st_mode):
            found[path] = status.st_mtime_ns
    return found


def _place(source: Path, target: Path) -> None:
    if not target.exists() and not target.is_symlink():
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            raise ToolError(f"cannot read the upload {source.name}: {type(error).__name__}") from None


def _write(path: Path, text: str) -> None:
    # Earlier code may have left a link or a folder of this name: it is removed, never written through.
    _remove(path)
    path.write_text(text, "utf-8", errors="replace")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
