"""The findings of `toolweave data check`, for the terminal and as one HTML file without anything from outside."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from jinja2 import Environment
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from toolweave.data.check import CheckReport
from toolweave.data.jsonl import writing_error

_EXAMPLES = 3
_EXAMPLES_HTML = 20

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Data check</title><style>
body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0;width:100%}th,td{text-align:left;padding:.3em .7em;border-bottom:1px
solid #ddd}td.n,th.n{text-align:right}code{background:#f4f4f4;padding:.1em .3em;overflow-wrap:anywhere}
summary{cursor:pointer;font-weight:600;margin:.6em 0}
</style></head><body>
<h1>Data check</h1>
<table><tr><th>Source<th>Format<th class="n">Rows<th class="n">Kept<th class="n">Samples<th class="n">Turns
<th class="n">Calls<th class="n">Problems</tr>
{% for s in report.sources %}<tr><td>{{ s.name }}<td>{{ s.load.format }}<td class="n">{{ s.load.rows }}
<td class="n">{{ s.load.episodes }}<td class="n">{{ s.load.samples }}<td class="n">{{ s.load.turns }}
<td class="n">{{ s.load.calls }}<td class="n">{{ s.problems|length }}</tr>{% endfor %}</table>
<h2>Problems</h2>
{% for failure, problems in report.by_failure().items() %}
<details open><summary>{{ failure }}: {{ problems|length }}</summary><table>
{% for p in problems[:examples] %}<tr><td><code>{{ p.file }}:{{ p.line }}</code><td>{{ p.id }}<td>{{ p.reason }}</tr>
{% endfor %}</table>{% if problems|length > examples %}<p>… and {{ problems|length - examples }} more</p>{% endif %}
</details>{% else %}<p>None.</p>{% endfor %}
<h2>Tools</h2>
<table><tr><th>Tool<th class="n">Good calls<th class="n">Problems<th>Which</tr>
{% for name, counts in tools %}<tr><td><code>{{ name }}</code><td class="n">{{ counts.calls }}
<td class="n">{{ counts.problems.values()|sum }}
<td>{% for failure, n in counts.problems.items() %}{{ failure }}: {{ n }} {% endfor %}</tr>{% endfor %}</table>
{% if lengths %}<h2>Length in tokens</h2><p>{{ lengths }}</p>{% endif %}
</body></html>
"""


def print_report(report: CheckReport) -> None:
    """Print the findings with a few examples of each failure."""
    console = Console()
    table = Table("source", "format", "rows", "kept", "samples", "calls", "problems")
    for source in report.sources:
        load = source.load
        counts = (load.rows, load.episodes, load.samples, load.calls, len(source.problems))
        table.add_row(escape(source.name), load.format, *map(str, counts))
    console.print(table)
    for source in report.sources:
        if source.load.prefaces:
            console.print(
                f"{escape(source.name)}: {source.load.prefaces} texts before a call have no place in a request"
            )
        for path in source.load.skipped:
            console.print(f"{escape(str(path))}: not read, it is another split")
    for failure, problems in report.by_failure().items():
        console.print(f"[bold]{failure}: {len(problems)}[/bold]")
        for problem in problems[:_EXAMPLES]:
            console.print(f"  {escape(problem.file)}:{problem.line} {escape(problem.reason)}", highlight=False)
    faulty = {name: counts for name, counts in report.tools.items() if counts.problems}
    if faulty:
        table = Table("tool", "good calls", "problems")
        for name, tool in sorted(faulty.items(), key=lambda item: -item[1].problems.total())[:20]:
            table.add_row(escape(name), str(tool.calls), ", ".join(f"{f}: {n}" for f, n in tool.problems.items()))
        console.print(table)
    if report.tokens:
        console.print(_lengths(report.tokens))


def write_html(report: CheckReport, path: Path) -> None:
    """Write the findings to an HTML file, whole or not at all. Raises DataError if it cannot be written."""
    tools = sorted(report.tools.items(), key=lambda item: (-item[1].problems.total(), -item[1].calls))
    page = Environment(autoescape=True).from_string(_PAGE)
    text = page.render(report=report, tools=tools, examples=_EXAMPLES_HTML, lengths=_lengths(report.tokens))
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        draft.write_text(text, "utf-8")
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise writing_error(path, error) from error


def _lengths(tokens: tuple[int, ...]) -> str:
    if not tokens:
        return ""
    ordered = sorted(tokens)
    middle, high = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
    return f"{len(ordered)} samples: median {middle} tokens, 99 % within {high}, longest {ordered[-1]}"
