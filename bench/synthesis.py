"""Visits right before and after learning rows that were synthesised for an agent, on requests written by hand.

    python bench/synthesis.py --catalogue FOLDER --output output/synthesis air airports

FOLDER holds the C3 tool catalogue (`tools_en.jsonl`, `tools_zh.jsonl`: a list of OpenAI function schemas a line);
the requests are in `synthesis_visits.yaml`. Rows are made without a teacher, learned by the embedded model, merged, and
the same visits run over HTTP on both. Prints one line of JSON for each agent.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from toolweave.data.json_files import write_json
from toolweave.data.jsonl import write_jsonl
from toolweave.demo import visit_model
from toolweave.evals.cases import Line, read_visits
from toolweave.evals.score import VisitResult
from toolweave.training.progress import best_checkpoint

VISITS = Path(__file__).with_name("synthesis_visits.yaml")


def command(*words: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "toolweave", *map(str, words)], check=True)


def write_agent(agent: dict[str, Any], catalogue: Path, folder: Path) -> tuple[Path, Path]:
    """Write the agent's configuration and its visits, and return both paths."""
    tools = json.loads((catalogue / agent["file"]).read_text("utf-8").splitlines()[agent["line"] - 1])
    config, visits = folder / "tools.json", folder / "visits.jsonl"
    write_json(config, tools)
    about = {"tools": tools, "instruction": agent["instruction"], "lang": agent["lang"]}
    write_jsonl(visits, ({**about, "turns": [turn(*visit)]} for visit in agent["visits"]))
    return config, visits


def turn(query: str, name: str = "", arguments: dict[str, Any] | None = None, observation: str = "") -> dict[str, Any]:
    step = {"name": name, "arguments": arguments, "observation": observation}
    return {"query": query, "steps": [step] if name else [], "answer": ""}


def counts(results: Sequence[VisitResult]) -> dict[str, dict[str, int]]:
    """Count visits where a tool is needed and where none is: all, right as a whole, and passing each class."""
    parts = {"tool": [r for r in results if r.line is not Line.NO_CALL]}
    parts["no_tool"] = [r for r in results if r.line is Line.NO_CALL]
    return {
        name: {"n": len(part), **{what: sum(getattr(r, what) for r in part) for what in ("ok", "called", "right")}}
        for name, part in parts.items()
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("agents", nargs="+", help="names in synthesis_visits.yaml")
    options.add_argument("--catalogue", type=Path, required=True)
    options.add_argument("--output", type=Path, default=Path("output/synthesis"))
    options.add_argument("--count", type=int, default=500, help="visits to synthesise")
    given = options.parse_args()

    agents = yaml.safe_load(VISITS.read_text("utf-8"))
    for name in given.agents:
        agent, folder = agents[name], given.output / name
        folder.mkdir(parents=True)
        config, path = write_agent(agent, given.catalogue, folder)
        rows, run, visits = folder / "samples.jsonl", folder / "sft", read_visits(path)
        command("data", "synthesize", rows, "--agent", config, "--lang", agent["lang"], "--count", str(given.count))
        before = visit_model("embedded", folder / "before.jsonl", visits)
        started = time.monotonic()
        command(
            "sft", "--dataset", rows, "--model", "embedded", "--output_dir", run, "--add_output_dir_suffix", "false",
            "--max_tokens_per_batch", "3584", "--learning_rate", "3e-3",
        )  # fmt: skip
        seconds = round(time.monotonic() - started)
        command("export", "--ckpt_dir", best_checkpoint(run), "--merge_lora", "true", "--output_dir", folder / "merged")
        after = visit_model(str(folder / "merged"), folder / "after.jsonl", visits)
        told = {"agent": name, "rows": len(rows.read_text("utf-8").splitlines()), "training_seconds": seconds}
        print(json.dumps({**told, "before": counts(before), "after": counts(after)}), flush=True)


if __name__ == "__main__":
    main()
