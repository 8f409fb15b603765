"""The code interpreter. Where no sandbox can be made, that no code runs is what is tested."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Event, Timer

import pytest

from toolweave.errors import ToolError
from toolweave.tools import sandbox
from toolweave.tools.code_interpreter import CodeInterpreter
from toolweave.tools.sandbox import Isolation, Quota, Stop, isolation, run_python

SANDBOXED = isinstance(isolation(), Isolation)
needs_sandbox = pytest.mark.skipif(not SANDBOXED, reason=f"no sandbox: {isolation()}")


def run(tool: CodeInterpreter, code: str, **kwargs: object) -> str:
    return tool.call(json.dumps({"code": code}), **kwargs)


def script(folder: Path, code: str) -> Path:
    (path := folder / "main.py").write_text(code)
    return path


@pytest.mark.skipif(SANDBOXED, reason="a sandbox can be made here")
def test_without_a_sandbox_nothing_runs(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="no sandbox can be made: "):
        run_python(script(tmp_path, "open('ran', 'w')"), Quota())
    assert not (tmp_path / "ran").exists()


def test_without_bubblewrap_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    sandbox.isolation.cache_clear()
    try:
        with pytest.raises(ToolError, match="bwrap is not installed\n  hint: install bubblewrap"):
            run(CodeInterpreter({"work_dir": str(tmp_path)}), "open('ran', 'w')")
    finally:
        sandbox.isolation.cache_clear()
    assert not list(tmp_path.rglob("ran"))


@needs_sandbox
def test_output_and_figures_come_back() -> None:
    tool = CodeInterpreter()
    code = "import matplotlib.pyplot as plt\nprint('和', 1 + 1)\nplt.plot([1, 2])\nplt.show()\nplt.figure()"
    text, *pictures = run(tool, f"```python\n{code}\n```").splitlines()
    assert text == "和 2"
    paths = [Path(picture.removeprefix("![IMAGEGEN](").removesuffix(")")) for picture in pictures]
    assert [path.name for path in paths] == ["figure-1.png", "figure-2.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert run(tool, "import os; print(os.path.exists('figure-1.png'))") == "True"
    assert run(CodeInterpreter(), "import os; print(os.listdir())") == "['main.py']"


@needs_sandbox
def test_an_upload_lies_in_the_work_folder(tmp_path: Path) -> None:
    (tmp_path / "表.csv").write_text("a,b\n1,2\n")
    assert run(CodeInterpreter(), "print(open('表.csv').read())", append_files=[str(tmp_path / "表.csv")]) == "a,b\n1,2"


@needs_sandbox
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("open('/usr/x', 'w')", "Read-only|Permission denied"),
        ("open('/etc/passwd')", "FileNotFoundError"),
        ("import socket; socket.create_connection(('1.1.1.1', 53), 3)", "unreachable"),
        ("x = bytearray(2 << 30)", "MemoryError"),
        ("import os; print(os.environ['DASHSCOPE_API_KEY'])", "KeyError"),
        ("1/0", r"line 1, in <module>(.|\n)*ZeroDivisionError"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(3)", "status 3"),
    ],
)
def test_what_code_may_not_do(code: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", "secret")
    with pytest.raises(ToolError, match=message) as caught:
        run(CodeInterpreter(), code)
    assert "run_code.py" not in str(caught.value)


@needs_sandbox
@pytest.mark.parametrize(
    ("code", "quota", "stop"),
    [
        ("while True: pass", Quota(seconds=0.5), Stop.TIME),
        ("while True: print('x' * 10000, flush=True)", Quota(seconds=20, output=1 << 16), Stop.OUTPUT),
        ("import time\nopen('a', 'wb').write(b'0' * (4 << 20)); time.sleep(20)", Quota(disk=1 << 21), None),
    ],
)
def test_limits_of_the_tree(code: str, quota: Quota, stop: Stop | None, tmp_path: Path) -> None:
    outcome = run_python(script(tmp_path, code), quota)
    assert outcome.stop == stop or outcome.status != 0


@needs_sandbox
def test_children_do_not_outlive_the_code(tmp_path: Path) -> None:
    code = "import subprocess\nsubprocess.Popen(['sh', '-c', 'sleep 1; touch late'], start_new_session=True)\n"
    assert run_python(script(tmp_path, code), Quota()).status == 0
    probe = run_python(script(tmp_path, "import os, time\ntime.sleep(1.5)\nprint(os.path.exists('late'))"), Quota())
    assert probe.output == "False\n"


@needs_sandbox
def test_cancel_stops_the_code() -> None:
    cancel = Event()
    Timer(0.2, cancel.set).start()
    with pytest.raises(ToolError, match="cancelled"):
        run(CodeInterpreter(), "while True: pass", cancel=cancel)


@needs_sandbox
def test_a_link_is_no_picture_and_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("kept")
    tool = CodeInterpreter()
    code = f"os.symlink('/etc/passwd', 'a.png'); os.remove('main.py'); os.symlink('{tmp_path}/target', 'main.py')"
    assert run(tool, f"import os\n{code}") == "(no output)"
    assert run(tool, "print(1)") == "1"
    assert (tmp_path / "target").read_text() == "kept"
