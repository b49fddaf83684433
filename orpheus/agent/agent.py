"""What every conversation shares: the ports, loaded in the background, and how many conversations at once."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from orpheus.agent.conversation import Ports
from orpheus.agent.events import Config
from orpheus.agent.hear import load_recognizer
from orpheus.agent.metrics import AgentMetrics
from orpheus.agent.think import Message, load_thinker
from orpheus.agent.vad import VoiceActivity
from orpheus.bookings import Bookings, UsualTime
from orpheus.errors import AtCapacity, NotReady, OrpheusError
from orpheus.http.loading import BackgroundLoad
from orpheus.server.service import SpeechService
from orpheus.settings import Settings
from orpheus.tasks import cancel_and_wait

log = logging.getLogger(__name__)

REMOTE_CONVERSATIONS = 16  # unless the setting says otherwise
CORES_EACH = 2  # of a conversation whose recogniser or language model is embedded


def load_ports(settings: Settings) -> Ports:
    """What the settings name. Blocks while it loads; SetupError if something is missing."""
    return Ports(VoiceActivity.load(), load_recognizer(settings), load_thinker(settings))


class Agent:
    """The ports, loaded or loading, and the conversations in progress."""

    def __init__(self, service: SpeechService, settings: Settings, load: Callable[[Settings], Ports]) -> None:
        self.metrics = AgentMetrics(service.metrics.registry)
        self.limit = settings.max_conversations or _usual_limit(settings)
        self._service = service
        self._loading = BackgroundLoad(lambda: load(settings), _close, "agent")
        self._warming: asyncio.Task[None] | None = None
        self._warm = False
        self._since_s: list[float] = []  # when the conversations in progress began
        self._usual = UsualTime()
        self._bookings = Bookings(self.limit, self._usual)
        service.checks.append(self.problem)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Loads in the background while the body runs; frees everything after it."""
        async with self._loading:
            self._warming = asyncio.create_task(self._warm_up())
            try:
                yield
            finally:
                await cancel_and_wait([self._warming])

    async def _warm_up(self) -> None:
        """The first conversation should not wait for what only the first needs."""
        try:
            with suppress(OrpheusError):  # logged where it happened
                ports = await self._loading.wait()
                for warming in (
                    ports.recognizer.warm_up(),
                    ports.thinker.warm_up([Message("system", Config().instructions)]),
                ):
                    try:
                        await warming
                    except OrpheusError as error:  # each conversation will tell
                        log.warning("the agent could not warm up: %s", error)
        finally:
            self._warm = True

    @property
    def ports(self) -> Ports:
        """What was loaded. NotReady says why there is nothing."""
        return self._loading.ready()

    async def loaded(self) -> Ports:
        """What a conversation needs, once it is there. NotReady if it never will be."""
        try:
            return await self._loading.wait()
        except OrpheusError as error:
            raise NotReady(f"The agent could not be loaded: {error}") from error

    def problem(self) -> str | None:
        """What keeps a conversation from being held now, in a sentence."""
        try:
            self._loading.ready()
        except NotReady as error:
            return str(error)
        return None if self._warm else "The agent is warming up: try again shortly."

    def check_room(self) -> None:
        """AtCapacity, with a time to try again, if there are too many conversations; NotReady once no more are held."""
        self._service.admission.check_open()
        if self.is_full:
            now_s = time.monotonic()
            raise AtCapacity(
                f"The agent is at its limit of {self.limit} conversation{'s' * (self.limit > 1)}; try again in a "
                "moment, or raise ORPHEUS_MAX_CONVERSATIONS.",
                retry_after_s=self._bookings.book([now_s - since_s for since_s in self._since_s]),
            )

    @property
    def is_full(self) -> bool:
        return len(self._since_s) >= self.limit

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Counts one conversation, or one recording to be answered, while the body runs. Raises as `check_room`."""
        self.check_room()
        now_s = time.monotonic()
        self._since_s.append(now_s)
        self._bookings.taken()
        self.metrics.conversations.inc()
        try:
            yield
        finally:
            self._since_s.remove(now_s)
            self.metrics.conversations.dec()
            self._usual.add(time.monotonic() - now_s)


def _usual_limit(settings: Settings) -> int:
    if settings.llm_url and settings.stt_url:
        return REMOTE_CONVERSATIONS
    return max(1, (os.cpu_count() or 1) // CORES_EACH)


async def _close(ports: Ports) -> None:
    await ports.recognizer.aclose()
    await ports.thinker.aclose()
