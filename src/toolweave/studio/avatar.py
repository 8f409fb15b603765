"""A face for an agent: painted as its builder describes it where there is a key for that, else drawn from its name."""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
from colorsys import hls_to_rgb
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw

from toolweave.agents.spec import AgentSpec
from toolweave.errors import ToolError, ToolweaveError
from toolweave.studio.cast import agent_tools
from toolweave.studio.plugins import fetch
from toolweave.studio.pretend import lacks_key
from toolweave.studio.workspace import Home
from toolweave.tools.base import BaseTool

_PAINTER = "image_gen"
_SIZE = 256  # pixels
_CELLS = 5
_URL = re.compile(r"\((https?://[^)\s]+)\)")
_MADE = re.compile(r"logo-[0-9a-f]{12}\.png")


def give_avatar(home: Home, agent: str, wanted: str) -> bool:
    """Give an agent a new face and tell whether it was painted; a picture that its user chose stays as it is.

    `wanted` says what the face shows. Without a key for pictures, or when painting fails, it is drawn from the name.
    """
    spec = home.agent(agent)
    if spec.avatar and not _MADE.fullmatch(spec.avatar):
        return False
    tool = painter(home, agent, spec)
    painted = paint(tool, wanted) if tool is not None and wanted else None
    picture = painted or drawn(spec.name or agent)
    name = f"logo-{hashlib.sha256(picture).hexdigest()[:12]}.png"
    folder = home.agent_folder(agent)
    for old in folder.glob("logo-*.png"):
        old.unlink()
    Path(folder, name).write_bytes(picture)
    home.save_agent(agent, replace(spec, builder=spec.builder | {"avatar": name}))
    return painted is not None


def painter(home: Home, agent: str, spec: AgentSpec) -> BaseTool | None:
    """Return the tool that paints, with the user's key; None if there is no key."""
    own = (spec.builder.get("tools") or {}).get(_PAINTER) or {}
    using = replace(spec, builder={"tools": {_PAINTER: {**own, "use": True}}}, plugin={})
    tool = next((tool for tool in agent_tools(home, agent, using) if tool.name == _PAINTER), None)
    return None if tool is None or lacks_key(tool) else tool


def paint(tool: BaseTool, wanted: str) -> bytes | None:
    """Return a painted face as PNG, None when it cannot be painted."""
    try:
        said = tool.call(json.dumps({"text": wanted, "resolution": "1024*1024"}, ensure_ascii=False))
        url = _URL.search(said)
        if url is None:
            return None
        with Image.open(io.BytesIO(fetch(url[1]))) as picture:
            picture.thumbnail((_SIZE, _SIZE))
            return _png(picture.convert("RGB"))
    except (ToolError, ToolweaveError, OSError, ValueError, Image.DecompressionBombError):
        return None


def drawn(name: str) -> bytes:
    """Return a face as PNG: a woven pattern, its colours and shape drawn from the name."""
    rng = random.Random(name)
    hue = rng.random()
    picture = Image.new("RGB", (_SIZE, _SIZE), _colour(hue, 0.32))
    draw = ImageDraw.Draw(picture)
    cell = _SIZE // (_CELLS + 1)
    edge = (_SIZE - cell * _CELLS) // 2
    for row in range(_CELLS):
        # The right half mirrors the left one.
        half = [rng.random() for _ in range((_CELLS + 1) // 2)]
        for column, chance in enumerate([*half, *half[-2::-1]]):
            if chance < 0.55:
                left, top = edge + column * cell, edge + row * cell
                colour = _colour((hue + 0.08 * row / _CELLS) % 1, 0.62 + 0.25 * chance)
                draw.rounded_rectangle((left + 2, top + 2, left + cell - 3, top + cell - 3), cell // 4, fill=colour)
    return _png(picture)


def _colour(hue: float, light: float) -> tuple[int, int, int]:
    red, green, blue = hls_to_rgb(hue, light, 0.55)
    return round(255 * red), round(255 * green), round(255 * blue)


def _png(picture: Image.Image) -> bytes:
    written = io.BytesIO()
    picture.save(written, "PNG", optimize=True)
    return written.getvalue()
