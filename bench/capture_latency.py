"""Time 50 concurrent streams with and without the recording proxy, in one run.

A scripted server streams tokens at a model's pace in a process of its own; the proxy runs in another. Streams go
straight to the server and through the proxy in turns, so both see the same machine. Each token carries the time at
which it was sent: what the proxy adds to a token is the difference of the two medians. Prints the medians of the
token delay, of the first token and of the whole reply, and checks that every answer was recorded.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from toolweave.traces.store import TraceStore

QUERIES = 3
PROMPT = "你拥有如下工具：amap_weather 获取对应城市的天气数据。" * 60


class Timing(NamedTuple):
    """Milliseconds: of each token, from sent to read; of the first token; of the whole reply."""

    tokens: list[float]
    first: float
    whole: float


def scripted_server(port: int, tokens: int, pace: float) -> None:
    """Stream `tokens` deltas, the first at once and then one every `pace` seconds, each with its sending time."""

    async def chat(_: Request) -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            for number in range(tokens):
                # The first token at once: a random wait would drown the few milliseconds that are measured.
                await asyncio.sleep(pace * random.uniform(0.5, 1.5) if number else 0)
                delta = {"content": f"{time.perf_counter()} "}
                yield f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta, 'finish_reason': None}]})}\n\n"
            yield f"data: {json.dumps({'choices': [{'index': 0, 'delta': {}, 'finish_reason': 'stop'}]})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])
    uvicorn.run(app, port=port, log_level="error", access_log=False)


async def stream(client: httpx.AsyncClient, base: str, number: int) -> Timing:
    messages = [{"role": "system", "content": PROMPT}, {"role": "user", "content": f"问题 {number}"}]
    body = {"model": "m", "stream": True, "messages": messages}
    delays: list[float] = []
    first = 0.0
    begun = time.perf_counter()
    async with client.stream("POST", f"{base}/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            now = time.perf_counter()
            if line.startswith("data: {") and "content" in line:
                first = first or now - begun
                sent = json.loads(line[6:])["choices"][0]["delta"]["content"]
                delays.append(1000 * (now - float(sent)))
    return Timing(delays, 1000 * first, 1000 * (time.perf_counter() - begun))


async def measure(direct: str, proxied: str, streams: int, rounds: int) -> dict[str, list[Timing]]:
    """Keep `streams` streams going on one side, then on the other, `rounds` times; each user asks one after another."""
    timings: dict[str, list[Timing]] = {direct: [], proxied: []}

    async def user(client: httpx.AsyncClient, base: str, number: int) -> None:
        await asyncio.sleep(number / streams * 3)  # users do not ask all at the same moment
        for _ in range(QUERIES):
            timings[base].append(await stream(client, base, number))

    async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=streams)) as client:
        for number in range(rounds):
            for base in (direct, proxied) if number % 2 else (proxied, direct):
                await asyncio.gather(*(user(client, base, index) for index in range(streams)))
    return timings


def wait_for(port: int) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"nothing listens on port {port}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=60, help="tokens of a reply")
    parser.add_argument("--pace", type=float, default=0.05, help="seconds between two tokens of a stream")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        scripted_server(options.serve, options.tokens, options.pace)
        return
    upstream, proxy = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traces.db"
        shape = ["--tokens", str(options.tokens), "--pace", str(options.pace)]
        server = [sys.executable, __file__, "--serve", str(upstream), *shape]
        recording = ["capture", "--upstream", f"http://127.0.0.1:{upstream}/v1", "--port", str(proxy)]
        processes = [
            subprocess.Popen(server),
            subprocess.Popen([sys.executable, "-m", "toolweave", *recording, "--store", str(path)]),
        ]
        try:
            for port in (upstream, proxy):
                wait_for(port)
            direct, proxied = f"http://127.0.0.1:{upstream}", f"http://127.0.0.1:{proxy}"
            timings = asyncio.run(measure(direct, proxied, options.streams, options.rounds))
            cpu = [sum(psutil.Process(process.pid).cpu_times()[:2]) for process in processes]
        finally:
            for process in processes:
                process.terminate()
                process.wait()
        report(timings[direct], timings[proxied], options.streams)
        with TraceStore(path) as store:
            print(f"CPU seconds  server {cpu[0]:.1f}, proxy {cpu[1]:.1f}")
            print(f"recorded     {store.counts().traces} of {options.rounds * options.streams * QUERIES} answers")


def report(direct: list[Timing], proxied: list[Timing], streams: int) -> None:
    print(f"{len(direct)} streams each way, {streams} at a time; medians in ms")
    print(f"{'':12} {'direct':>9} {'proxied':>9} {'added':>9}")
    rows = {
        "token": [[delay for timing in timings for delay in timing.tokens] for timings in (direct, proxied)],
        "first token": [[timing.first for timing in timings] for timings in (direct, proxied)],
        "whole reply": [[timing.whole for timing in timings] for timings in (direct, proxied)],
    }
    for name, (without, with_) in rows.items():
        before, after = statistics.median(without), statistics.median(with_)
        print(f"{name:12} {before:9.2f} {after:9.2f} {after - before:9.2f}")


if __name__ == "__main__":
    main()
