"""Weights: adapters, merging, export and the manifest that travels with them."""
