"""OpenAPI and Swagger documents as tools, called over real HTTP."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from stub_server import serve
from toolweave.errors import DataError, ToolError, ToolweaveError
from toolweave.tools.base import Effect
from toolweave.tools.openapi import Credential, import_openapi, plugin_tools, read_document
from toolweave.tools.openapi.schema import json_schema
from toolweave.tools.simulate import simulate

KEY = "key-0123456789"
YAML = """
openapi: 3.0.3
info: {title: Pets, version: 2020-01-01}
servers: [{url: "{base}/v1"}]
security: [{key: []}]
paths:
  /pets/{pet id}:
    parameters:
      - {name: pet id, in: path, required: true, schema: {type: string}}
    get:
      operationId: getPet
      parameters:
        - {name: tags, in: query, schema: {type: array, items: {type: string}}}
        - {name: X-Trace, in: header, schema: {type: string}}
        - {name: since, in: query, schema: {type: string, default: 2020-01-01}}
      responses:
        200: {description: ok, content: {application/json: {schema: {$ref: "#/components/schemas/Pet"}}}}
    put:
      operationId: getPet
      requestBody: {required: true, content: {application/json: {schema: {$ref: "#/components/schemas/Pet"}}}}
    patch:
      summary: 改名
      requestBody: {content: {application/x-www-form-urlencoded: {schema: {properties: {name: {type: string}}}}}}
    delete: {operationId: deletePet}
  /upload:
    post:
      operationId: upload
      requestBody: {content: {application/octet-stream: {}}}
components:
  securitySchemes: {key: {type: apiKey, in: header, name: X-Key}}
  schemas:
    Pet:
      type: object
      required: [name]
      properties:
        name: {type: string, pattern: "(a+)+$"}
        id: {type: integer, readOnly: true}
        age: {type: integer, nullable: true, minimum: 0, exclusiveMinimum: true}
        parent: {$ref: "#/components/schemas/Pet"}
