"""toolweave: weave tool calling into a small model, and prove it."""
