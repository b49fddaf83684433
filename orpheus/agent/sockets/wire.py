"""What every protocol of the agent does alike: a place for the connection, its frames in order, one conversation.

A protocol is a `Wire`: it reads its client's messages into calls of the conversation, and makes frames of its events.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from fastapi import WebSocket
from starlette.types import Scope

from orpheus.agent import events as told
from orpheus.agent.agent import Agent
from orpheus.agent.conversation import Conversation
from orpheus.agent.events import Config
from orpheus.agent.sockets.realtime_schema import Session
from orpheus.agent.turns import TurnConfig
from orpheus.errors import BadRequest, OrpheusError
from orpheus.http.responses import error_response
from orpheus.server.auth import given_keys
from orpheus.server.service import SpeechService
from orpheus.server.sockets.connection import Connection, serve
from orpheus.tasks import first_of

MAX_SESSION_S = 3600.0  # OpenAI's
MAX_UNSENT = 32  # frames, beyond which nothing more is made until the client has read


class Outbox:
    """Frames on their way to the client, in order. `put` never waits; `room` does, while the client does not read."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._frames: deque[str | bytes] = deque()
        self._wanted = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()

    def put(self, frame: str | bytes) -> None:
        self._frames.append(frame)
        self._wanted.set()
        if len(self._frames) > MAX_UNSENT:
            self._drained.clear()

    @property
    def waiting(self) -> bool:
        return bool(self._frames)

    async def room(self) -> None:
        await self._drained.wait()

    async def run(self) -> None:
        while True:
            await self._wanted.wait()
            await self.flush()
            self._wanted.clear()

    async def flush(self) -> None:
        """Send what waits."""
        while self._frames:
            await self._connection.send(self._frames.popleft())
            if len(self._frames) <= MAX_UNSENT // 2:
                self._drained.set()


@asynccontextmanager
async def refusing(socket: WebSocket) -> AsyncIterator[None]:
    """Answers the handshake with the OrpheusError of the body, which has not accepted the socket by then."""
    try:
        yield
    except OrpheusError as error:
        await error_response(error)(socket.scope, socket.receive, socket.send)


async def hold(
    agent: Agent, socket: WebSocket, make: Callable[[Connection], Wire], subprotocol: str | None = None
) -> None:
    """Accept a WebSocket and serve it by the wire that `make` makes. AtCapacity while the agent is full."""
    with agent.admitted():
        await socket.accept(subprotocol)
        connection = Connection(socket, may_be_silent=True)
        await serve(connection, make(connection).run())


def session_of_keys(service: SpeechService, scope: Scope, *more: str) -> dict[str, Any]:
    """What the ephemeral keys of a request, and `more` keys, have a conversation begin with; nothing of other keys."""
    changes: dict[str, Any] = {}
    for key in (*given_keys(scope), *more):
        if (secret := service.secrets.find(key)) is not None:
            changes |= secret.session
    return changes


def by_voice_alone(session: Session) -> Config:
    """Its config for a client that can only speak and listen: it ends no turn itself, reads no text, runs no function."""
    config = session.config()
    turns = config.turns if config.turns.kind is not None else TurnConfig()
    return replace(config, modality="audio", turns=turns, tools=())


def audio_bytes(encoded: Any, param: str) -> bytes:
    """Audio as it came in JSON. BadRequest names `param` if it is none."""
    if not isinstance(encoded, str):
        raise BadRequest(
            f"Missing required parameter: '{param}', base64 audio.",
            param=param,
            code="missing_required_parameter",
        )
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest(f"Invalid '{param}': it is not base64.", param=param, code="invalid_value") from None


class Wire(ABC):
    """One accepted connection."""

    # Seconds without a frame, after which `keep_alive` is called; None: KEEP_ALIVE_S.
    max_quiet_s: float | None = None

    def __init__(self, agent: Agent, service: SpeechService, connection: Connection) -> None:
        self.service = service
        self.connection = connection
        self.outbox = Outbox(connection)
        self.conversation: Conversation | None = None  # once the agent is loaded
        self._agent = agent

    async def run(self) -> None:
        """Returns when the protocol or the time is over; raises what `Connection` does, and OrpheusError."""
        self.begin()
        try:
            async with asyncio.timeout(MAX_SESSION_S):
                await first_of(
                    self.outbox.run(),
                    self._hold(),
                    self.connection.keep_alive(self._stay_alive, self.max_quiet_s),
                )
        except TimeoutError:
            minutes = MAX_SESSION_S / 60
            self.fail(
                BadRequest(
                    f"Your session hit the maximum duration of {minutes:g} minutes.", code="session_expired"
                )
            )
        await self.outbox.flush()

    async def _hold(self) -> None:
        ports = await self._agent.loaded()
        self.conversation = conversation = Conversation(
            ports, self.service, self.tell, self.outbox.room, self._agent.metrics, self.config
        )
        try:
            await first_of(self.read(conversation), conversation.run())
        finally:
            await conversation.aclose()

    async def _stay_alive(self) -> None:
        if not self.outbox.waiting:
            self.keep_alive()

    @property
    @abstractmethod
    def config(self) -> Config:
        """What the conversation begins with."""

    def begin(self) -> None:  # noqa: B027 - some have nothing to say
        """Before the agent is loaded."""

    @abstractmethod
    async def read(self, conversation: Conversation) -> None:
        """The client's messages, until it leaves (WebSocketDisconnect) or the protocol ends."""

    @abstractmethod
    def tell(self, event: told.Event) -> None:
        """Put frames of an event into the outbox."""

    @abstractmethod
    def fail(self, error: OrpheusError) -> None:
        """Put an error into the outbox."""

    @abstractmethod
    def keep_alive(self) -> None:
        """Put something into the outbox that clients ignore: a proxy closes what is silent."""
