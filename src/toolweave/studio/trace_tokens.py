"""The tokens of a visit's reply as HTML: what is context and what is learned.

A module of its own, as it loads torch, which the Studio does not need until someone looks.
"""

from __future__ import annotations

from functools import lru_cache
from html import escape
from pathlib import Path

from toolweave.data.strategy import Strategy
from toolweave.models.base_models import load_template
from toolweave.models.locate import EMBEDDED
from toolweave.models.template import ChatTemplate
from toolweave.studio.trace_html import Text
from toolweave.traces.export import to_sample
from toolweave.traces.trace import Trace
from toolweave.training.audit import label_parts
from toolweave.training.rows import prepare

_NO_LIMIT = 1 << 30


def tokens_html(trace: Trace, text: Text) -> str:
    """Return a trace's row as it would be trained: what is learned, the stop token, and what is context only.

    Raises DataError for a trace that no row can hold, ModelError when the model has no tokenizer here.
    """
    model = tokenizer_of(trace)
    (row,) = prepare([to_sample(trace)], _template(model), _NO_LIMIT, Strategy.NONE).kept
    prompt, learned, stop = (escape(part) for part in label_parts(row, _template(model)))
    every, labels = len(row.encoded.ids), len(row.encoded.ids) - row.encoded.prompt
    legend = text("traces.tokens_legend", model=Path(model).name, all=every, labels=labels)
    keys = (
        f'<span class="prompt">{text("traces.prompt")}</span> <mark>{text("traces.learned")}</mark> '
        f'<mark class="stop">{text("traces.stop_token")}</mark>'
    )
    return (
        f'<p>{escape(legend)} {keys}</p><div class="tokens" tabindex="0"><pre><span class="prompt">{prompt}</span>'
        f'<mark>{learned}</mark><mark class="stop">{stop}</mark></pre></div>'
    )


def tokenizer_of(trace: Trace) -> str:
    """Return the model whose chat template shows the tokens: the one that was asked if it is here, else embedded."""
    folder = Path(trace.model)
    return str(folder) if trace.model and (folder / "tokenizer.json").is_file() else EMBEDDED


@lru_cache(maxsize=4)
def _template(model: str) -> ChatTemplate:
    return load_template(model)
