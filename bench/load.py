"""Many clients on one server, half of which leave in the middle: no crossed reply, and memory stays flat.

    python bench/load.py --ckpt_dir MERGED --clients 500 --minutes 10

Every client asks for a reply that was taken before alone; greedy replies must be the same under load. Told that the
queue is full, a client comes again after the time the server named. `late` did not come within ten minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import time

import httpx
import psutil

PROMPTS = [f"用一句话介绍数字{n}。" for n in range(16)]


def body(prompt: str) -> dict[str, object]:
    messages = [{"role": "user", "content": prompt}]
    return {"messages": messages, "stream": True, "temperature": 0, "max_tokens": 16}


class LateError(Exception):
    """The server gave a request up at its deadline."""


async def ask(client: httpx.AsyncClient, prompt: str, leave_after: int | None) -> str | int | None:
    """Return the reply, the seconds to wait when the queue is full, or None when the client left.

    Raises LateError, or httpx.ReadTimeout when nothing came at all.
    """
    text = ""
    async with client.stream("POST", "/v1/chat/completions", json=body(prompt)) as reply:
        if reply.status_code == 429:
            return int(reply.headers["retry-after"])
        reply.raise_for_status()
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    raise LateError(chunk["error"]["message"])
                text += chunk["choices"][0]["delta"].get("content", "")
                if leave_after is not None and (leave_after := leave_after - 1) < 0:
                    return None
    return text


async def crowd(url: str, clients: int, seconds: float, server: psutil.Process) -> None:
    counts = {"right": 0, "wrong": 0, "left": 0, "busy": 0, "late": 0}
    memory: list[float] = []
    limits = httpx.Limits(max_connections=clients + 1)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        expected = {prompt: await ask(client, prompt, None) for prompt in PROMPTS}
        end = time.monotonic() + seconds

        async def visitor(number: int) -> None:
            dice = random.Random(number)
            while time.monotonic() < end:
                prompt = dice.choice(PROMPTS)
                try:
                    got = await ask(client, prompt, dice.choice([None, dice.randrange(12)]))
                except (httpx.ReadTimeout, LateError):
                    counts["late"] += 1
                    continue
                if isinstance(got, int):
                    counts["busy"] += 1
                    await asyncio.sleep(got * (1 + dice.random()))
                else:
                    counts["left" if got is None else "right" if got == expected[prompt] else "wrong"] += 1

        async def watch() -> None:
            while time.monotonic() < end:
                memory.append(server.memory_info().rss / 2**20)
                await asyncio.sleep(1)

        await asyncio.gather(watch(), *(visitor(number) for number in range(clients)))
    half = len(memory) // 2
    growth = max(memory[half:]) / max(memory[: half or 1])
    print(json.dumps({**counts, "peak_mb": round(max(memory)), "second_half_to_first": round(growth, 3)}))
    assert counts["wrong"] == 0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--ckpt_dir", required=True)
    options.add_argument("--clients", type=int, default=500)
    options.add_argument("--minutes", type=float, default=10)
    given = options.parse_args()
    line = [sys.executable, "-m", "toolweave", "deploy", "--ckpt_dir", given.ckpt_dir, "--port", "0"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        match = re.search(r"http://[\d.:]+", server.stdout.readline())
        assert match
        try:
            asyncio.run(crowd(match[0], given.clients, given.minutes * 60, psutil.Process(server.pid)))
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
