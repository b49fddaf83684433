"""What the handshake of a WebSocket asks for, where one path has several protocols."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import Scope

REALTIME = "realtime"  # OpenAI's Realtime, as subprotocol
BETA = "openai-beta.realtime-v1"  # the same as it was in its beta
BETA_HEADER, BETA_VALUE = "openai-beta", "realtime=v1"


def asks_for_realtime(scope: Scope) -> bool:
    """Whether it asks for OpenAI's Realtime, of today or of the beta."""
    return REALTIME in scope.get("subprotocols", ()) or asks_for_beta(scope)


def asks_for_beta(scope: Scope) -> bool:
    asked = Headers(scope=scope).get(BETA_HEADER, "").replace(" ", "").lower().split(",")
    return BETA_VALUE in asked or BETA in scope.get("subprotocols", ())


def realtime_answer(scope: Scope) -> str | None:
    """The subprotocol to accept: a browser that offers some fails without one of them."""
    return next((name for name in (REALTIME, BETA) if name in scope.get("subprotocols", ())), None)
