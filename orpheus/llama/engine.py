"""Tier 1 without HTTP: completions in, streams of token frames out, through one thread that owns the llama.cpp context.

The event loop and the thread share a few lists under one lock. The thread hands its chunks back once per step.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
import time
from asyncio import AbstractEventLoop
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpheus import weights
from orpheus.bookings import Bookings
from orpheus.errors import AtCapacity, BadRequest, EngineError, NotReady, OrpheusError, SetupError
from orpheus.llama import trimmed_head
from orpheus.llama.completion import Completion, CompletionChunk
from orpheus.llama.engine_config import EngineConfig
from orpheus.llama.metrics import EngineMetrics, Stats
from orpheus.llama.prompt_tokens import generation_limit, prompt_ids
from orpheus.llama.scheduler import TokenSequence
from orpheus.llama.steps import Delivery, Steps
from orpheus.llama.stream import Stream
from orpheus.llama.trimmed_head import TrimmedHead
from orpheus.settings import Settings

if TYPE_CHECKING:
    from orpheus.llama.backend import Context, Model

__all__ = ["Completion", "CompletionChunk", "Engine", "Stream"]

PAUSE_CHECK_S = 0.25  # how often a thread with nothing but paused streams looks for readers that never return
_log = logging.getLogger(__name__)


class Engine:
    """`submit` completions from any event loop; `close` when done."""

    def __init__(
        self,
        model: Model,
        open_context: Callable[[], Context],
        config: EngineConfig,
        on_death: Callable[[OrpheusError], None] = lambda _: None,
    ) -> None:
        """Start the decode thread, make the context and warm it up; `load` is the usual constructor.

        `on_death` is called in the decode thread with the reason why the engine will never answer again.
        """
        self.vocabulary = model.vocabulary
        self.config = config
        told = f"{model.fingerprint} {config.context_tokens}"
        self.fingerprint = hashlib.sha256(told.encode()).hexdigest()[:16]  # of weights, adapter and context
        self.stats = Stats()
        self.metrics = EngineMetrics(self.stats, config.streams, self._stream_counts)
        self._model = model
        self._on_death = on_death
        self._steps = Steps(
            model.vocabulary, open_context, config, self.stats, self.metrics, model.outputs.start
        )
        # Shared by the event loop and the decode thread, under the lock:
        self._changed = threading.Condition()
        self._sequences: dict[Stream, TokenSequence] = {}
        self._submitted: list[TokenSequence] = []
        self._cancelled: list[Stream] = []
        self._bookings = Bookings(config.streams + config.waiting)
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
        """Load a GGUF; blocks for seconds. Raises WeightsError or SetupError.

        With a trimmed head, made if it is missing, unless unconstrained completions are to be served too.
        """
        from orpheus.gpu import find_gpu
        from orpheus.llama.gpu_memory import fit_to_gpu, uses_all_of_gpu

        lora = weights.find_lora(settings)
        gpu = find_gpu() if settings.gpu_layers else None
        if gpu is None and settings.gpu_layers > 0:
            raise SetupError(
                f"ORPHEUS_GPU_LAYERS={settings.gpu_layers} asks for a GPU, and llama.cpp finds none here: check the "
                "driver, rebuild llama.cpp for the GPU (`orpheus doctor` says how), or set -1 to use one if there is."
            )
        config = EngineConfig.from_settings(settings, gpu=gpu is not None and gpu.keeps_up)
        trimmed = None if settings.unconstrained else trimmed_head.find_or_make(model_path, lora)
        if gpu is not None and uses_all_of_gpu(settings):
            loaded = trimmed.path if trimmed else model_path
            config = fit_to_gpu(loaded, config, gpu, asked=settings.streams is not None)
        return cls.open(model_path, config, settings.gpu_layers, on_death, lora, trimmed)

    @classmethod
    def open(
        cls,
        model_path: Path,
        config: EngineConfig,
        gpu_layers: int = 0,
        on_death: Callable[[OrpheusError], None] = lambda _: None,
        lora: weights.Lora | None = None,
        trimmed: TrimmedHead | None = None,
    ) -> Engine:
        """Like `load`, with every size given in `config`."""
        from orpheus.llama import backend

        model = backend.Model(model_path, gpu_layers, lora, trimmed)
        return cls(model, lambda: backend.Context(model, config.context_options()), config, on_death)

    def tokenize_prompt(self, prompt: str, *, verbatim: bool = False) -> tuple[int, ...]:
        """Token ids of a text prompt.

        A turn, complete or in a community form, becomes the ids of the trained turn, and nothing inside it can become
        a control token. Anything else is tokenized as llama-server does: with special tokens parsed, and with the BOS
        that the file declares. `verbatim`: as it stands, with special tokens parsed and nothing added.
        """
        return prompt_ids(self._model, prompt, verbatim=verbatim)

    def tokenize_fragment(self, text: str) -> list[int]:
        """Token ids of a text between ids in a mixed prompt: special tokens parsed, nothing added."""
        return self._model.tokenize(text, add_bos=False, parse_special=True)

    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token, which may be part of a character."""
        return self._model.token_bytes(token)

    def submit(self, completion: Completion) -> Stream:
        """Start or queue a completion; call from an event loop.

        BadRequest if it cannot fit the context, or is unconstrained and the head trimmed; AtCapacity if every stream is
        busy and the queue is full; NotReady if the engine is dead.
        """
        if not completion.constrained and len(self._model.outputs) < self.vocabulary.size:
            raise BadRequest(
                "constrained must be true: tier 1 holds only the part of the model that speaks. Start it with "
                "ORPHEUS_UNCONSTRAINED=true to generate text too.",
                param="constrained",
            )
        max_tokens, first_slot = generation_limit(completion, self.vocabulary, self.config.context_tokens)
        sampling = completion.sampling
        if sampling.seed is None:
            sampling = sampling.with_seed(secrets.randbits(64))
        config = self.config
        stream = Stream(
            completion,
            submitted_s=time.monotonic(),
            on_cancel=self._cancel,
            on_resume=self._wake,
            resume_below=config.stream_frames // 2,
        )
        sequence = TokenSequence(stream, completion.prompt, max_tokens, sampling, first_slot)
        with self._changed:
            self.check()
            if self._closing:
                raise EngineError("The engine is closed.")
            if len(self._sequences) >= config.streams + config.waiting:
                self.stats.rejected += 1
                held_s = [stream.submitted_s - other.submitted_s for other in self._sequences]
                # Our own tier 2 asks many times a second for a text that is being spoken, with one seed.
                seed = completion.sampling.seed
                who = None if seed is None else (hash(completion.prompt), seed)
                raise AtCapacity(
                    f"All {config.streams} streams are busy and {config.waiting} wait: try again shortly.",
                    retry_after_s=self._bookings.book(held_s, who),
                )
            self._bookings.taken()
            self._sequences[stream] = sequence
            self._submitted.append(sequence)
            self._changed.notify()
        return stream

    def check(self) -> None:
        """NotReady if the engine is dead: the process ends, and another may be started."""
        if self._dead:
            raise NotReady(str(self._dead))

    def load_report(self) -> dict[str, Any]:
        """Streams in flight, the engine's sizes and the speed of steps, for `/health`."""
        stats, config = self.stats, self.config
        busy_s = sum(stats.part_s.values())
        return {
            **self._stream_counts(),
            "streams": config.streams,
            "waiting_limit": config.waiting,
            "context_tokens": config.context_tokens,
            "threads": config.threads,
            "device": self._model.device,
            "outputs": len(self._model.outputs),
            "batch_invariant": self._steps.batch_invariant,
            "tokens": stats.tokens,
            "step_ms": round(busy_s / stats.steps * 1e3, 3) if stats.steps else None,
            "dead": str(self._dead) if self._dead else None,
        }

    def close(self) -> None:
        """Fail what is in flight, stop the thread and free the memory. Idempotent."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        self._model.close()

    def _stream_counts(self) -> dict[str, int]:
        active, paused = self._steps.counts
        return {"active": active, "waiting": max(0, len(self._sequences) - active), "paused": paused}

    def _cancel(self, stream: Stream) -> None:
        with self._changed:
            if stream in self._sequences:
                self._cancelled.append(stream)
                self._changed.notify()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

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
            while self._wait_for_work():
                try:
                    deliveries = steps.step(time.monotonic())
                except Exception as error:
                    _log.exception("A step failed: its streams end, and the context is made anew")
                    self._deliver(steps.fail_active(error))
                    steps.reopen()
                    continue
                self._deliver(deliveries)
        except Exception as error:
            _log.exception("The decode thread ended")
            self._die(error)
        finally:
            steps.close()
            self._fail_all(self._dead or EngineError("The engine was closed."))
            if self._dead:
                self._on_death(self._dead)

    def _wait_for_work(self) -> bool:
        """Add submitted sequences, take out cancelled ones, and sleep while nothing can run; False to end."""
        steps = self._steps
        while True:
            with self._changed:
                submitted, self._submitted = self._submitted, []
                cancelled, self._cancelled = self._cancelled, []
                for sequence in submitted:
                    steps.add(sequence)
                for stream in cancelled:
                    if left := self._sequences.pop(stream, None):
                        steps.cancel(left)
                if self._closing:
                    return False
                dropped = steps.check_readers(time.monotonic())
                if not dropped:
                    if steps.can_run():
                        return True
                    self._changed.wait(PAUSE_CHECK_S if steps.counts[0] else None)
                    continue
            self._deliver(dropped)

    def _deliver(self, deliveries: Iterable[Delivery]) -> None:
        """Hand chunks and errors to their event loops: one wake-up per loop and step, not one per frame."""
        by_loop: dict[AbstractEventLoop, list[Delivery]] = defaultdict(list)
        for stream, item in deliveries:
            by_loop[stream.loop].append((stream, item))
            if isinstance(item, OrpheusError) or item.finish_reason:
                with self._changed:
                    if not isinstance(item, OrpheusError):
                        self._bookings.returned(time.monotonic() - stream.submitted_s, len(self._sequences))
                    self._sequences.pop(stream, None)
        for loop, batch in by_loop.items():
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

    def _fail_all(self, error: OrpheusError) -> None:
        with self._changed:
            self._closing = True
            streams = list(self._sequences)
        self._deliver([(stream, error) for stream in streams])


def _put_all(batch: list[Delivery]) -> None:
    for stream, item in batch:
        stream.put(item)
