"""What went wrong at a model server, said so that the user can mend it."""

from __future__ import annotations

from collections.abc import Sequence

import openai

from toolweave.errors import ServerError
from toolweave.models.presets import Endpoint


def explain(error: openai.OpenAIError, endpoint: Endpoint, model: str, offered: Sequence[str] = ()) -> ServerError:
    """Return a ServerError with a hint for an error of the SDK; the key is struck out of every text.

    `offered` are the models that the server has, asked for when `is_missing` tells so.
    """
    url = endpoint.url.rstrip("/")
    match error:
        case openai.APITimeoutError():
            message, hint = f"{url} did not answer in time", 'a slow server needs a longer "timeout" (seconds)'
        case openai.APIConnectionError():
            message = f"no model server reached at {url}" + (f": {error.__cause__}" if error.__cause__ else "")
            hint = "start it, for example with toolweave deploy --ckpt_dir DIR --port PORT, or mend api_base"
        case openai.APIStatusError():
            message = f"{url} refused the request with HTTP {error.status_code}: {_message(error)}"
            hint = _hint(error, model, offered)
        case _:
            message, hint = f"{url} broke off: {error}", "look at the server's log"
    return ServerError(endpoint.redact(message), endpoint.redact(hint))


def is_missing(error: openai.OpenAIError) -> bool:
    """Tell HTTP 404: the address may be wrong, or the model."""
    return isinstance(error, openai.APIStatusError) and error.status_code == 404


def _hint(error: openai.APIStatusError, model: str, offered: Sequence[str]) -> str:
    if error.status_code in (401, 403):
        return "check api_key in the llm config, or the environment variable of the key"
    if error.status_code == 404:
        if not offered:
            return "check api_base: it mostly ends in /v1"
        if model not in offered:
            return f"the server has no model {model!r}; it offers {', '.join(offered)}"
        return "the server has the model but not this kind of request: check is_chat"
    if error.status_code == 429:
        return "too many requests or no quota left: wait, or use another key"
    if error.status_code >= 500:
        return "look at the server's log"
    return "check model and generate_cfg of the llm config"


def _message(error: openai.APIStatusError) -> str:
    body = error.body
    if isinstance(body, dict) and body.get("message"):
        return str(body["message"])
    return error.message
