"""API keys: requests without one of ORPHEUS_API_KEYS get a 401, keys with too many requests at once a 429.

A key is read from `Authorization: Bearer`, `x-api-key` or `kyutai-api-key`, and for WebSockets and speech by GET, which
browsers ask for without headers, also from `?api_key=`, moshi's `?auth_id=` and `?worker_auth_id=`, or OpenAI's subprotocol
`openai-insecure-api-key.KEY`; a conversation also takes an ephemeral key, which stands for the one that it was got with
(client_secrets.py). A call from Twilio may bring its key in its first message, which its protocol reads. One valid key
among them is enough, so a proxy's token (Modal's `wk-….ws-…`) may occupy Authorization while ours comes in `x-api-key`.
Pure ASGI.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from orpheus.bookings import Bookings, UsualTime
from orpheus.errors import AtCapacity, OrpheusError, Unauthorized
from orpheus.http.responses import error_response
from orpheus.server import page
from orpheus.server.client_secrets import ClientSecrets
from orpheus.server.offers import asks_for_realtime
from orpheus.settings import Settings, keys_in

# For load balancers, scrapers and people with a browser. None of it costs work.
_OPEN = frozenset(
    (
        "/",
        "/health",
        "/v1/health",
        "/ready",
        "/live",
        "/metrics",
        "/docs",
        "/docs/oauth2-redirect",
        "/redoc",
        "/openapi.json",
        "/api/build_info",
        "/api/modules_info",
    )
)
_CATALOG = frozenset(("/v1/models", "/v1/audio/models", "/v1/audio/voices", "/v1/voices", "/v1/test", "/v1/"))
_SPEECH = "/v1/audio/speech"  # the one GET that is work
# Conversations, which ephemeral keys are for.
MOSHI = ("/api/chat", "/api")
TWILIO = ("/v1/twilio", "/media-stream")  # the latter is the name in Twilio's own samples
_CONVERSATIONS = frozenset(("/v1/realtime", "/realtime", *MOSHI, *TWILIO))
_SHARED = "/ws"  # also of another protocol, which is none
_SUBPROTOCOL = "openai-insecure-api-key."  # browsers can set no header, but this one
KEY_INDEX = "orpheus.key"  # of a request, in its scope


class ApiKeys:
    """The keys that are accepted, and the requests of each in progress."""

    def __init__(self, settings: Settings, usual: UsualTime, secrets: ClientSecrets) -> None:
        """`usual`: how long an utterance takes, for Retry-After."""
        self._secrets = secrets
        # Digests have equal lengths, so a comparison takes the same time whatever is wrong with a key.
        self._keys = [_digest(key) for key in keys_in(settings.api_keys)]
        self._limit = settings.max_requests_per_key
        # By index of the key: when its requests in progress began.
        self._since_s: defaultdict[int, list[float]] = defaultdict(list)
        self._bookings = [Bookings(self._limit or 1, usual) for _ in self._keys]

    @property
    def needed(self) -> bool:
        return bool(self._keys)

    def find(self, given: Iterable[str], *, ephemeral: bool) -> int | None:
        """The index of the valid key. Every pair is compared, in constant time, whether or not one matches.

        `ephemeral`: one that was got with a key stands for it.
        """
        found = None
        for key in given:
            if ephemeral and (secret := self._secrets.find(key)) is not None and secret.key is not None:
                found = secret.key
            digest = _digest(key)
            for index, known in enumerate(self._keys):
                if hmac.compare_digest(digest, known):
                    found = index
        return found

    @contextmanager
    def counted(self, key: int) -> Iterator[None]:
        """Counts one request of a key while the body runs. AtCapacity, with a time, if there are too many."""
        if self._limit is None:
            yield
            return
        now_s, active_s = time.monotonic(), self._since_s[key]
        if len(active_s) >= self._limit:
            raise AtCapacity(
                f"This API key is at its limit of {self._limit} requests; try again in a moment.",
                retry_after_s=self._bookings[key].book([now_s - since_s for since_s in active_s]),
            )
        self._bookings[key].taken()
        active_s.append(now_s)
        try:
            yield
        finally:
            active_s.remove(now_s)


class ApiKeyAuth:
    """Passes a request on, or answers 401 or 429 itself; a WebSocket is rejected before it is accepted."""

    def __init__(self, app: ASGIApp, settings: Settings, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys
        self._unmute_open = settings.unmute_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or not self._keys.needed or self._is_open(scope):
            await self._app(scope, receive, send)
            return
        key = self._keys.find(given_keys(scope), ephemeral=_is_conversation(scope))
        if key is None and scope["type"] == "websocket" and scope["path"] in TWILIO:
            await self._app(scope, receive, send)  # its key comes with its first message
            return
        if key is None:
            problem = "This API key is not valid." if any(given_keys(scope)) else "An API key is required."
            error: OrpheusError = Unauthorized(
                f"{problem} Send one of ORPHEUS_API_KEYS as 'Authorization: Bearer', 'x-api-key', or, for a "
                "WebSocket or a GET of speech, '?api_key='."
            )
            await error_response(error)(scope, receive, send)
            return
        scope[KEY_INDEX] = key
        with ExitStack() as held:
            if _is_work(scope):
                try:
                    held.enter_context(self._keys.counted(key))
                except AtCapacity as full:
                    await error_response(full)(scope, receive, send)
                    return
            await self._app(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        path: str = scope["path"]
        if scope["type"] == "websocket":
            return self._unmute_open and path == "/api/tts_streaming"
        if path in _OPEN or path.startswith(page.FILES):
            return True
        reads: bool = scope["method"] in ("GET", "HEAD")
        return reads and (path in _CATALOG or path.startswith("/v1/models/"))


def given_keys(scope: Scope) -> Iterator[str]:
    """Every key that a request came with, valid or not."""
    headers = Headers(scope=scope)
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        yield token.strip()
    for name in ("x-api-key", "kyutai-api-key"):
        if value := headers.get(name):
            yield value
    if scope["type"] == "websocket" or _is_spoken_url(scope):
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        yield from query.get("api_key", ())
        yield from query.get("auth_id", ())
        yield from query.get("worker_auth_id", ())
    for protocol in scope.get("subprotocols", ()):
        if protocol.startswith(_SUBPROTOCOL):
            yield protocol.removeprefix(_SUBPROTOCOL)


def _is_conversation(scope: Scope) -> bool:
    if scope["type"] != "websocket":
        return False
    return scope["path"] in _CONVERSATIONS or (scope["path"] == _SHARED and asks_for_realtime(scope))


def _is_work(scope: Scope) -> bool:
    """Whether a request holds resources for a while and counts towards the limit of its key."""
    return bool(scope["type"] == "websocket" or scope["method"] == "POST" or _is_spoken_url(scope))


def _is_spoken_url(scope: Scope) -> bool:
    return bool(scope["method"] == "GET" and scope["path"] == _SPEECH)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
