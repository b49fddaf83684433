"""Prompts → streams of token frames: one thread that steps all streams through one llama.cpp context.

Knows nothing of HTTP. The event loop talks to the thread through one lock and gets one call back a step.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpheus.errors import AtCapacity, EngineError, NotReady, OrpheusError
from orpheus.llama.engine_config import EngineConfig
from orpheus.llama.metrics import EngineMetrics, Stats
from orpheus.llama.prompt_tokens import prompt_ids, room
from orpheus.llama.scheduler import TokenSequence
from orpheus.llama.steps import Steps
from orpheus.llama.stream import Completion, CompletionChunk, Item, Stream
from orpheus.settings import Settings

if TYPE_CHECKING:
    from orpheus.llama.backend import Context, Model

__all__ = ["Completion", "CompletionChunk", "Engine", "Stream"]

PAUSE_CHECK_S = 0.25  # how often a thread with nothing but paused streams looks for readers that never return
_log = logging.getLogger(__name__)


class Engine:
    """Tier 1 without HTTP. `submit` from any event loop; `close` when done."""

    def __init__(
        self,
        model: Model,
        open_context: Callable[[], Context],
        config: EngineConfig,
        on_death: Callable[[OrpheusError], None] = lambda _: None,
    ) -> None:
        """Start the decode thread, make the context and warm it up. `load` is the usual way in.

        `on_death` is told, in the decode thread, why the engine will never answer again.
        """
        self.vocabulary = model.vocabulary
        self.config = config
        self.stats = Stats()
        self.metrics = EngineMetrics(self.stats, config.streams, self._gauges)
        self._model = model
        self._on_death = on_death
        self._steps = Steps(model.vocabulary, open_context, config, self.stats, self.metrics)
        # Shared with the event loop, under the lock:
        self._news = threading.Condition()
        self._jobs: dict[Stream, TokenSequence[Stream]] = {}
        self._arrived: list[TokenSequence[Stream]] = []
        self._left: list[Stream] = []
        self._closing = False
        self._dead: OrpheusError | None = None
        self._opened = threading.Event()
        self._thread = threading.Thread(target=self._run, name="orpheus-decode", daemon=True)
        self._thread.start()
        self._opened.wait()
        if self._dead:
            self.close()
            raise self._dead

    @classmethod
    def load(
        cls, model_path: Path, settings: Settings, on_death: Callable[[OrpheusError], None] = lambda _: None
    ) -> Engine:
        """Load a GGUF; blocks for seconds. WeightsError or SetupError with one clear sentence."""
        from orpheus import llamacpp

        gpu = settings.gpu_layers != 0 and llamacpp.gpu_available()
        config = EngineConfig.from_settings(settings, gpu=gpu)
        return cls.open(model_path, config, settings.gpu_layers, on_death)

    @classmethod
    def open(
        cls,
        model_path: Path,
        config: EngineConfig,
        gpu_layers: int = 0,
        on_death: Callable[[OrpheusError], None] = lambda _: None,
    ) -> Engine:
        """`load` with every size given."""
        from orpheus.llama import backend

        model = backend.Model(model_path, gpu_layers)
        return cls(model, lambda: backend.Context(model, config.context()), config, on_death)

    def tokenize_prompt(self, prompt: str) -> tuple[int, ...]:
        """Ids of a text prompt.

        A turn, whole or in a community form, becomes the trained ids, and nothing inside it can become a control
        token. Anything else is tokenized as llama-server does: specials parsed, and the BOS the file declares.
        """
        return prompt_ids(self._model, prompt)

    def tokenize_fragment(self, text: str) -> list[int]:
        """Ids of a text between ids in a mixed prompt: specials parsed, nothing added."""
        return self._model.tokenize(text, add_bos=False, parse_special=True)

    def piece(self, token: int) -> bytes:
        """The bytes of a token, which may be part of a character."""
        return self._model.piece(token)

    def submit(self, completion: Completion) -> Stream:
        """Begin a completion, or queue it; from an event loop.

        BadRequest: it cannot fit a slot. AtCapacity: every place is taken. NotReady: the engine is dead.
        """
        limit, first_slot = room(completion, self.vocabulary, self.config.context_tokens)
        sampling = completion.sampling
        if sampling.seed is None:
            sampling = sampling.with_seed(secrets.randbits(64))
        config = self.config
        stream = Stream(completion, time.monotonic(), self._cancel, self._wake, config.stream_frames // 2)
        job = TokenSequence(stream, completion.prompt, limit, sampling, first_slot)
        with self._news:
            self.check()
            if self._closing:
                raise EngineError("The engine is closed.")
            if len(self._jobs) >= config.streams + config.waiting:
                self.stats.rejected += 1
                raise AtCapacity(
                    f"All {config.streams} streams are busy and {config.waiting} wait: try again shortly.",
                    retry_after_s=math.ceil(self.stats.stream_s / config.streams),
                )
            self._jobs[stream] = job
            self._arrived.append(job)
            self._news.notify()
        return stream

    def check(self) -> None:
        """NotReady where the engine is dead: the process ends, and another may be started."""
        if self._dead:
            raise NotReady(str(self._dead))

    def load_report(self) -> dict[str, Any]:
        """What is in flight and how fast steps are, for `/health`."""
        stats, config = self.stats, self.config
        busy_s = sum(stats.part_s.values())
        return {
            **self._gauges(),
            "streams": config.streams,
            "waiting_limit": config.waiting,
            "context_tokens": config.context_tokens,
            "threads": config.threads,
            "batch_invariant": self._steps.batch_invariant,
            "tokens": stats.tokens,
            "step_ms": round(busy_s / stats.steps * 1e3, 3) if stats.steps else None,
            "dead": str(self._dead) if self._dead else None,
        }

    def close(self) -> None:
        """Fail what is in flight, stop the thread and free the memory. Idempotent."""
        with self._news:
            self._closing = True
            self._news.notify()
        self._thread.join()
        self._model.close()

    def _gauges(self) -> dict[str, int]:
        active, paused = self._steps.counts
        return {"active": active, "waiting": max(0, len(self._jobs) - active), "paused": paused}

    def _cancel(self, stream: Stream) -> None:
        with self._news:
            if stream in self._jobs:
                self._left.append(stream)
                self._news.notify()

    def _wake(self) -> None:
        with self._news:
            self._news.notify()

    # What follows runs in the decode thread.

    def _run(self) -> None:
        steps = self._steps
        try:
            steps.open()
        except Exception as error:
            self._die(error)
            return
        finally:
            self._opened.set()
        try:
            while self._take_orders():
                try:
                    items = steps.step(time.monotonic())
                except Exception as error:
                    _log.exception("A step failed; its streams end and the context is made anew")
                    self._deliver(steps.fail_active(error))
                    steps.reopen()
                    continue
                self._deliver(items)
        except Exception as error:
            _log.exception("The decode thread ended")
            self._die(error)
        finally:
            steps.close()
            self._end_all(self._dead or EngineError("The engine was closed."))
            if self._dead:
                self._on_death(self._dead)

    def _take_orders(self) -> bool:
        """Take in what arrived and left; sleep where nothing can run. False when it is time to end."""
        steps = self._steps
        while True:
            with self._news:
                arrived, self._arrived = self._arrived, []
                left, self._left = self._left, []
                for job in arrived:
                    steps.add(job)
                for stream in left:
                    if job_left := self._jobs.pop(stream, None):
                        steps.drop(job_left)
                if self._closing:
                    return False
                now = time.monotonic()
                dropped = steps.check_readers(now)
                if not dropped:
                    if steps.can_run():
                        return True
                    self._news.wait(PAUSE_CHECK_S if steps.counts[0] else None)
                    continue
            self._deliver(dropped)

    def _deliver(self, items: Iterable[tuple[Stream, Item]]) -> None:
        """Hand items to their event loops: one wake-up a loop and step, not one a frame."""
        loops: dict[Any, list[tuple[Stream, Item]]] = defaultdict(list)
        for stream, item in items:
            loops[stream.loop].append((stream, item))
            if isinstance(item, OrpheusError) or item.finish_reason:
                with self._news:
                    self._jobs.pop(stream, None)
        for loop, batch in loops.items():
            try:
                loop.call_soon_threadsafe(_put_all, batch)
            except RuntimeError:  # the loop is closed, so nobody reads any more
                for stream, _ in batch:
                    self._cancel(stream)

    def _die(self, error: Exception) -> None:
        if isinstance(error, OrpheusError):
            self._dead = error
        else:
            self._dead = EngineError(f"The engine stopped: {error}. Restart it.")

    def _end_all(self, error: OrpheusError) -> None:
        with self._news:
            self._closing = True
            streams = list(self._jobs)
        self._deliver([(stream, error) for stream in streams])


def _put_all(batch: list[tuple[Stream, Item]]) -> None:
    for stream, item in batch:
        stream.put(item)
