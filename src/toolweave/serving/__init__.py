"""Serving: the embedded engine and its OpenAI API. Importing this alone loads no torch."""
