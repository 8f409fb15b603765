#!{python}
"""Stands for the Python of vLLM's environment: starts workers as vLLM does, then behaves as FAKE_VLLM says."""

import http.server
import json
import os
import subprocess
import sys
import time

SLEEP = [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"]
fails = os.environ["FAKE_VLLM"] == "fails"
# A worker in a session of its own can only be found while its parent lives.
sessions = (False,) if fails else (False, True)
quiet = {{"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}}
workers = [subprocess.Popen(SLEEP, start_new_session=own, **quiet).pid for own in sessions]
inherited = {{name: os.environ.get(name) for name in ("PYTHONPATH", "VLLM_API_KEY")}}
with open(r"{folder}/draft", "w") as file:
    json.dump({{"pids": [os.getpid(), *workers], "arguments": sys.argv[1:], "environ": inherited}}, file)
os.rename(r"{folder}/draft", r"{folder}/started")


class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


match os.environ["FAKE_VLLM"]:
    case "fails":
        sys.exit(7)
    case "serves":
        port = int(sys.argv[sys.argv.index("--port") + 1])
        http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()
    case _:
        time.sleep(600)
