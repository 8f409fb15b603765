"""Serving: the embedded engine and its OpenAI API."""

from toolweave.serving.app import create_app
from toolweave.serving.engine import Engine
from toolweave.serving.gatekeeper import Limits
from toolweave.serving.generation import FinishReason, Generation, RequestError, SamplingParams, Usage
from toolweave.serving.server import deploy

__all__ = [
    "Engine",
    "FinishReason",
    "Generation",
    "Limits",
    "RequestError",
    "SamplingParams",
    "Usage",
    "create_app",
    "deploy",
]
