"""Traces: what an agent app asked its model and what it was told, captured, curated and exported as training rows."""
