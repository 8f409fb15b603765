"""Small things that several views share."""

from __future__ import annotations

from html import escape

import gradio as gr
from gradio.context import Context

from toolweave.errors import ToolweaveError


def enclosing_tab() -> gr.Tab:
    """Return the tab that is being built."""
    block = Context.block
    while block is not None and not isinstance(block, gr.Tab):
        block = block.parent
    if block is None:
        raise RuntimeError("a view is built inside a tab")
    return block


def shown(error: ToolweaveError) -> gr.Error:
    """Return, for `raise`, an error that the user can mend as a message of the page."""
    return gr.Error(str(error), print_exception=False)


def note(text: str, kind: str = "") -> str:
    """Return a line of HTML; `kind` colours it: pass, fail, undecided."""
    return f'<p class="notice {kind}">{escape(text)}</p>'
