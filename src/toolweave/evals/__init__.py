"""Evaluation: visits through the real client, scored by what was called and what was said."""
