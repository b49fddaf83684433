"""Bodies that are made to cost much, or to be quoted at length: each is to be refused in one short sentence."""

from __future__ import annotations

import json
from typing import Any

from orpheus.http.body_limit import MAX_BODY_BYTES

LONG = "x" * 1_000_000


def speech_body(**fields: Any) -> bytes:
    return json.dumps({"input": "Hello there.", "voice": "tara"} | fields).encode()


SPEECH_BODIES = {
    "a long input": speech_body(input=LONG),
    "a list for the input": speech_body(input=["x"] * 200_000),
    "nulls for the input": speech_body(input=[None] * 150_000),
    "a long voice": speech_body(voice=LONG),
    "a voice of a long id": speech_body(voice={"id": LONG}),
    "a list for the voice": speech_body(voice=[None] * 150_000),
    "a voice of many keys": speech_body(voice=dict.fromkeys(map(str, range(60_000)))),
    "long instructions": speech_body(instructions=LONG),
    "a list for the instructions": speech_body(instructions=["x"] * 100_000),
    "a long format": speech_body(response_format=LONG),
    "a list for the format": speech_body(response_format=[1] * 100_000),
    "a long speed": speech_body(speed="9" * 1_000_000),
    "a long seed": speech_body(seed="9" * 1_000_000),
    "a list for the seed": speech_body(seed=[1] * 100_000),
    "an infinite speed": b'{"input": "Hello.", "speed": 1e999}',
    "no number": b'{"input": "Hello.", "temperature": NaN}',
    "half an emoji for a voice": b'{"input": "Hello.", "voice": "\\ud83d"}',
    "half an emoji for a format": b'{"input": "Hello.", "response_format": "\\ud83d"}',
    "half a character": b'{"input": "\xf0\x9f\x98"}',
    "a number of a megabyte": b'{"input": %b}' % (b"9" * 1_000_000),
    "open arrays": b'{"input": ' + b"[" * 1_000_000,
    "arrays": b'{"input": [' + b",".join([b"[]"] * 300_000) + b"]}",
    "deep objects": b'{"a":' * 150_000,
}


def repeated(item: str, *, name: str = "prompt", around: str = "%s") -> bytes:
    """A body just below the limit, whose list `name` holds `item` as often as fits."""
    head = "" if name == "prompt" else '"prompt": "x", '
    count = (MAX_BODY_BYTES - 200) // (len(item) + 1)
    items = "[" + ",".join([item] * count) + "]"
    body = ("{" + head + f'"{name}": {around % items}' + "}").encode()
    assert len(body) <= MAX_BODY_BYTES
    return body


# With the field that is to be named, if one is.
COMPLETION_BODIES = {
    "nulls": (repeated("null"), "prompt"),
    "nulls in a batch of one": (repeated("null", around="[%s]"), "prompt"),
    "two lists of ids": (repeated("1", around="[[1], %s]"), "prompt"),
    "floats": (repeated("1.5"), "prompt"),
    "texts": (repeated('"a"'), "prompt"),
    "ids": (repeated("1"), "prompt"),
    "null stops": (repeated("null", name="stop"), "stop"),
    "a nested stop": (repeated("null", name="stop", around="[%s]"), "stop"),
    "a long stop": (json.dumps({"prompt": "x", "stop": "s" * 1_000_000}).encode(), "stop"),
    "stop ids": (repeated("1", name="stop_token_ids"), "stop_token_ids"),
    "null stop ids": (repeated("null", name="stop_token_ids"), "stop_token_ids"),
    "a list for a number": (repeated("1", name="max_tokens"), "max_tokens"),
    "a long text for a number": (json.dumps({"prompt": "x", "seed": "9" * 1_000_000}).encode(), "seed"),
    "a list for a flag": (repeated("null", name="stream"), "stream"),
    "a list for options": (repeated("null", name="stream_options"), "stream_options"),
    "a long prompt": (json.dumps({"prompt": "a" * 1_000_000}).encode(), "prompt"),
    "a prompt of an object": (json.dumps({"prompt": dict.fromkeys(map(str, range(50_000)))}).encode(), "prompt"),
    "infinity": (b'{"prompt": "x", "temperature": 1e999}', "temperature"),
    "no number": (b'{"prompt": "x", "top_p": NaN}', "top_p"),
    "an infinite seed": (b'{"prompt": "x", "seed": Infinity}', "seed"),
    "an id of 4,000 digits": (b'{"prompt": [%b]}' % (b"9" * 4000), "prompt"),
    "a seed of 4,000 digits": (b'{"prompt": "x", "seed": %b}' % (b"9" * 4000), "seed"),
    "arrays": (repeated("[]"), None),
    "arrays in an unknown key": (repeated("[[[[]]]]", name="metadata"), None),
    "objects": (repeated("{}", name="metadata"), None),
    "open arrays": (b'{"prompt": ' + b"[" * 1_000_000, None),
    "deep arrays": (b'{"prompt": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", None),
    "a number of a megabyte": (b'{"prompt": %b}' % (b"9" * 1_000_000), None),
    "half a character": (b'{"prompt": "\xf0\x9f\x98"}', None),
}  # fmt: skip

# Odd, and served.
ODD_COMPLETION_BODIES = {
    "a long logit_bias": b'{"prompt": "x", "max_tokens": 7, "logit_bias": {%b}}'
    % b",".join(b'"%d": 0' % number for number in range(80_000)),
    "repeated keys": b'{"max_tokens": 7, "prompt": "y", %b "prompt": "x"}' % (b'"prompt": "z", ' * 60_000),
    "a long user": b'{"prompt": "x", "max_tokens": 7, "user": "%b"}' % (b"u" * 1_000_000),
    "half an emoji": b'{"prompt": "Half an emoji: \\ud83d.", "max_tokens": 7}',
    "half an emoji for a model": b'{"prompt": "x", "max_tokens": 7, "model": "\\ud83d"}',
    "a NUL": b'{"prompt": "x\\u0000y", "max_tokens": 7}',
    "half an emoji for a stop": b'{"prompt": "x", "max_tokens": 7, "stop": ["\\ud83d"], "constrained": false}',
}
