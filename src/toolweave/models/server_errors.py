"""What went wrong at a model server, said so that the user can mend it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import openai

from toolweave.errors import ServerError


@contextmanager
def explained(client: openai.OpenAI, model: str) -> Iterator[None]:
    """Turn the SDK's errors into ServerError with a hint; the key is struck out of every text."""
    url = str(client.base_url).rstrip("/")
    try:
        yield
    except openai.APITimeoutError:
        raise ServerError(f"{url} did not answer in time", 'a slow server needs a longer "timeout" (seconds)') from None
    except openai.APIConnectionError as error:
        reason = f": {error.__cause__}" if error.__cause__ else ""
        raise ServerError(
            _redacted(f"no model server reached at {url}{reason}", client),
            "start it, for example with toolweave deploy --ckpt_dir DIR --port PORT, or mend api_base",
        ) from None
    except openai.APIStatusError as error:
        raise ServerError(
            _redacted(f"{url} refused the request with HTTP {error.status_code}: {_message(error)}", client),
            _redacted(_hint(error, client, model), client),
        ) from None
    except openai.OpenAIError as error:
        raise ServerError(_redacted(f"{url} broke off: {error}", client), "look at the server's log") from None


def _hint(error: openai.APIStatusError, client: openai.OpenAI, model: str) -> str:
    if error.status_code in (401, 403):
        return "check api_key in the llm config, or the environment variable of the key"
    if error.status_code == 404:
        offered = _offered(client)
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


def _offered(client: openai.OpenAI) -> list[str]:
    try:
        return [model.id for model in client.models.list().data]
    except (openai.OpenAIError, AttributeError, TypeError):
        # Not every server lists its models, and what is not an OpenAI API answers anything.
        return []


def _message(error: openai.APIStatusError) -> str:
    body = error.body
    if isinstance(body, dict) and body.get("message"):
        return str(body["message"])
    return error.message


def _redacted(text: str, client: openai.OpenAI) -> str:
    key = client.api_key
    return text.replace(key, "***") if key and key != "EMPTY" else text
