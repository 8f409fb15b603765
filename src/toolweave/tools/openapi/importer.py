"""From a document to tools."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urljoin

from toolweave.errors import DataError
from toolweave.tools.base import BaseTool
from toolweave.tools.openapi.auth import Credential, placement
from toolweave.tools.openapi.document import read_document, resolve
from toolweave.tools.openapi.schema import json_schema
from toolweave.tools.openapi.tool import In, OpenAPITool, Operation, Parameter
from toolweave.types import Json, ToolSpec

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_MAX_NAME = 64
_UNFIT = re.compile(r"[^A-Za-z0-9_-]+")
_SEPARATORS = {"csv": ",", "ssv": " ", "tsv": "\t", "pipes": "|"}
_STYLES = {"spaceDelimited": " ", "pipeDelimited": "|"}
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
# AgentFabric's documents write this header of DashScope into the request body's description.
_ASYNC_HEADER = "X-DashScope-Async"


@dataclass(frozen=True, slots=True)
class Imported:
    """The tools of a document, and by name what could not be made a tool."""

    tools: tuple[OpenAPITool, ...]
    skipped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    method: str
    path: str
    details: Mapping[str, Any]
    shared: tuple[Any, ...]
    base: str

    @property
    def label(self) -> str:
        return f"{self.method.upper()} {self.path}"


def import_openapi(
    document: Json | str,
    *,
    credential: Credential | None = None,
    base_url: str = "",
    source: str = "",
    only: Collection[str] | None = None,
) -> Imported:
    """Make a tool of each operation of an OpenAPI 3 or Swagger 2 document (its text, or read already).

    `base_url` goes before the servers of the document, `source` is the URL it came from, which relative servers
    belong to; `only` keeps the tools of these names. Names are the operations' ids, ASCII and at most 64 characters;
    two that would be the same get a hash of method and path, so that a name stays when others come and go.
    Raises DataError for what is no such document; an operation that cannot be used is named in `skipped`.
    """
    document = read_document(document) if isinstance(document, str) else document
    if not isinstance(document.get("paths"), Mapping):
        raise DataError("the document has no paths", "give an OpenAPI 3 or Swagger 2 document")
    found = list(_operations(document, base_url, source))
    wishes = [_fit(str(each.details.get("operationId") or _id_of(each))) for each in found]
    uses = Counter(wish.casefold() for wish in wishes)
    tools, skipped = [], []
    for each, wish in zip(found, wishes, strict=True):
        name = wish if uses[wish.casefold()] == 1 else _hashed(wish, each.label)
        if only is not None and name not in only:
            continue
        try:
            tools.append(_tool(document, each, name, credential))
        except (DataError, ValueError, TypeError, AttributeError, KeyError) as error:
            # A document is foreign data: one broken operation takes nothing else with it.
            skipped.append(f"{each.label}: {error}")
    return Imported(tuple(tools), tuple(skipped))


def plugin_tools(plugin: Mapping[str, Any]) -> tuple[BaseTool, ...]:
    """Make the tools of AgentFabric's `openapi_plugin_config`: {schema, auth, privacy_policy}. Raises DataError."""
    schema = plugin.get("schema")
    if not schema:
        return ()
    if not isinstance(schema, str | Mapping):
        raise DataError("the plugin's schema is neither text nor an object")
    document = schema if isinstance(schema, str) else dict(schema)
    return import_openapi(document, credential=Credential.from_plugin(plugin.get("auth"))).tools


def _operations(document: Json, base_url: str, source: str) -> Iterator[_Found]:
    for path, item in document["paths"].items():
        item = resolve(document, item)
        if not isinstance(item, Mapping) or not str(path).startswith("/"):
            continue
        for method in _METHODS:
            details = item.get(method)
            if isinstance(details, Mapping):
                shared = tuple(item.get("parameters") or ())
                servers = details.get("servers") or item.get("servers") or document.get("servers")
                base = base_url or _server(document, servers, source)
                yield _Found(method, str(path), details, shared, base)