"""
SWAGGER = {
    "swagger": "2.0",
    "basePath": "/v2",
    "schemes": ["http"],
    "securityDefinitions": {"basic": {"type": "basic"}},
    "security": [{"basic": []}],
    "paths": {
        "/find": {
            "get": {
                "operationId": "find things!",
                "parameters": [
                    {"name": "ids", "in": "query", "type": "array", "items": {"type": "integer"}},
                    {"name": "multi", "in": "query", "type": "array", "collectionFormat": "multi", "items": {}},
                ],
            },
            "post": {
                "operationId": "add",
                "parameters": [
                    {"name": "thing", "in": "body", "required": True, "schema": {"$ref": "#/definitions/T"}}
                ],
            },
        },
    },
    "definitions": {"T": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}},
}


class Recorder:
    """Answers with what it was asked."""

    def __init__(self) -> None:
        self.app = FastAPI()
        self.app.api_route("/{path:path}", methods=["GET", "PUT", "POST", "PATCH", "DELETE"])(self.answer)

    async def answer(self, request: Request) -> Any:
        if request.url.path.endswith("/lost"):
            return Response(f"no such pet for {request.headers['x-key']}", 404)
        if request.url.path.endswith("/moved"):
            return Response(status_code=302, headers={"Location": "http://example.com/"})
        return {
            "method": request.method,
            "path": request.scope["raw_path"].decode(),
            "query": [list(pair) for pair in request.query_params.multi_items()],
            "headers": dict(request.headers),
            "body": (await request.body()).decode(),
        }


@pytest.fixture(scope="module")
def url() -> Any:
    with serve(Recorder().app) as base:
        yield base


@pytest.fixture(autouse=True)
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLWEAVE_ALLOW_HOSTS", "127.0.0.1")


def tools(url: str) -> dict[str, Any]:
    imported = import_openapi(YAML.replace("{base}", url), credential=Credential(KEY))
    return {f"{tool.operation.method}": tool for tool in imported.tools}


def call(tool: Any, **arguments: Any) -> Any:
    return json.loads(tool.call(json.dumps(arguments)).replace("***", "?"))


def test_names_are_unique_and_stable(url: str) -> None:
    made = tools(url)
    names = [tool.name for tool in made.values()]
    assert made["delete"].name == "deletePet"
    assert made["get"].name != made["put"].name
    assert all(name.startswith("getPet_") for name in (made["get"].name, made["put"].name))
    assert all(len(name) <= 64 and name.replace("_", "").isalnum() for name in names)
    assert [tool.name for tool in tools(url).values()] == names
    assert (made["get"].effect, made["put"].effect, made["delete"].effect) == (*Effect,)


def test_what_cannot_be_used_is_named(url: str) -> None:
    (skipped,) = import_openapi(YAML.replace("{base}", url)).skipped
    assert skipped == "POST /upload: bodies of application/octet-stream cannot be written"


def test_path_query_header_and_key_go_where_they_belong(url: str) -> None:
    seen = call(tools(url)["get"], **{"pet id": "a/b ü", "tags": ["x", "y"], "X-Trace": "t"})
    assert seen["path"] == "/v1/pets/a%2Fb%20%C3%BC"
    assert seen["query"] == [["tags", "x"], ["tags", "y"]]
    assert seen["headers"]["x-trace"] == "t"
    # The key was sent, and is struck out of what the model sees.
    assert seen["headers"]["x-key"] == "?"


def test_bodies_are_json_or_forms(url: str) -> None:
    made = tools(url)
    seen = call(made["put"], **{"pet id": "1", "name": "名", "age": None, "parent": {"name": "p"}})
    assert json.loads(seen["body"]) == {"name": "名", "age": None, "parent": {"name": "p"}}
    assert call(made["patch"], **{"pet id": "1", "name": "a b"})["body"] == "name=a+b"


def test_schemas_stand_alone(url: str) -> None:
    parameters = tools(url)["put"].spec().parameters
    assert parameters["properties"] == {
        "pet id": {"type": "string"},
        "name": {"type": "string"},
        "age": {"type": ["integer", "null"], "exclusiveMinimum": 0},
        "parent": {"type": "object"},
    }
    assert parameters["required"] == ["pet id", "name"]
    Draft202012Validator.check_schema(parameters)


@pytest.mark.parametrize(
    ("pet", "message"),
    [("..", "cannot be '..'"), ("lost", r"HTTP 404: no such pet for \*\*\*"), ("moved", "HTTP 302, a redirect")],
)
def test_errors_are_told_without_the_key(url: str, pet: str, message: str) -> None:
    with pytest.raises(ToolError, match=message) as caught:
        tools(url)["get"].call(json.dumps({"pet id": pet}))
    assert KEY not in str(caught.value)


def test_a_header_cannot_be_split(url: str) -> None:
    with pytest.raises(ToolError, match="a header cannot have"):
        tools(url)["get"].call(json.dumps({"pet id": "1", "X-Trace": "a\r\nX-Key: other"}))


def test_swagger_2(url: str) -> None:
    document = SWAGGER | {"host": url.removeprefix("http://")}
    find, add = import_openapi(document, credential=Credential("me:pw")).tools
    assert find.name == "find_things"
    seen = call(find, ids=[1, 2], multi=["a", "b"])
    assert seen["path"] == "/v2/find"
    assert seen["query"] == [["ids", "1,2"], ["multi", "a"], ["multi", "b"]]
    assert find.operation.placement.headers == (("Authorization", f"Basic {base64.b64encode(b'me:pw').decode()}"),)
    assert json.loads(call(add, a=1)["body"]) == {"a": 1}
    with pytest.raises(ToolError, match="'a' is a required property"):
        add.call("{}")


@pytest.mark.parametrize(
    ("auth", "header"),
    [
        ({"type": "API Key", "apikey": KEY, "apikey_type": "Bearer"}, f"Bearer {KEY}"),
        ({"type": "API Key", "apikey": KEY, "apikey_type": "Basic"}, f"Basic {KEY}"),
        ({"type": "None", "apikey": KEY}, None),
        ({}, None),
    ],
)
def test_agentfabrics_plugin(url: str, auth: dict[str, str], header: str | None) -> None:
    document = {"openapi": "3.1.0", "servers": [{"url": url}], "paths": {"/x": {"post": {
        "operationId": "x", "requestBody": {"X-DashScope-Async": "enable", "content": {"application/json": {"schema": {
            "type": "object", "properties": {"text": {"type": "string", "required": True}}}}}}}}}}  # fmt: skip
    (tool,) = plugin_tools({"schema": json.dumps(document), "auth": auth, "privacy_policy": ""})
    assert tool.spec().parameters["required"] == ["text"]
    seen = call(tool, text="t")
    assert seen["headers"]["x-dashscope-async"] == "enable"
    assert dict(tool.operation.placement.headers).get("Authorization") == header


def test_a_private_server_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOOLWEAVE_ALLOW_HOSTS")
    with pytest.raises(ToolError, match="not a public address"):
        tools(url)["get"].call(json.dumps({"pet id": "1"}))


@pytest.mark.parametrize("text", ["[1]", "a: b", "{", "!!python/object/apply:os.system [id]", "a: &a [*a]"])
def test_what_is_no_document_is_refused(text: str) -> None:
    with pytest.raises(ToolweaveError):
        import_openapi(text)


def test_references_elsewhere_or_in_circles_are_refused() -> None:
    document = read_document('{"a": {"$ref": "#/b"}, "b": {"$ref": "#/a"}}')
    for reference in ("#/a", "#/nowhere", "other.yaml#/x", "http://169.254.169.254/x"):
        with pytest.raises(DataError):
            json_schema(document, {"$ref": reference})


def test_a_simulator_answers_by_the_answers_schema(url: str) -> None:
    tool = simulate(tools(url)["get"])
    first = tool.call('{"pet id": "1"}')
    assert first.startswith("[simulated] {")
    assert isinstance(json.loads(first.removeprefix("[simulated] "))["name"], str)
    assert tool.call('{"pet id": "1"}') == first
    recorded = simulate(tools(url)["get"], {'{"pet id": "2"}': "seen"})
    assert recorded.call('{"pet id":"2"}') == "[simulated] seen"


SCHEMAS = st.recursive(
    st.sampled_from([{"type": "string"}, {"type": "integer"}, {"$ref": "#/s"}, {}, None, 3, {"enum": [1]}]),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["object", "array", "file", ["string", "null"], 7]),
            "properties": st.dictionaries(st.text(max_size=3), inner, max_size=3),
            "items": inner,
            "anyOf": st.lists(inner, max_size=2),
            "required": st.sampled_from([True, ["a"], "a", None]),
            "nullable": st.booleans(),
            "minimum": st.sampled_from([1, "x"]),
            "exclusiveMinimum": st.booleans(),
        },
    ),
    max_leaves=10,
)


@given(SCHEMAS)
def test_every_schema_becomes_a_valid_one(schema: Any) -> None:
    itself = schema if isinstance(schema, dict) and "$ref" not in schema else {}
    Draft202012Validator.check_schema(json_schema({"s": itself}, schema))
