"""Check AgentFabric's JSON files: what they are, and what of them cannot be used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toolweave.agents.spec import AgentSpec, FileKind, ToolEntry
from toolweave.data.json_files import read_json, write_json
from toolweave.errors import DataError, ToolweaveError
from toolweave.tools.openapi import import_openapi
from toolweave.tools.registry import TOOL_REGISTRY
from toolweave.types import Json

OPENAPI = "OpenAPI document"


@dataclass(frozen=True, slots=True)
class FileReport:
    """A file that was read: `kind` is one of AgentFabric's four or OPENAPI, `summary` one line about it."""

    path: Path
    kind: FileKind | str
    summary: str
    problems: tuple[str, ...]
    content: Json


def check_file(path: Path) -> FileReport:
    """Read a file and report. Raises DataError for what is no JSON object or of no known kind."""
    content = read_json(path)
    kind = _kind(path, content)
    match kind:
        case FileKind.BUILDER:
            spec = AgentSpec(builder=content)
            used = [entry.key for entry in spec.tools if entry.use]
            summary = f"agent {spec.name!r}, model {spec.model!r}, tools in use: {', '.join(used) or 'none'}"
            return FileReport(path, kind, summary, spec.problems(), content)
        case FileKind.MODELS:
            summary = f"{len(content)} models: {', '.join(content)}"
            return FileReport(path, kind, summary, AgentSpec(models=content).problems(), content)
        case FileKind.TOOLS:
            entries = [ToolEntry.read(key, entry) for key, entry in content.items() if isinstance(entry, dict)]
            missing = [entry for entry in entries if entry.key not in TOOL_REGISTRY]
            problems = tuple(f"toolweave has no tool {entry.key!r} ({entry.name})" for entry in missing)
            return FileReport(path, kind, f"{len(entries)} tools, {len(missing)} unknown", problems, content)
        case FileKind.PLUGIN:
            problems = AgentSpec(plugin=content).problems()
            return FileReport(path, kind, "an OpenAPI plugin", problems, content)
        case _:
            imported = import_openapi(content)
            names = ", ".join(tool.name for tool in imported.tools)
            return FileReport(path, kind, f"{len(imported.tools)} tools: {names}", imported.skipped, content)


def round_trip(report: FileReport, folder: Path) -> Path:
    """Write what was read into `folder`, read it again and compare. Returns the file; raises DataError on a change."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / report.path.name
    if target.exists() and target.samefile(report.path):
        raise DataError(f"{target} is the file itself", "name another folder")
    written = report.content
    if isinstance(report.kind, FileKind):
        # By way of the agent that is made of it, so that this is what is shown to lose nothing.
        written = dict(AgentSpec.of({report.kind: report.content}).files())[report.kind]
    write_json(target, written)
    if read_json(target) != read_json(report.path):
        raise ToolweaveError(f"{target} differs from {report.path}")
    return target


def _kind(path: Path, content: Json) -> FileKind | str:
    for kind in FileKind:
        if path.name.startswith(kind.value):
            return kind
    if "paths" in content and ("openapi" in content or "swagger" in content):
        return OPENAPI
    if "schema" in content and "auth" in content:
        return FileKind.PLUGIN
    if "instruction" in content or "prompt_recommend" in content:
        return FileKind.BUILDER
    entries = [entry for entry in content.values() if isinstance(entry, dict)]
    if entries and len(entries) == len(content):
        if all("model" in entry for entry in entries):
            return FileKind.MODELS
        if all("use" in entry or "is_active" in entry for entry in entries):
            return FileKind.TOOLS
    names = ", ".join(kind.file_name for kind in FileKind)
    raise DataError(f"{path} is none of AgentFabric's files", f"these are {names} and OpenAPI documents")
