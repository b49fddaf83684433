"""Ephemeral keys: a server that has a key gets one for a browser, which may open one kind of WebSocket with it for a while.

OpenAI's client secrets (`POST /v1/realtime/client_secrets`). Nothing is kept: an ephemeral key says itself what it is
for, signed with the API key it stands for, so any process with the same keys takes it. Where there are several containers,
the one that a browser reaches is rarely the one that made its key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orpheus.errors import BadRequest

PREFIX = "ek_"
LIFE_S_MIN, LIFE_S_MAX, LIFE_S = 10, 7200, 600  # OpenAI's
MAX_CHARS = 7000  # of one: it is sent in a header, and a line of those may have 8 KB
_PURPOSE = b"orpheus client secret"


@dataclass(frozen=True)
class ClientSecret:
    value: str
    expires_s: float  # of time.time()
    session: Mapping[str, Any]  # what its conversations begin with
    key: int | None  # the index of the key it stands for, if there are keys


class ClientSecrets:
    def __init__(self, keys: Sequence[str] = ()) -> None:
        """`keys` are the API keys. One that stands for none is known to this process alone."""
        self._signing: dict[int | None, bytes] = {
            index: hmac.digest(key.encode(), _PURPOSE, hashlib.sha256) for index, key in enumerate(keys)
        }
        self._signing[None] = secrets.token_bytes(32)

    def mint(
        self, session: Mapping[str, Any], life_s: float = LIFE_S, key: int | None = None
    ) -> ClientSecret:
        """BadRequest if the session is too long to be sent in a header."""
        expires_s = time.time() + life_s
        said = json.dumps([expires_s, session], separators=(",", ":")).encode()
        body = base64.urlsafe_b64encode(zlib.compress(said, 9)).decode().rstrip("=")
        value = f"{PREFIX}{body}.{_signature(self._signing[key], body)}"
        if len(value) > MAX_CHARS:
            raise BadRequest(
                "The session is too long for an ephemeral key: leave its instructions or tools to session.update.",
                param="session",
            )
        return ClientSecret(value, expires_s, session, key)

    def find(self, value: str) -> ClientSecret | None:
        """The secret, unless it has expired. It may be used more than once: a browser connects again."""
        body, _, signature = value.removeprefix(PREFIX).partition(".")
        if not value.startswith(PREFIX) or len(value) > MAX_CHARS or not value.isascii():
            return None
        for key, signing in self._signing.items():
            if hmac.compare_digest(signature, _signature(signing, body)):
                said = zlib.decompress(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
                expires_s, session = json.loads(said)
                return ClientSecret(value, expires_s, session, key) if expires_s > time.time() else None
        return None


def _signature(signing: bytes, body: str) -> str:
    return hmac.digest(signing, body.encode(), hashlib.sha256).hex()
