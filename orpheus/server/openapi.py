"""Descriptions of the responses in the OpenAPI document: statuses, content types and headers."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from orpheus.tts.encode import CONTENT_TYPES

_REASONS = {
    400: "The request is invalid; `param` names the field",
    401: "The API key is missing or not valid",
    403: "A web page of another origin asked for it",
    404: "There is no such resource",
    413: "The body is longer than 1 MiB, or a recording than 20 MiB",
    429: "At capacity; try again after `Retry-After` seconds",
    500: "Generation or decoding failed",
    502: "Tier 1 sent an invalid response or broke off",
    503: "Starting, shutting down, or unable to reach tier 1",
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_BINARY = {"type": "string", "format": "binary"}
_EVENT = {  # each event of the stream: `data` is JSON of type speech.audio.delta, speech.audio.done or error
    "type": "object",
    "required": ["data"],
    "properties": {"data": {"type": "string"}},
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses=` for a route that may fail with these statuses."""
    return {
        status: {"description": _REASONS[status], "content": {"application/json": {"schema": _ERROR}}}
        for status in statuses
    }


def audio() -> dict[int | str, dict[str, Any]]:
    """`responses=` for a route that returns speech."""
    kinds = {kind.split(";")[0]: {"schema": _BINARY} for kind in CONTENT_TYPES.values()}
    headers = {
        "X-Sample-Rate": {"description": "Hz", "schema": {"type": "integer"}},
        "X-Input-Chars": {"description": "characters of the text", "schema": {"type": "integer"}},
        "X-Left-Out-Chars": {
            "description": "letters of the text that the voice cannot speak, if there are any",
            "schema": {"type": "integer"},
        },
        "X-Cache": {"description": "hit or miss, if the request can be cached", "schema": {"type": "string"}},
    }
    ok = {
        "description": "The audio as it is generated, or server-sent events that carry it",
        "content": {**kinds, "text/event-stream": {"schema": _EVENT}},
        "headers": headers,
    }
    return {200: ok, **errors(400, 401, 413, 429, 500, 502, 503)}


def describe(app: FastAPI, *, keys: bool) -> None:
    """Correct FastAPI's assumptions: an invalid body is a 400 here. `keys`: whether the server requires API keys."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        document = generate()
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        schemas = document.get("components", {}).get("schemas", {})
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        if keys:
            schemes = {"bearer": {"type": "http", "scheme": "bearer"}}
            document.setdefault("components", {})["securitySchemes"] = schemes
            document["security"] = [{"bearer": []}]
        return document

    app.openapi = openapi  # type: ignore[method-assign]
