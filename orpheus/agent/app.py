"""The agent on tier 2's application. conversation.py says what happens in a conversation, sockets/ how it is told."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI

from orpheus.agent import speech_to_speech
from orpheus.agent.agent import Agent, load_ports
from orpheus.agent.conversation import Ports
from orpheus.agent.sockets import moshi, realtime, twilio, unmute_frontend
from orpheus.agent.wyoming import House
from orpheus.server.service import SpeechService
from orpheus.settings import Settings


def install(
    app: FastAPI,
    service: SpeechService,
    settings: Settings,
    load: Callable[[Settings], Ports] = load_ports,
    *,
    house: socket.socket | None = None,
) -> Agent:
    """Add the agent's routes, and its start and end to the application's. `load` makes its ports, in a thread.

    `house`: a listening socket for Wyoming.
    """
    agent = Agent(service, settings, load)
    app.include_router(
        speech_to_speech.routes(
            service, lambda: agent.ports.recognizer, lambda: agent.ports.thinker, agent.admitted
        )
    )
    for protocol in (realtime, moshi, twilio):
        app.include_router(protocol.routes(agent, service))
    app.router.routes.insert(0, realtime.OfferedRoute(agent, service))
    app.router.routes[:0] = unmute_frontend.routes(agent, service).routes
    below = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with AsyncExitStack() as stack:
            state = await stack.enter_async_context(below(app))
            await stack.enter_async_context(agent.running())
            if house is not None:
                await stack.enter_async_context(House(agent, service).serving(house))
            yield state

    app.router.lifespan_context = lifespan
    return agent
