"""What a recipe would train on, before it is started: the data sets' check report, and the mix made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import yaml

from toolweave.data.check import CheckReport, check
from toolweave.data.jsonl import write_jsonl
from toolweave.data.synthesize import training_groups
from toolweave.errors import ToolweaveError
from toolweave.training.recipe import Recipe

PRACTICE_VISITS = 768


@dataclass(frozen=True, slots=True)
class Mix:
    """What a recipe makes of its data sets: samples by where they come from, and the report on each data set.

    `own` are samples of the data sets, `general` those of everyday chat, `about_itself` those about the model;
    `validation` are held back for the evaluation loss.
    """

    own: int
    general: int
    about_itself: int
    validation: int
    report: CheckReport

    @property
    def training(self) -> int:
        """All that is learned from."""
        return self.own + self.general + self.about_itself


def look(recipe: Recipe) -> Mix:
    """Read, check and mix what a recipe names, as the run will. Raises DataError when that cannot be done."""
    # Here, as it loads torch, which takes seconds, and the Studio is to be there at once.
    from toolweave.training.sources import gather

    data = recipe.data
    sources = gather(data, recipe.optim.seed)
    report = check(
        [*data.dataset, *data.val_dataset],
        dialect=data.dialect, model=recipe.base.model, max_length=data.max_length,
    )  # fmt: skip
    # gather puts what it adds after the data sets' own samples, the persona last.
    about = min(data.self_cognition_sample, len(sources.train))
    without = data.model_copy(update={"train_dataset_mix_ratio": 0.0, "self_cognition_sample": 0})
    own = len(gather(without, recipe.optim.seed).train)
    return Mix(own, len(sources.train) - own - about, about, len(sources.validation), report)


def write_practice_visits(folder: Path, visits: int = PRACTICE_VISITS) -> Path:
    """Write synthesised visits of many agents as a data set, and return its file.

    A few corrections alone would teach a small model these few answers; beside such visits they mend its manner.
    """
    target = folder / f"practice-visits-{visits}.jsonl"
    if not target.is_file():
        write_jsonl(target, (sample.to_json() for group in training_groups(visits) for sample in group))
    return target


class RecipeName(StrEnum):
    """The recipes to choose from; every choice of each can be changed."""

    QUICK = "quick"
    STANDARD = "standard"
    THOROUGH = "thorough"


_RECIPES: Mapping[RecipeName, Mapping[str, object]] = {
    RecipeName.QUICK: {"max_steps": 40, "eval_steps": 20, "save_total_limit": 2},
    RecipeName.STANDARD: {"save_total_limit": 2},
    RecipeName.THOROUGH: {"num_train_epochs": 3, "metric_for_best_model": "visits", "save_total_limit": 2},
}


def named_recipe(name: RecipeName, choices: Mapping[str, object], extra: str = "") -> Recipe:
    """Return a recipe with `choices` on top, and above these `extra`, YAML of one `flag: value` a line.

    Raises ToolweaveError for an unknown flag or a value it does not take.
    """
    try:
        read = yaml.safe_load(extra) or {}
    except yaml.YAMLError as error:
        raise ToolweaveError(f"the choices are no YAML: {error}", "write one `flag: value` a line") from error
    if not isinstance(read, Mapping):
        raise ToolweaveError("the choices are no YAML mapping", "write one `flag: value` a line")
    return Recipe.of(**{**_RECIPES[name], **choices, **{str(flag): value for flag, value in read.items()}})
