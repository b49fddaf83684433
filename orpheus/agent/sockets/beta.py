"""OpenAI's Realtime protocol as it was in its beta: a flat session, and other names of the same events and contents.

A client of the beta asks for it by subprotocol or header (server/offers.py), or by sending a flat session. What it sends becomes an event of
the protocol proper (realtime.py), which does all the rest; what it is sent is made of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orpheus.errors import BadRequest

TEMPERATURE = 0.8  # told of a session that has none: the beta's default

# Where the fields of the flat session are in today's.
_FIELDS = {
    "modalities": ("output_modalities",),
    "voice": ("audio", "output", "voice"),
    "speed": ("audio", "output", "speed"),
    "input_audio_format": ("audio", "input", "format"),
    "output_audio_format": ("audio", "output", "format"),
    "input_audio_transcription": ("audio", "input", "transcription"),
    "input_audio_noise_reduction": ("audio", "input", "noise_reduction"),
    "turn_detection": ("audio", "input", "turn_detection"),
    "max_response_output_tokens": ("max_output_tokens",),
}
_RESPONSE_FIELDS = ("modalities", "voice", "output_audio_format")  # the others are named as today
_FORMATS = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}
_FORMAT_NAMES = {type: name for name, type in _FORMATS.items()}
_CONTENTS = {"output_audio": "audio", "output_text": "text"}
_EVENTS = {"conversation.item.added": "conversation.item.created"} | {
    f"response.output_{kind}.{step}": f"response.{kind}.{step}"
    for kind in ("audio", "audio_transcript", "text")
    for step in ("delta", "done")
}
_UNKNOWN = "conversation.item.done"  # to the beta, an item is complete when it is created, or when its response says so


def is_flat(event: Mapping[str, Any]) -> bool:
    """Whether this is the session.update of a client of the beta that did not ask for it."""
    session = event.get("session")
    return (
        event.get("type") == "session.update"
        and isinstance(session, dict)
        and "type" not in session
        and not _FIELDS.keys().isdisjoint(session)
    )


# From the client


def client_event(event: dict[str, Any]) -> dict[str, Any]:
    """An event of the beta as one of today's. BadRequest for a format that there is not."""
    for name in ("session", "response"):
        if isinstance(given := event.get(name), dict):
            return {**event, name: nested(given, f"{name}.")}
    return event


def nested(flat: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """A flat session, or response, as today's; fields that have no other place stay as they are.

    BadRequest for a format that there is not, whose name starts with `at`.
    """
    made = {name: value for name, value in flat.items() if name not in _FIELDS}
    for name, (*above, last) in _FIELDS.items():
        if name not in flat:
            continue
        place = made
        for step in above:
            inner = place.get(step)
            place[step] = dict(inner) if isinstance(inner, dict) else {}
            place = place[step]
        place[last] = _format(at + name, flat[name]) if name.endswith("_format") else flat[name]
    return made


def _format(param: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value  # null, or what today's check will refuse
    if value not in _FORMATS:
        raise BadRequest(
            f"Invalid value: {value[:60]!r}. {param} is one of {', '.join(_FORMATS)}.",
            param=param,
            code="invalid_value",
        )
    return {"type": _FORMATS[value]}


# To the client


def server_event(event: dict[str, Any]) -> dict[str, Any] | None:
    """An event of today's as one of the beta; None if that has none."""
    type = event["type"]
    if type == _UNKNOWN:
        return None
    made = {**event, "type": _EVENTS.get(type, type)}
    if "session" in event:
        made["session"] = flat(event["session"])
    if "item" in event:
        made["item"] = _item(event["item"])
    if "response" in event:
        made["response"] = _response(event["response"])
    if type == "error":
        made["error"] = _error(event["error"])
    return made


def flat(session: Mapping[str, Any]) -> dict[str, Any]:
    """A session as it was told in the beta."""
    kept = ("id", "object", "expires_at", "model", "instructions", "tools", "tool_choice", "tracing")
    made = {name: session[name] for name in kept if name in session}
    made |= {name: _found(session, name) for name in _FIELDS}
    return {**made, "temperature": session.get("temperature", TEMPERATURE)}


def _found(body: Mapping[str, Any], name: str) -> Any:
    value: Any = body
    for step in _FIELDS[name]:
        value = value[step]
    if name.endswith("_format"):
        return _FORMAT_NAMES[value["type"]]
    if name == "modalities":
        return ["audio", "text"] if "audio" in value else ["text"]
    if name == "voice" and isinstance(value, dict):
        return value["id"]
    return value


def _response(response: Mapping[str, Any]) -> dict[str, Any]:
    made = {name: value for name, value in response.items() if name not in ("output_modalities", "audio")}
    made |= {name: _found(response, name) for name in _RESPONSE_FIELDS}
    return {**made, "output": [_item(item) for item in response["output"]]}


def _item(item: Mapping[str, Any]) -> dict[str, Any]:
    if "content" not in item:
        return dict(item)
    contents = [{**part, "type": _CONTENTS.get(part["type"], part["type"])} for part in item["content"]]
    return {**item, "content": contents}


def _error(error: Mapping[str, Any]) -> dict[str, Any]:
    """With the beta's name of what is wrong."""
    told = dict(error)
    for name, path in _FIELDS.items():
        for at in ("session", "response"):
            place = ".".join((at, *path))
            if isinstance(told["param"], str) and (told["param"] + ".").startswith(place + "."):
                named = f"{at}.{name}{told['param'].removeprefix(place)}"
                told["message"] = told["message"].replace(told["param"], named)
                return {**told, "param": named}
    return told
