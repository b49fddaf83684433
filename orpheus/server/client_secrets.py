"""Ephemeral keys: a server that has a key gets one for a browser, which may open one kind of WebSocket with it for a while.

OpenAI's client secrets (`POST /v1/realtime/client_secrets`). They live in this process: another one does not know them.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PREFIX = "ek_"
LIFE_S_MIN, LIFE_S_MAX, LIFE_S = 10, 7200, 600  # OpenAI's
MAX_SECRETS = 10_000  # at once: the oldest is forgotten


@dataclass(frozen=True)
class ClientSecret:
    value: str
    expires_s: float  # of time.time()
    session: Mapping[str, Any]  # what its conversations begin with
    key: int | None  # the index of the key it stands for, if there are keys


class ClientSecrets:
    def __init__(self) -> None:
        # By digest, so that the time a look-up takes says nothing of a secret.
        self._secrets: OrderedDict[bytes, ClientSecret] = OrderedDict()

    def mint(
        self, session: Mapping[str, Any], life_s: float = LIFE_S, key: int | None = None
    ) -> ClientSecret:
        now_s = time.time()
        for digest in [digest for digest, known in self._secrets.items() if known.expires_s <= now_s]:
            del self._secrets[digest]
        while len(self._secrets) >= MAX_SECRETS:
            self._secrets.popitem(last=False)
        secret = ClientSecret(PREFIX + secrets.token_hex(24), now_s + life_s, session, key)
        self._secrets[_digest(secret.value)] = secret
        return secret

    def find(self, value: str) -> ClientSecret | None:
        """The secret, unless it has expired. It may be used more than once: a browser connects again."""
        if not value.startswith(PREFIX):
            return None
        secret = self._secrets.get(_digest(value))
        return secret if secret is not None and secret.expires_s > time.time() else None


def _digest(value: str) -> bytes:
    return hashlib.sha256(value.encode()).digest()
