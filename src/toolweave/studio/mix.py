"""What a recipe would train on, before it is started: the data sets' check report, and the mix made of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toolweave.data.check import CheckReport, check
from toolweave.data.jsonl import write_jsonl
from toolweave.data.synthesize import training_groups
from toolweave.training.recipe import Recipe
from toolweave.training.sources import gather

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