def _server(document: Json, servers: Any, source: str) -> str:
    if document.get("host"):
        schemes = document.get("schemes") or ["https"]
        scheme = "https" if "https" in schemes else str(schemes[0])
        return f"{scheme}://{document['host']}{document.get('basePath') or ''}"
    if isinstance(servers, list) and servers and isinstance(servers[0], Mapping):
        url = str(servers[0].get("url") or "")
        for name, variable in (servers[0].get("variables") or {}).items():
            url = url.replace(f"{{{name}}}", str(variable.get("default", "")))
    else:
        url = str(document.get("basePath") or "/")
    return urljoin(source, url)


def _tool(document: Json, found: _Found, name: str, credential: Credential | None) -> OpenAPITool:
    if not found.base.startswith(("http://", "https://")):
        raise DataError("the document does not say where its server is; give base_url")
    arguments = _Arguments(document)
    for parameter in _parameters(document, found):
        arguments.add_parameter(parameter)
    headers: list[tuple[str, str]] = []
    body = resolve(document, found.details.get("requestBody"))
    if isinstance(body, Mapping):
        arguments.add_body(body)
        if isinstance(body.get(_ASYNC_HEADER), str):
            headers.append((_ASYNC_HEADER, body[_ASYNC_HEADER]))
    arguments.add_swagger_body(found.details)
    text = str(found.details.get("summary") or found.details.get("description") or found.label)
    schema: Json = {"type": "object", "properties": arguments.properties, "required": arguments.required}
    operation = Operation(
        found.method,
        found.base,
        found.path,
        tuple(arguments.parameters),
        arguments.body_type,
        arguments.body_argument,
        tuple(headers),
        placement(credential, document, found.details),
    )
    spec = ToolSpec(name, " ".join(text.split())[:300], schema)
    return OpenAPITool(spec, operation, partial(_result, document, found))


def _parameters(document: Json, found: _Found) -> list[Mapping[str, Any]]:
    """Return the parameters of path and operation; of two alike the operation's counts."""
    every = [resolve(document, parameter) for parameter in (*found.shared, *(found.details.get("parameters") or ()))]
    return list({(parameter["in"], parameter["name"]): parameter for parameter in every}.values())


class _Arguments:
    """The arguments of one tool as they are gathered."""

    def __init__(self, document: Json) -> None:
        self.properties: Json = {}
        self.required: list[str] = []
        self.parameters: list[Parameter] = []
        self.body_type = ""
        self.body_argument = ""
        self._document = document
        self._form: list[Mapping[str, Any]] = []
        self._swagger_body: Mapping[str, Any] | None = None

    def add_parameter(self, parameter: Mapping[str, Any]) -> None:
        place = str(parameter["in"])
        if place == "body":
            self._swagger_body = parameter
            return
        if place == "formData":
            if parameter.get("type") == "file":
                raise DataError("files cannot be sent")
            self._form.append(parameter)
            return
        schema = parameter.get("schema")
        if schema is None and isinstance(parameter.get("content"), Mapping):
            schema = next((media.get("schema") for media in parameter["content"].values()), None)
        made = json_schema(self._document, parameter if schema is None else schema)
        if parameter.get("description"):
            made["description"] = " ".join(str(parameter["description"]).split())[:300]
        required = parameter.get("required") is True or place == "path"
        argument = self._argument(str(parameter["name"]), place, made, required=required)
        self.parameters.append(Parameter(argument, str(parameter["name"]), In(place), _separator(parameter)))

    def add_body(self, body: Mapping[str, Any]) -> None:
        content = body.get("content")
        if not isinstance(content, Mapping) or not content:
            return
        media_type = _media_type(content)
        schema = json_schema(self._document, (content[media_type] or {}).get("schema"))
        self._add_body(media_type, schema, required=body.get("required") is True)

    def add_swagger_body(self, details: Mapping[str, Any]) -> None:
        """Add what Swagger 2 has among the parameters: a body, or the fields of a form."""
        consumes = details.get("consumes") or self._document.get("consumes") or ()
        if self._swagger_body is not None:
            media_type = _media_type(dict.fromkeys(consumes or ("application/json",)))
            schema = json_schema(self._document, self._swagger_body.get("schema"))
            self._add_body(media_type, schema, required=self._swagger_body.get("required") is True)
        elif self._form:
            fields = {str(field["name"]): field for field in self._form}
            required = [name for name, field in fields.items() if field.get("required") is True]
            properties = {name: json_schema(self._document, field) for name, field in fields.items()}
            self.body_type = _FORMS[1] if _FORMS[1] in consumes else _FORMS[0]
            self._add_fields(properties, required)

    def _add_body(self, media_type: str, schema: Json, *, required: bool) -> None:
        self.body_type = media_type
        properties = schema.get("properties")
        wanted = schema.get("required", [])
        # Fields become arguments of their own where nothing is lost by it; a model fills in flat arguments best.
        free = isinstance(properties, dict) and not properties.keys() & self.properties.keys()
        open_ended = any(key in schema for key in ("oneOf", "anyOf", "allOf", "additionalProperties"))
        if properties and free and not open_ended:
            self._add_fields(properties, wanted if required or wanted else [])
            return
        self.body_argument = self._argument("body", "body", schema, required=required)

    def _add_fields(self, properties: Json, required: list[str]) -> None:
        for name, schema in properties.items():
            argument = self._argument(name, "body", schema, required=name in required)
            self.parameters.append(Parameter(argument, name, In.BODY))

    def _argument(self, name: str, place: str, schema: Json, *, required: bool) -> str:
        argument = name if name not in self.properties else f"{name}_{place}"
        while argument in self.properties:
            argument += "_"
        self.properties[argument] = schema
        if required:
            self.required.append(argument)
        return argument


