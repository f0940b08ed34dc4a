"""The description of the API: as OpenAPI for programs, and as a page to read."""

from collections.abc import Iterator
from html import escape
from importlib.metadata import version
from typing import Any

import msgspec

from runtime.server.fields import FORMATS, Edit, Generate, Inputs, Speech

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
REFUSALS = {
    400: "a field is wrong, or over a limit",
    401: "a key is needed",
    403: "a page of another site asked",
    404: "no such model or job",
    408: "the body came too slowly",
    409: "the job has no result yet",
    413: "the body is too large",
    429: "as many calls wait as may: see Retry-After",
    500: "the call failed",
    503: "the service is shutting down",
    504: "not done within timeout_s",
}
OF_A_CALL = (400, 401, 403, 404, 408, 413, 429, 500, 503, 504)
JSON, FORM = "application/json", "multipart/form-data"
FIRST = ("audio", "inputs", "input", "prompt", "transcription", "voice")  # in a table; the rest as they are declared
JOB = [{"name": "job", "in": "path", "required": True, "schema": {"type": "string"}}]
MODEL = [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}]
ASYNC = [
    {
        "name": "Prefer",
        "in": "header",
        "description": "respond-async: answer 202 with a job at once",
        "schema": {"type": "string"},
    }
]


def describe(keys: bool) -> dict[str, Any]:
    """The API in OpenAPI 3.1. `keys` says whether it needs one."""
    kinds, places = (Generate, Speech, Inputs, Edit), "#/components/schemas/{name}"
    _, schemas = msgspec.json.schema_components(kinds, ref_template=places)
    sound_field = {"type": "string", "format": "binary", "description": "the sound: a file that libsndfile reads"}
    schemas["Edit"]["properties"] = {"audio": sound_field, **schemas["Edit"]["properties"]}
    schemas["Edit"]["required"] = ["audio"]
    sound = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in sorted(set(FORMATS.values()))}
    whole = {**sound, "text/event-stream": {}}
    several = {**whole, **_json({"type": "object"}), "application/zip": {"schema": {"type": "string"}}}
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "trt-audioldm2", "version": version("trt-audioldm2")},
        "paths": {
            "/v1/audio/generate": _post("Text to sound", "Generate", several, ASYNC),
            "/v1/audio/speech": _post("Text to sound, for OpenAI's clients", "Speech", whole, ASYNC),
            "/": _post("Text to sound, for Hugging Face's clients", "Inputs", whole, ASYNC),
            "/models/{model}": _post("The same, by the model's name", "Inputs", whole, [*MODEL, *ASYNC]),
            "/v1/audio/edit": _post("A sound changed, mended or continued", "Edit", several, ASYNC, FORM),
            "/v1/jobs/{job}": {
                "get": _answers("How far a job is", _json({"type": "object"}), (401, 403, 404), JOB),
                "delete": _answers("Cancel a job and forget it", _json({"type": "object"}), (401, 403, 404), JOB),
            },
            "/v1/jobs/{job}/result": {"get": _answers("A job's sound", several, (401, 403, 404, 409), JOB)},
            "/v1/models": {"get": _answers("The model", _json({"type": "object"}), (401, 403))},
            "/v1/models/{model}": {
                "get": _answers("The model, by its name", _json({"type": "object"}), (401, 403, 404), MODEL)
            },
            "/health": {"get": _answers("The process is alive", _json({"type": "object"}), ())},
            "/ready": {"get": _answers("It is warm, and takes calls", _json({"type": "object"}), (503,))},
            "/metrics": {"get": _answers("Figures for Prometheus", {"text/plain": {}}, ())},
        },
        "components": {"schemas": {**schemas, "Error": ERROR}},
    }
    if keys:
        described["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"key": []}]
    return described


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {JSON: {"schema": schema}}


def _post(
    summary: str, body: str, content: dict[str, Any], parameters: list[dict[str, Any]], kind: str = JSON
) -> dict[str, Any]:
    answers = _answers(summary, content, OF_A_CALL, parameters)
    schema = {"schema": {"$ref": f"#/components/schemas/{body}"}}
    answers["requestBody"] = {"required": True, "content": {kind: schema}}
    answers["responses"]["202"] = {"description": "a job", "content": _json({"type": "object"})}
    return {"post": answers}


def _answers(
    summary: str, content: dict[str, Any], refusals: tuple[int, ...], parameters: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    error = _json({"$ref": "#/components/schemas/Error"})
    responses = {str(status): {"description": REFUSALS[status], "content": error} for status in refusals}
    parts = {"parameters": parameters} if parameters else {}
    return {"summary": summary, **parts, "responses": {"200": {"description": "done", "content": content}, **responses}}


def page(described: dict[str, Any]) -> str:
    """The description as HTML without scripts."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<title>trt-audioldm2: the API</title><link rel="stylesheet" href="/docs/docs.css"><main>'
        f"<h1>The API <small>{escape(described['info']['version'])}</small></h1>"
        '<p>For programs: <a href="/openapi.json">openapi.json</a>. To try it: <a href="/">the page</a>.</p>'
        f"{''.join(_sections(described))}</main></html>"
    )


def _sections(described: dict[str, Any]) -> Iterator[str]:
    schemas = described["components"]["schemas"]
    for path, methods in described["paths"].items():
        for method, told in methods.items():
            yield f"<section><h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(told['summary'])}</p>"
            body = told.get("requestBody")
            if body is not None:
                (content,) = body["content"].values()
                name = content["schema"]["$ref"].rsplit("/", 1)[1]
                yield from _table(schemas[name], schemas)
            rows = "".join(f"<li>{code}: {escape(one['description'])}" for code, one in told["responses"].items())
            yield f"<details><summary>Answers</summary><ul>{rows}</ul></details></section>"


def _table(schema: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    yield "<table><tr><th>field<th>type<th>default<th>what it is"
    for name, field in sorted(schema["properties"].items(), key=lambda item: item[0] not in FIRST):
        default = "required" if name in schema.get("required", ()) else field.get("default")
        shown = "" if default is None or isinstance(default, dict) else str(default)
        cells = escape(_type(field)), escape(shown), escape(field.get("description", ""))
        yield f"<tr><td><code>{escape(name)}</code><td>{'<td>'.join(cells)}"
    yield "</table>"
    for field in schema["properties"].values():
        if "$ref" in str(field):
            name = str(field).split("schemas/")[1].split("'")[0]
            yield f"<h3>{escape(name)}</h3>"
            yield from _table(schemas[name], schemas)


def _type(field: dict[str, Any]) -> str:
    """A field's type in words."""
    if "anyOf" in field:
        return " or ".join(_type(one) for one in field["anyOf"] if one.get("type") != "null")
    if "enum" in field:
        return ", ".join(map(str, field["enum"]))
    return str(field.get("type", "object"))
