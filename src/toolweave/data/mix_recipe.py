"""A mix from a YAML file: sources with shares, self-cognition, a test part, and a manifest.

The same recipe and the same files give the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolweave.data.jsonl import sample_row, write_jsonl, writing_error
from toolweave.data.load import LoadedData, load_samples
from toolweave.data.mix import draw, mix_in
from toolweave.data.self_cognition import Persona, self_cognition_samples
from toolweave.data.split import GroupBy, group_of, split
from toolweave.data.strategy import Strategy
from toolweave.errors import DataError
from toolweave.types import Json, Sample

_HINT = "see toolweave data mix --help; a recipe names sources, and perhaps general, self_cognition and test_ratio"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MixSource(_Strict):
    """One data set: how much of it to take, as a share of its samples or as a count; all of it by default."""

    path: str
    format: str | None = None
    ratio: float | None = Field(default=None, ge=0, le=1)
    count: int | None = Field(default=None, ge=0)


class SelfCognition(_Strict):
    """How many samples about the model itself, and who it is: one text each, or a pair of zh and en."""

    count: int = Field(ge=0)
    name: str | tuple[str, str]
    author: str | tuple[str, str]
    templates: Path | None = None


class MixRecipe(_Strict):
    """What to mix. `general` sources fill up to `mix_ratio` times the samples of `sources`."""

    sources: tuple[MixSource, ...] = Field(min_length=1)
    general: tuple[MixSource, ...] = ()
    mix_ratio: float = Field(default=0.0, ge=0)
    self_cognition: SelfCognition | None = None
    test_ratio: float = Field(default=0.01, ge=0, lt=1)
    group_by: GroupBy = GroupBy.VISIT
    dialect: str = "v06"
    strategy: Strategy = Strategy.WARNING
    seed: int = 42

    @classmethod
    def read(cls, path: Path) -> MixRecipe:
        """Read a YAML recipe; its paths are taken from its own folder. Raises DataError that says what is wrong."""
        try:
            recipe = cls.model_validate(yaml.safe_load(path.read_text("utf-8")))
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}", "check the path") from error
        except (yaml.YAMLError, UnicodeError) as error:
            raise DataError(f"{path} is not YAML: {error}", _HINT) from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "recipe"
            raise DataError(f"{path}: {where}: {first['msg']}", _HINT) from error
        return recipe.model_copy(
            update={
                "sources": tuple(_from(path.parent, source) for source in recipe.sources),
                "general": tuple(_from(path.parent, source) for source in recipe.general),
            }
        )


@dataclass(frozen=True, slots=True)
class Mix:
    """A finished mix, and where its samples come from."""

    train: list[Sample]
    test: list[Sample]
    sources: list[Json]
    self_cognition: int


def make_mix(recipe: MixRecipe) -> Mix:
    """Load, draw, split, mix and add self-cognition, in this order: the test part holds no general chat.

    Raises DataError as `load_samples` and `mix_in` do.
    """
    notes: list[Json] = []
    train: list[Sample] = []
    test: list[Sample] = []
    for source in recipe.sources:
        parts = split(_take(recipe, source, notes), recipe.test_ratio, by=recipe.group_by, seed=recipe.seed)
        train += parts.train
        test += parts.test
    if recipe.group_by is not GroupBy.VISIT:
        # Two sources may show the same agent: all of it goes to one side.
        train, test = _rejoin(train, test, recipe)
    general = [sample for source in recipe.general for sample in _take(recipe, source, notes)]
    train = mix_in(train, general, recipe.mix_ratio, recipe.seed) if recipe.general else train
    count = 0
    if (wanted := recipe.self_cognition) is not None:
        persona = Persona(wanted.name, wanted.author)
        train += self_cognition_samples(wanted.count, persona, recipe.seed, wanted.templates)
        count = wanted.count
    return Mix(train, test, notes, count)


def write_mix(recipe: MixRecipe, folder: Path) -> Json:
    """Write train.jsonl, test.jsonl and manifest.json into a folder, and return the manifest.

    The files appear together once all are complete. Raises DataError.
    """
    mix = make_mix(recipe)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".mix-", dir=folder) as draft:
            files = {}
            for name, samples in (("train.jsonl", mix.train), ("test.jsonl", mix.test)):
                path = Path(draft) / name
                write_jsonl(path, (sample_row(sample) for sample in samples))
                files[name] = {"samples": len(samples), "sha256": _hash(path)}
            recipe_json = recipe.model_dump(mode="json", exclude={"sources", "general"})
            manifest = {
                "files": files,
                "sources": mix.sources,
                "self_cognition": mix.self_cognition,
                "recipe": recipe_json,
            }
            write_jsonl(Path(draft) / "manifest.json", [manifest])
            for name in (*files, "manifest.json"):
                os.replace(Path(draft) / name, folder / name)
    except OSError as error:
        raise writing_error(folder, error) from error
    return manifest


def _take(recipe: MixRecipe, source: MixSource, notes: list[Json]) -> Sequence[Sample]:
    loaded: LoadedData = load_samples(
        source.path, format=source.format, dialect=recipe.dialect, strategy=recipe.strategy
    )
    samples, report = loaded.samples, loaded.report
    share = len(samples) if source.ratio is None else round(source.ratio * len(samples))
    taken = draw(samples, share if source.count is None else source.count, recipe.seed)
    note: dict[str, Any] = {
        "path": Path(source.path).name if Path(source.path).exists() else source.path,
        "format": report.format,
        "rows": report.rows,
        "dropped": len(report.dropped),
        "reasons": {str(failure): count for failure, count in report.reasons.items()},
        "samples": len(samples),
        "used": len(taken),
    }
    if Path(source.path).is_file():
        note["sha256"] = _hash(Path(source.path))
    notes.append(note)
    return taken


def _rejoin(train: list[Sample], test: list[Sample], recipe: MixRecipe) -> tuple[list[Sample], list[Sample]]:
    held = {group_of(sample, recipe.group_by) for sample in test}
    moved = [sample for sample in train if group_of(sample, recipe.group_by) in held]
    return [sample for sample in train if group_of(sample, recipe.group_by) not in held], test + moved


def _from(folder: Path, source: MixSource) -> MixSource:
    """Return the source with its path taken from the recipe's folder, if there is such a file."""
    beside = folder / source.path
    return source.model_copy(update={"path": str(beside)}) if beside.exists() else source


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