def _media_type(content: Mapping[str, Any]) -> str:
    for media_type in content:
        if "json" in media_type:
            return str(media_type)
    for media_type in (*_FORMS, *content):
        if media_type in content and media_type.startswith((*_FORMS, "text/")):
            return str(media_type)
    if "*/*" in content:
        return "*/*"
    raise DataError(f"bodies of {', '.join(content)} cannot be written")


def _separator(parameter: Mapping[str, Any]) -> str | None:
    """Return what joins the items of an array, None where the parameter is repeated."""
    if "collectionFormat" in parameter or "type" in parameter:
        kind = str(parameter.get("collectionFormat", "csv"))
        return None if kind == "multi" else _SEPARATORS.get(kind, ",")
    style = str(parameter.get("style") or ("form" if parameter["in"] in ("query", "cookie") else "simple"))
    if parameter.get("explode", style == "form") and style == "form":
        return None
    return _STYLES.get(style, ",")


def _result(document: Json, found: _Found) -> Json | None:
    """Return the schema of the first good answer that has one."""
    responses = found.details.get("responses")
    if not isinstance(responses, Mapping):
        return None
    answers = {str(status): response for status, response in responses.items()}  # YAML reads numbers
    for status in sorted(answers):
        if not status.startswith("2"):
            continue
        try:
            response = resolve(document, answers[status])
            schema = response.get("schema") or _json_content(response)
            return json_schema(document, schema) if schema else None
        except (DataError, AttributeError):
            return None
    return None


def _json_content(response: Mapping[str, Any]) -> Any:
    content = response.get("content") or {}
    return next((media.get("schema") for name, media in content.items() if "json" in name and media), None)


def _id_of(found: _Found) -> str:
    summary = str(found.details.get("summary") or "")
    return summary if summary.isascii() and 0 < len(summary) <= _MAX_NAME else f"{found.method}_{found.path}"


def _fit(wish: str) -> str:
    name = _UNFIT.sub("_", wish).strip("_") or "operation"
    return name if len(name) <= _MAX_NAME else _hashed(name, wish)


def _hashed(name: str, identity: str) -> str:
    mark = hashlib.sha256(identity.encode()).hexdigest()[:8]
    return f"{name[: _MAX_NAME - 9]}_{mark}"
