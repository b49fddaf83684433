"""A client's message → a map, whatever was sent, at a bounded cost to the event loop. Shared by all protocols."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import msgpack

from orpheus.http.body_limit import MAX_BODY_BYTES, check_json_parts

MAX_KEYS = 64  # of a msgpack map: they are read one by one


def read_json(message: str) -> dict[str, Any] | None:
    """A JSON object; None if the message is anything else. BadRequest if it has too many parts."""
    check_json_parts(message)
    try:
        parsed = json.loads(message)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def read_msgpack(message: bytes, keys: Collection[str]) -> dict[str, Any] | None:
    """These keys of a msgpack map, as far as it has them; None if the message is anything else.

    What other keys hold is not made into objects: unmute's Voice messages are 300 KB of numbers, and a megabyte of
    empty arrays held the event loop up for 0.2 s.
    """
    unpacker = msgpack.Unpacker(max_buffer_size=MAX_BODY_BYTES, max_array_len=0, max_map_len=0)
    found: dict[str, Any] = {}
    try:
        unpacker.feed(message)
        count = unpacker.read_map_header()
        if count > MAX_KEYS:
            return None
        for _ in range(count):
            key = unpacker.unpack()
            if isinstance(key, str) and key in keys:
                found[key] = unpacker.unpack()
            else:
                unpacker.skip()
    except Exception:  # msgpack's errors have no common base
        return None
    return found if unpacker.tell() == len(message) else None
