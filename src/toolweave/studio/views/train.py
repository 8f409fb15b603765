"""The view of training: what to learn from and how, the runs, and how each of them is doing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from toolweave.errors import ToolweaveError
from toolweave.models.locate import EMBEDDED, EMBEDDED_TOOLS
from toolweave.studio import adopt
from toolweave.studio.mix import PRACTICE_VISITS, RecipeName, look, named_recipe, write_practice_visits
from toolweave.studio.parts import enclosing_tab, note, shown
from toolweave.studio.run_html import lineage_html, mix_html, progress_html, run_label, samples_html
from toolweave.studio.runs import Run, Runs, RunStatus, sample_visits
from toolweave.training.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd

    from toolweave.studio.shell import Studio
    from toolweave.studio.workspace import Home

_BASES = [EMBEDDED_TOOLS, EMBEDDED]
_TICK = 2.0  # seconds
_SAMPLES = 4
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def build(studio: Studio) -> None:
    """Make the view in the open tab."""
    view, text = _View(studio), studio.text
    with gr.Row(elem_id="train"):
        with gr.Column(scale=4, min_width=320):
            data = gr.CheckboxGroup(label=text("train.data"), choices=[], elem_id="train-data")
            nothing = gr.HTML(padding=False)
            with gr.Accordion(text("train.practice"), open=False):
                gr.Markdown(text("train.practice_hint"))
                with gr.Row(equal_height=True):
                    visits = gr.Number(PRACTICE_VISITS, label=text("train.practice_count"), minimum=8, maximum=20_000)
                    practice = gr.Button(text("train.practice"), size="sm", elem_id="train-practice")
            base = gr.Dropdown(
                _BASES, value=_BASES[0], label=text("train.base"), allow_custom_value=True, elem_id="train-base"
            )
            recipe = gr.Radio(
                [(text(f"train.recipe_{name}"), name.value) for name in RecipeName], value=RecipeName.STANDARD.value,
                label=text("train.recipe"), info=text("train.recipe_hint"), elem_id="train-recipe",
            )  # fmt: skip
            with gr.Accordion(text("train.advanced"), open=False, elem_id="train-advanced"):
                ratio = gr.Slider(0, 2, value=0, step=0.05, label=text("train.mix_ratio"))
                persona = gr.Number(0, label=text("train.persona"), minimum=0, precision=0)
                called = gr.Textbox("toolweave", label=text("train.model_name"), max_lines=1)
                sources = gr.Textbox(label=text("train.more_data"), lines=2)
                extra = gr.Textbox(
                    label=text("train.extra"), lines=4, placeholder="learning_rate: 0.001\nlora_rank: 16",
                    elem_id="train-extra",
                )  # fmt: skip
            with gr.Row():
                check = gr.Button(text("train.look"), elem_id="train-look")
                start = gr.Button(text("train.start"), variant="primary", elem_id="train-start")
            mix = gr.HTML(elem_id="train-mix", padding=False)
        with gr.Column(scale=6, min_width=320):
            listing = gr.Radio(label=text("train.runs"), choices=[], elem_id="train-runs")
            no_runs = gr.HTML(padding=False)
            with gr.Column(visible=False) as detail:
                progress = gr.HTML(elem_id="train-progress", padding=False)
                with gr.Row(elem_id="train-actions"):
                    stop = gr.Button(text("train.stop"), variant="stop", elem_id="train-stop", min_width=120)
                    resume = gr.Button(text("train.resume"), elem_id="train-resume", min_width=120)
                    sample = gr.Button(text("train.sample"), elem_id="train-sample", min_width=120)
                    use = gr.Button(text("train.use"), variant="primary", elem_id="train-use", min_width=120)
                    delete = gr.Button(text("train.delete"), elem_id="train-delete", min_width=80)
                said = gr.HTML(elem_id="train-said", padding=False)
                plot = gr.LinePlot(
                    x="step", y="loss", color="kind", height=240, x_title=text("train.step"),
                    y_title=text("train.loss"),
                    color_map={text("train.loss"): "#0d9488", text("train.eval_loss"): "#e45756"},
                    color_title=" ", elem_id="train-plot", show_label=False,
                )  # fmt: skip
                with gr.Accordion(text("train.lineage"), open=True, elem_id="train-lineage"):
                    lineage = gr.HTML(padding=False)
                with gr.Accordion(text("train.settings"), open=False):
                    settings = gr.Code(language="json", interactive=False, max_lines=24, show_label=False)
                with gr.Accordion(text("train.printed"), open=False):
                    printed = gr.Code(interactive=False, max_lines=24, show_label=False)
    timer = gr.Timer(_TICK, active=False)
    seen = gr.State("")

    wanted = [data, base, recipe, ratio, persona, called, sources, extra]
    runs = [listing, no_runs, detail]
    buttons = [stop, resume, sample, use, delete]
    live = [progress, *buttons, plot, timer, seen]
    still = [lineage, settings, printed, said]
    enclosing_tab().select(view.opened, [listing, data], [data, nothing, base, *runs], **_QUIET).then(
        view.shown, listing, [*live, *still], **_QUIET
    )
    practice.click(view.practised, [visits, data], [data, nothing], api_visibility="private")
    check.click(view.looked, wanted, mix, api_visibility="private")
    start.click(view.started, wanted, runs, api_visibility="private").then(
        view.shown, listing, [*live, *still], **_QUIET
    )
    listing.input(view.shown, listing, [*live, *still], **_QUIET)
    timer.tick(view.ticked, [listing, seen], [*live, printed, listing], **_QUIET)
    stop.click(view.stopped, listing, said, **_QUIET)
    resume.click(view.resumed, listing, said, **_QUIET).then(view.shown, listing, [*live, *still], **_QUIET)
    sample.click(view.sampled, listing, said, api_visibility="private", show_progress="minimal")
    used = use.click(view.used, [listing, studio.agent], said, api_visibility="private", show_progress="minimal")
    used.success(lambda number: number + 1, studio.revision, studio.revision, **_QUIET)
    sure = f"(run) => {{ if (!confirm({text('train.delete_sure')!r})) throw new Error('kept'); return run; }}"
    delete.click(view.deleted, listing, runs, js=sure, **_QUIET).then(view.shown, listing, [*live, *still], **_QUIET)


class _View:
    """The functions of the view's events."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.text = studio.text

    def opened(self, current: str | None, chosen: list[str], request: gr.Request) -> list[Any]:
        """Return data sets, base models and runs as they are now."""
        home = self.studio.home(request)
        models = [str(entry.get("model")) for entry in home.models().values() if entry.get("type") == "toolweave"]
        bases = list(dict.fromkeys([*_BASES, *models]))
        return [*self._data(home, chosen), gr.Dropdown(choices=bases), *self._runs(home, current)]

    def practised(self, visits: float, chosen: list[str], request: gr.Request) -> list[Any]:
        """Write the practice visits and choose them."""
        home = self.studio.home(request)
        path = write_practice_visits(home.datasets, int(visits))
        return self._data(home, [*chosen, path.name])

    def looked(self, request: gr.Request, *wanted: Any) -> str:
        """Return the mix and the check report of the recipe."""
        try:
            return mix_html(look(self._recipe(self.studio.home(request), *wanted)), self.text)
        except ToolweaveError as error:
            return note(str(error), "fail")

    def started(self, request: gr.Request, *wanted: Any) -> list[Any]:
        """Start a run and choose it."""
        home = self.studio.home(request)
        try:
            run = Runs(home.runs).start(self._recipe(home, *wanted))
        except ToolweaveError as error:
            raise shown(error) from error
        return self._runs(home, run.name)

    def shown(self, current: str | None, request: gr.Request) -> list[Any]:
        """Return all of the chosen run."""
        home = self.studio.home(request)
        run = _run(home, current)
        if run is None:
            return [gr.skip()] * 13
        recipe = (run.folder / "sft_args.json").read_text("utf-8")
        return [
            *self._live(run),
            lineage_html(run, self.text),
            recipe,
            Runs(home.runs).printed(run.name),
            "",
        ]

    def ticked(self, current: str | None, seen: str, request: gr.Request) -> list[Any]:
        """Return what has changed of the chosen run."""
        home = self.studio.home(request)
        run = _run(home, current)
        if run is None or _stamp(run) == seen:
            return [gr.skip()] * 11
        return [*self._live(run), Runs(home.runs).printed(run.name), self._runs(home, current)[0]]

    def stopped(self, current: str, request: gr.Request) -> str:
        """Ask the run to save and end."""
        Runs(self.studio.home(request).runs).stop(current)
        return note(self.text("train.stopping"))

    def resumed(self, current: str, request: gr.Request) -> str:
        """Go on with the run."""
        try:
            Runs(self.studio.home(request).runs).resume(current)
        except ToolweaveError as error:
            raise shown(error) from error
        return ""

    def sampled(self, current: str, request: gr.Request) -> Iterator[str]:
        """Yield sample visits of the newest checkpoint, one after another."""
        run = Runs(self.studio.home(request).runs).get(current)
        if not run.checkpoint_steps:
            yield note(self.text("train.no_checkpoint"))
            return
        yield note(self.text("train.sampling"))
        results = []
        try:
            for result in sample_visits(run.folder / f"checkpoint-{run.checkpoint_steps[-1]}", _SAMPLES):
                results.append(result)
                yield samples_html(results, self.text)
        except ToolweaveError as error:
            yield note(str(error), "fail")

    def used(self, current: str, agent: str, request: gr.Request) -> Iterator[str]:
        """Merge the run's best checkpoint and let the current agent use it."""
        home = self.studio.home(request)
        yield note(self.text("train.using"))
        try:
            key = adopt.listed(home, current)
            adopt.use(home, agent, key)
        except ToolweaveError as error:
            raise shown(error) from error
        yield note(self.text("train.used", agent=home.agent(agent).name, model=key), "pass")

    def deleted(self, current: str, request: gr.Request) -> list[Any]:
        """Delete the run."""
        home = self.studio.home(request)
        try:
            Runs(home.runs).delete(current)
        except ToolweaveError as error:
            raise shown(error) from error
        return self._runs(home, None)

    def _data(self, home: Home, chosen: list[str]) -> list[Any]:
        files = sorted(home.datasets.glob("*.jsonl"))
        names = [path.name for path in files]
        kept = [name for name in dict.fromkeys(chosen or names[:1]) if name in names]
        told = "" if files else note(self.text("train.no_data"))
        return [gr.CheckboxGroup(choices=names, value=kept, visible=bool(files)), told]

    def _runs(self, home: Home, current: str | None) -> list[Any]:
        runs = Runs(home.runs).all()
        names = [run.name for run in runs]
        chosen = current if current in names else (names[0] if names else None)
        choices = [(run_label(run, self.text), run.name) for run in runs]
        return [
            gr.Radio(choices=choices, value=chosen, visible=bool(runs)),
            "" if runs else note(self.text("train.no_runs")),
            gr.Column(visible=bool(runs)),
        ]

    def _live(self, run: Run) -> list[Any]:
        running = run.status is RunStatus.RUNNING
        saved = bool(run.checkpoint_steps)
        return [
            progress_html(run, self.text),
            gr.Button(visible=running),
            gr.Button(visible=run.status in (RunStatus.STOPPED, RunStatus.FAILED)),
            gr.Button(visible=saved),
            gr.Button(visible=saved and not running),
            gr.Button(visible=not running),
            # Hidden and not taken out of the page: a plot that is still drawing would look for where it was.
            gr.LinePlot(value=self._points(run), visible=True if run.log else "hidden"),
            gr.Timer(active=running),
            _stamp(run),
        ]

    def _points(self, run: Run) -> pd.DataFrame:
        import pandas as pd

        points = [
            {"step": entry["step"], "loss": entry[name], "kind": self.text(f"train.{name}")}
            for name in ("loss", "eval_loss")
            for entry in run.log
            if name in entry
        ]
        return pd.DataFrame(points, columns=["step", "loss", "kind"])

    def _recipe(
        self, home: Home, data: list[str], base: str, name: str, ratio: float, persona: float, called: str,
        sources: str, extra: str,
    ) -> Recipe:  # fmt: skip
        files = [str(home.datasets / Path(chosen).name) for chosen in data or ()]
        choices: dict[str, object] = {
            "dataset": (*files, *(line.strip() for line in sources.splitlines() if line.strip())),
            "model": base, "train_dataset_mix_ratio": ratio, "self_cognition_sample": int(persona or 0),
            "model_name": called or "toolweave",
        }  # fmt: skip
        return named_recipe(RecipeName(name), choices, extra)


def _run(home: Home, name: str | None) -> Run | None:
    if not name:
        return None
    try:
        return Runs(home.runs).get(name)
    except ToolweaveError:
        return None


def _stamp(run: Run) -> str:
    """Return what changes whenever there is something new to show of a run."""
    return f"{run.name} {run.status} {run.step} {run.checkpoint_steps}"
