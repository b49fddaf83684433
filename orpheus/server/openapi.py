"""What routes answer → the words of our OpenAPI document: statuses, content types and headers as they are.

Knows nothing of what a route does.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from orpheus.tts.encode import CONTENT_TYPES

_WHY = {
    400: "The request must be changed; `param` names the field",
    401: "No API key of this server",
    404: "There is no such thing",
    413: "The body is longer than 1 MiB",
    429: "All places are taken; come back after `Retry-After` seconds",
    500: "Generation or decoding failed",
    502: "Tier 1 answered wrongly or broke off",
    503: "Starting, stopping, or tier 1 cannot be reached",
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
    """`responses=` of a route that may answer these."""
    return {
        status: {"description": _WHY[status], "content": {"application/json": {"schema": _ERROR}}}
        for status in statuses
    }


def audio() -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route that speaks."""
    kinds = {kind.split(";")[0]: {"schema": _BINARY} for kind in CONTENT_TYPES.values()}
    headers = {
        "X-Sample-Rate": {"description": "Hz", "schema": {"type": "integer"}},
        "X-Cache": {"description": "hit or miss, where the cache was asked", "schema": {"type": "string"}},
    }
    ok = {
        "description": "The audio while it is made, or events that carry it",
        "content": {**kinds, "text/event-stream": {"schema": _EVENT}},
        "headers": headers,
    }
    return {200: ok, **errors(400, 401, 413, 429, 500, 502, 503)}


def describe(app: FastAPI, *, keys: bool) -> None:
    """Corrects what FastAPI assumes: a wrong body is a 400 here, and keys are needed only where some are set."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        document = made()
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
