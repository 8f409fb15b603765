"""Do our BFCL verdicts equal the official package's? On right, nearly right and wrong outputs made from its own data.

Needs `pip install bfcl-eval==2026.3.23`, or with --path a folder that its wheel was unpacked into.
Its table of models imports every vendor's SDK; it is replaced, as only one flag of it is looked at.

Run: python bench/bfcl_agreement.py [--path FOLDER] [--each 8]
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.util
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from toolweave.evals.bfcl import Question, judge, read_questions

Calls = list[dict[str, Any]]


def official(path: str | None) -> tuple[Any, Any, Path]:
    """Return the official checker, its Language and its data folder."""
    if path:
        sys.path.insert(0, path)
    spec = importlib.util.find_spec("bfcl_eval")
    if spec is None or spec.origin is None:
        raise SystemExit("bfcl-eval is not installed: pip install bfcl-eval==2026.3.23")
    models = ModuleType("bfcl_eval.constants.model_config")
    setattr(models, "MODEL_CONFIG_MAPPING", {"ours": SimpleNamespace(underscore_to_dot=False)})  # noqa: B010  # new
    sys.modules[models.__name__] = models
    for language in ("java", "js"):
        name = f"bfcl_eval.eval_checker.ast_eval.type_convertor.{language}_type_converter"
        sys.modules[name] = ModuleType(name)
        setattr(sys.modules[name], f"{language}_type_converter", None)
    checker = importlib.import_module("bfcl_eval.eval_checker.ast_eval.ast_checker").ast_checker
    python = importlib.import_module("bfcl_eval.constants.enums").Language.PYTHON
    return checker, python, Path(spec.origin).parent / "data"


def right_calls(question: Question, rng: random.Random) -> Calls:
    """Return calls that the possible answers allow."""
    calls: Calls = []
    for answer in question.answers:
        ((name, options),) = answer.items()
        arguments = {key: _fill(rng.choice(values), rng) for key, values in options.items() if values}
        calls.append({name: {k: v for k, v in arguments.items() if not (v == "" and "" in options[k])}})
    return calls


def _fill(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict):
        return {key: rng.choice(options) for key, options in value.items() if options and "" not in options}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [_fill(item, rng) for item in value]
    return copy.deepcopy(value)


def spoiled(calls: Calls, question: Question, rng: random.Random) -> Calls:
    """Return the calls with one thing changed, which mostly makes them wrong."""
    calls = copy.deepcopy(calls)
    draw = rng.random()
    call = rng.choice(calls)
    ((name, arguments),) = call.items()
    if draw < 0.08:
        calls.remove(call)
    elif draw < 0.16:
        calls.append(copy.deepcopy(call))
    elif draw < 0.22:
        rng.shuffle(calls)
    elif draw < 0.3:
        call[rng.choice([*(f["name"] for f in question.functions), "other"])] = call.pop(name)
    elif draw < 0.35:
        arguments["surplus"] = 1
    elif arguments:
        key = rng.choice(list(arguments))
        arguments[key] = rng.choice(_variants(arguments[key]))
        if rng.random() < 0.15:
            del arguments[key]
    return calls


def _variants(value: Any) -> Sequence[Any]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    changed = [value + 1, float(value), str(value)] if number else [value]
    if isinstance(value, str):
        changed = [value.upper() + ".", value[:-1], f" {value}-"]
    if isinstance(value, list):
        changed = [value[:-1], value[::-1], [*value, *value[:1]]]
    return [*changed, [value], [], {}, None, True, "x", 1, [1, "a"], {"a": 1}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", help="folder that holds bfcl_eval/")
    parser.add_argument("--each", type=int, default=8, help="outputs for each question, the first of them right")
    options = parser.parse_args()
    checker, python, data = official(options.path)
    rng = random.Random(0)
    total = equal = valid = crashed = 0
    for question in (question for question in read_questions(data) if question.answers):
        for number in range(options.each):
            calls = right_calls(question, rng)
            calls = spoiled(calls, question, rng) if number else calls
            ours = judge(question, copy.deepcopy(calls)).problem is None
            functions, answers = list(question.functions), list(question.answers)
            try:
                theirs = checker(functions, copy.deepcopy(calls), answers, python, question.category, "ours")["valid"]
            except (TypeError, AttributeError, KeyError):
                theirs, crashed = False, crashed + 1
            total, equal, valid = total + 1, equal + (ours == theirs), valid + theirs
            if ours != theirs:
                print(f"{question.id}: ours {ours}, theirs {theirs}: {calls}")
    print(f"{equal} of {total} verdicts equal; {valid} right by theirs, which crashed on {crashed}")
    sys.exit(equal != total)


if __name__ == "__main__":
    main()
