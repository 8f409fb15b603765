"""Tools without a key: they answer as the catalogue's tools do, or by their schema, and say that they are simulated."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Mapping
from typing import Any

from toolweave.data.catalogue import CatalogueTool, Split, fill, load_catalogue
from toolweave.tools.amap_weather import AmapWeather
from toolweave.tools.base import BaseTool
from toolweave.tools.dashscope import DashScopeTool
from toolweave.tools.image_gen import ImageGen
from toolweave.tools.simulate import LABEL, Simulated, SpecTool, canonical_json, simulate
from toolweave.tools.web_search import WebSearch
from toolweave.types import Lang

PICTURES = "/pictures"
"""Where the Studio shows simulated pictures; behind it comes `/{seed}.svg`."""

# A tool, the environment variables of which one holds its key or place, and where its `cfg` may hold the key.
_KEYS: tuple[tuple[type[BaseTool], tuple[str, ...], str], ...] = (
    (AmapWeather, ("AMAP_TOKEN",), "token"),
    (DashScopeTool, ("DASHSCOPE_API_KEY",), "api_key"),
    (WebSearch, ("BING_SEARCH_V7_SUBSCRIPTION_KEY", "SEARXNG_URL"), "api_key"),
)


def key_name(tool: type[BaseTool]) -> str:
    """Return the environment variable that holds the key of a tool, empty if it needs none."""
    return next((variables[0] for kind, variables, _ in _KEYS if issubclass(tool, kind)), "")


def key_option(tool: type[BaseTool]) -> str:
    """Return the name under which `cfg` takes the key of a tool, empty if it needs none."""
    return next((option for kind, _, option in _KEYS if issubclass(tool, kind)), "")


def lacks_key(tool: BaseTool) -> bool:
    """Tell whether a tool could do nothing but fail, for want of a key."""
    for kind, variables, option in _KEYS:
        if isinstance(tool, kind):
            return not tool.cfg.get(option) and not any(os.environ.get(name) for name in variables)
    return False


def pretend(tool: BaseTool, lang: Lang) -> BaseTool:
    """Return a simulator in place of a tool: pictures are drawn here, the catalogue's tools answer as there."""
    if isinstance(tool, ImageGen):
        return PretendPicture(tool.spec())
    known = next((each for agent in load_catalogue().agents for each in agent.tools if each.name == tool.name), None)
    return simulate(tool) if known is None else FromCatalogue(tool, known, lang)


class PretendPicture(SpecTool):
    """Draws nothing: gives the address of a picture that says so. The same words give the same picture."""

    def call(self, params: str, **kwargs: Any) -> str:
        """Return `![IMAGEGEN](url)`, labelled. Raises ToolError for arguments that the schema refuses."""
        self._verify_args(params)
        seed = hashlib.sha256(canonical_json(params).encode()).hexdigest()[:12]
        return f"{LABEL}![IMAGEGEN]({PICTURES}/{seed}.svg)"


class FromCatalogue(SpecTool):
    """Answers as a tool of the catalogue, with made-up values; the same arguments give the same answer."""

    def __init__(self, tool: BaseTool, known: CatalogueTool, lang: Lang) -> None:
        super().__init__(tool.spec())
        self._known = known
        self._lang = lang

    def call(self, params: str, **kwargs: Any) -> str:
        """Return a labelled observation. Raises ToolError for arguments that the schema refuses."""
        arguments = self._verify_args(params)
        rng = random.Random(f"{self.name}{canonical_json(params)}")
        drawn = {name: slot.draw(rng, self._lang, Split.TRAIN).surface for name, slot in self._known.results.items()}
        said: Mapping[str, str] = {name: str(value) for name, value in arguments.items()}
        return LABEL + fill(self._known.phrases["observation"][self._lang][0], {**drawn, **said})


def is_simulated(tool: BaseTool) -> bool:
    """Tell whether a tool only pretends."""
    return isinstance(tool, Simulated | FromCatalogue | PretendPicture)


def picture(seed: str) -> str:
    """Return a simulated picture as SVG: a landscape of colours that the seed chooses."""
    rng = random.Random(seed)
    hue = rng.randrange(360)
    hills = "".join(
        f'<path d="M0 {height} C {rng.randrange(100, 220)} {height - rng.randrange(40, 130)} '
        f'{rng.randrange(300, 420)} {height + rng.randrange(10, 60)} 512 {height - rng.randrange(0, 60)} V512 H0 Z" '
        f'fill="hsl({(hue + 25 * number) % 360} 45% {62 - 14 * number}%)"/>'
        for number, height in enumerate((300, 360, 430))
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 512 512" width="512" height="512"><defs>'
        f'<linearGradient id="s" x2="0" y2="1"><stop stop-color="hsl({hue} 70% 82%)"/>'
        f'<stop offset="1" stop-color="hsl({(hue + 50) % 360} 80% 92%)"/></linearGradient></defs>'
        f'<rect width="512" height="512" fill="url(#s)"/><circle cx="{rng.randrange(90, 420)}" '
        f'cy="{rng.randrange(80, 170)}" r="{rng.randrange(34, 60)}" fill="hsl({(hue + 180) % 360} 85% 78%)"/>{hills}'
        '<rect x="16" y="462" width="214" height="34" rx="17" fill="#0008"/><text x="123" y="485" fill="#fff" '
        'font-family="sans-serif" font-size="17" text-anchor="middle">模拟图片 · simulated</text></svg>'
    )
