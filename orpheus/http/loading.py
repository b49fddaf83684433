"""Loads in the background, while the server already answers and can report what is still loading."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from orpheus.errors import NotReady, OrpheusError, in_a_sentence

T = TypeVar("T")

_log = logging.getLogger(__name__)


class BackgroundLoad(Generic[T]):
    """Something that takes long to load: still loading, loaded, or failed for a reason.

    `async with` starts the load and at the end closes what was loaded, even if it arrives later. Things that need each
    other are loaded one after the other by one `load`.
    """

    def __init__(
        self, load: Callable[[], T], close: Callable[[T], Coroutine[Any, Any, object]], name: str
    ) -> None:
        """`load` may block: it runs in a thread. `name` completes "The … is loading"."""
        self._load = load
        self._close = close
        self._name = name
        self.waits_for: str | None = None  # a sentence that `load` may set: what keeps it waiting
        self.took_s: float | None = None  # to load
        self._lock = threading.Lock()
        self._closing = False
        self._future: Future[T] = Future()
        self._future.set_running_or_notify_cancel()  # so that who stops waiting for it does not cancel it

    @property
    def done(self) -> bool:
        """Whether it is loaded, or has failed."""
        return self._future.done()

    @property
    def failure(self) -> OrpheusError | None:
        """Why loading failed for good, if it did."""
        error = self._future.exception() if self._future.done() else None
        assert error is None or isinstance(error, OrpheusError)
        return error

    def ready(self) -> T:
        """What was loaded; NotReady says why there is nothing."""
        if not self._future.done():
            raise NotReady(self.waits_for or f"The {self._name} is loading: try again shortly.")
        if self.failure is not None:
            raise NotReady(f"The {self._name} could not be loaded: {self.failure}")
        return self._future.result()

    async def wait(self) -> T:
        """What was loaded, once it is there. Raises the failure."""
        return await asyncio.wrap_future(self._future)

    async def aclose(self) -> None:
        """Close what was loaded, now or as soon as it arrives."""
        with self._lock:
            closing, self._closing = self._closing, True
            loaded = self._future.done() and self.failure is None
        if loaded and not closing:
            await self._close(self._future.result())

    async def __aenter__(self) -> BackgroundLoad[T]:
        # A thread that does not delay the end of the process: a load may be a download of gigabytes.
        threading.Thread(target=self._run, name="orpheus-load", daemon=True).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _run(self) -> None:
        began_s = time.monotonic()
        try:
            loaded = self._load()
            self.took_s = time.monotonic() - began_s
        except Exception as error:
            failure = in_a_sentence(error)
            unexpected = not isinstance(error, OrpheusError | ModuleNotFoundError)
            _log.error("The %s could not be loaded: %s", self._name, failure, exc_info=unexpected)
            self._future.set_exception(failure)
        else:
            with self._lock:
                self._future.set_result(loaded)
                late = self._closing
            if late:
                asyncio.run(self._close(loaded))
