"""toolweave: weave tool calling into a small model, and prove it."""

__version__ = "0.1.0"
