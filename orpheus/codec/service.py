"""The codec as the service uses it: streams of codes from event loops, decoded together by one thread.

The event loops only hand over codes and are called back; each stream's state is touched by the decoding thread alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from orpheus.codec.checkpoint import LATENTS_PER_FRAME, fingerprint_of
from orpheus.codec.decoder import Decoder
from orpheus.codec.device import choose_device
from orpheus.codec.graphs import GraphedDecoder
from orpheus.codec.stream import Codes, StreamState, advance, checked, choose_step, start_early
from orpheus.errors import EngineError, NotReady, OrpheusError, SetupError
from orpheus.playout import PlayoutClock
from orpheus.settings import Settings
from orpheus.vocabulary import SLOTS

log = logging.getLogger(__name__)

# Latents (21 ms each) decoded beyond the first frame before it leaves. That frame is approximated, 44 dB SNR with 4
# (embedded voice, 2026-11-22), so that audio starts after 14 tokens. Everything after it is exact.
LOOKAHEAD = 4
GATHER_S = 0.002  # longest a step waits for the other open streams; a lone stream never waits
# While the listener has more audio than this, codes are held and decoded four frames at a time, at three quarters of the
# cost of decoding them one by one.
RESERVE_S = 0.5
HOLD_FRAMES = 4
CLOSED = "The codec is closed: the service is stopping."
# A listener who has no audio yet comes before those whose audio lasts longer than this, and after the others.
FIRST_DUE_S = 0.05
STREAM_CLOSED = "This codec stream is closed."
_FULL = (
    "The codec does not fit the free memory of {}: lower ORPHEUS_STREAMS, set ORPHEUS_KV_TYPE=q8_0, or move the codec "
    "with ORPHEUS_CODEC_DEVICE=cpu or another GPU."
)


class Codec:
    """A SNAC decoder and the thread that decodes all open streams together."""

    def __init__(
        self,
        decoder: Decoder,
        *,
        lookahead: int = LOOKAHEAD,
        gather_s: float = GATHER_S,
        reserve_s: float = RESERVE_S,
        fingerprint: str = "",
        on_death: Callable[[OrpheusError], None] = lambda _: None,
    ) -> None:
        """`fingerprint`: of the weights. `on_death` is called in the decoding thread with the reason why the codec will
        never decode again.
        """
        self.decoder = decoder
        self.fingerprint = fingerprint
        self.sample_rate = decoder.config.sample_rate
        self.hop = decoder.hop
        self.codes = decoder.config.codes
        self.samples_per_frame = LATENTS_PER_FRAME * decoder.hop
        self.lookahead = lookahead
        self.reserve_s = reserve_s
        self._gather_s = gather_s
        self._streams: weakref.WeakSet[CodecStream] = weakref.WeakSet()
        self._queue: list[DecodeRequest] = []
        self._changed = threading.Condition()
        self._closed = False
        self._dead: EngineError | None = None
        self._on_death = on_death
        self._steps = self._rows = self._latents = self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="orpheus-codec", daemon=True)
        decoder.warm_up()
        self._thread.start()

    @classmethod
    def load(
        cls, folder: Path, settings: Settings, on_death: Callable[[OrpheusError], None] = lambda _: None
    ) -> Codec:
        """From a SNAC folder; blocks until the first step has run. WeightsError or SetupError with one sentence."""
        device = choose_device(settings.codec_device)
        torch.set_num_threads(settings.cpu_threads)  # per process, but only the codec uses torch here
        kind = GraphedDecoder if device.startswith("cuda") else Decoder
        try:
            decoder = kind.load(folder, device=device)
            return cls(decoder, fingerprint=fingerprint_of(folder), on_death=on_death)
        except torch.OutOfMemoryError as error:
            raise SetupError(_FULL.format(device)) from error

    def open(self, seed: int, *, due_s: float = 0.0) -> CodecStream:
        """A new stream. Equal seeds and codes give equal samples.

        `due_s`: when the listener's audio from other streams ends, by time.monotonic; 0 if there is none.
        """
        try:
            stream = CodecStream(self, seed, due_s)
        except torch.OutOfMemoryError as error:  # of a card that others fill
            raise EngineError(_FULL.format(self.decoder.device)) from error
        with self._changed:
            if self._closed:
                raise self._dead or EngineError(CLOSED)
            self._streams.add(stream)
        return stream

    def check(self) -> None:
        """NotReady if it will never decode again."""
        if self._dead:
            raise NotReady(str(self._dead))

    def report(self) -> dict[str, object]:
        """For /health and metrics: device, threads, bytes of memory per stream, open streams, and counts so far."""
        with self._changed:
            return {
                "device": str(self.decoder.device),
                "threads": torch.get_num_threads(),
                "state_bytes_per_stream": self.decoder.floats * 4,
                "open_streams": len(self._streams),
                "lookahead_latents": self.lookahead,
                "steps": self._steps,
                "streams_per_step": self._rows / self._steps if self._steps else 0.0,
                "latents": self._latents,
                "dropped_codes": self._dropped,
            }

    def close(self) -> None:
        """Stop the thread; pending requests fail. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _submit(self, request: DecodeRequest) -> None:
        with self._changed:
            if self._closed:
                raise self._dead or EngineError(CLOSED)
            self._queue.append(request)
            self._changed.notify_all()

    def _forget(self, stream: CodecStream) -> None:
        with self._changed:
            self._streams.discard(stream)
            gone = [request for request in self._queue if request.stream is stream]
            self._queue = [request for request in self._queue if request.stream is not stream]
            self._changed.notify_all()
        for request in gone:
            request.end(EngineError(STREAM_CLOSED))

    def _gather(self, *, idle: bool) -> list[DecodeRequest]:
        """The queued requests. If `idle`, wait for one, and then `gather_s` for the other open streams.

        No first frame waits for others.
        """
        with self._changed:
            if idle:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if self._gather_s and len(self._streams) > 1:
                    self._changed.wait_for(
                        lambda: (
                            self._closed
                            or self._waiting_streams() >= len(self._streams)
                            or any(not request.stream.heard for request in self._queue)
                        ),
                        timeout=self._gather_s,
                    )
            requests, self._queue = self._queue, []
            return requests

    def _waiting_streams(self) -> int:
        return len({id(request.stream) for request in self._queue})

    def _run(self) -> None:
        requests: list[DecodeRequest] = []
        while not self._closed:
            requests += [each for each in self._gather(idle=not requests) if self._start(each)]
            requests = self._decode(requests)
        for request in requests + self._gather(idle=False):
            request.end(self._dead or EngineError(CLOSED))
        if self._dead:
            self._on_death(self._dead)

    def _start(self, request: DecodeRequest) -> bool:
        """Hand a request's codes to its stream's state; False if the stream is gone."""
        state = request.stream._state
        if state is None:
            request.end(EngineError(STREAM_CLOSED))
            return False
        request.stream.taken_s = time.monotonic()
        state.add_codes(request.codes)
        if request.last:
            state.finish()
            self._dropped += state.dropped
        return True

    def _decode(self, requests: list[DecodeRequest]) -> list[DecodeRequest]:
        """Decode one step, end the requests that have nothing more to decode, and return the others.

        Who runs dry first comes first. But those with a reserve keep their turns: a segment that is decoded at the last
        moment leaves nothing to outlast the start of the next.
        """
        reserve_s = time.monotonic() + self.reserve_s
        requests.sort(key=lambda request: min(request.due_s, reserve_s))
        states = {request.stream: request.stream._state for request in requests}
        live = {stream: state for stream, state in states.items() if state is not None}
        try:
            before_first = not all(stream.heard for stream in live)
            chosen, count = choose_step(self.decoder, live.values(), before_first=before_first)
            if chosen:
                advance(self.decoder, chosen, count)
                self._steps += 1
                self._rows += len(chosen)
                self._latents += len(chosen) * count
            start_early(self.decoder, list(live.values()))
        except Exception as error:  # whatever failed, the callers learn of it and the thread serves on
            for stream in live:
                stream._fail(f"Decoding failed: {type(error).__name__}: {error}".split("\n", 1)[0])
            live = {}
            # CUDA repeats it to every later call of this process.
            if isinstance(error, torch.AcceleratorError):
                self._die(error)
        unfinished = []
        for request in requests:
            state = live.get(request.stream)
            if state is None or request.stream._state is None:
                request.end(EngineError(request.stream._reason))
            elif state.ready:
                unfinished.append(request)
            else:
                request.stream._add(state.take())
                request.end()
        return unfinished

    def _die(self, error: Exception) -> None:
        reason = str(error).split("\n", 1)[0]
        with self._changed:
            self._dead = EngineError(f"The codec's GPU failed ({reason}): restart the server.")
            self._closed = True
        log.error("%s", self._dead)


class CodecStream:
    """One stream of codes. Its methods belong to one event loop; one decode or finish at a time."""

    def __init__(self, codec: Codec, seed: int, due_s: float) -> None:
        self._codec = codec
        self._due_s = due_s
        self._state: StreamState | None = StreamState(codec.decoder, seed, codec.lookahead)
        self._reason = STREAM_CLOSED
        self.taken_s = 0.0  # when the decoding thread took the latest codes, by time.monotonic
        self._finished = False
        self._held: list[NDArray[np.int64]] = []  # codes
        self._playout = PlayoutClock()  # of a listener who hears samples as they are returned
        self._unread: list[NDArray[np.float32]] = []  # samples, under the lock
        self._lock = threading.Lock()

    async def decode(self, codes: Codes) -> NDArray[np.float32]:
        """Decode any number of flat codes in slot order, continuing where the last call ended; half frames are welcome.

        Returns the samples that became final, float32 (n,), mono, about [-1, 1]; often none. EngineError for a code
        outside the codebook, a closed stream, or a decoding failure. A cancelled call loses nothing: its samples come
        with the next one. Codes that make no samples final are held back until others do; while the listener has more
        than `reserve_s` of audio, counting from the first sample returned, so are up to three frames, to be decoded with
        the fourth.
        """
        return await self._send(codes, last=False)

    async def finish(self) -> NDArray[np.float32]:
        """The remaining samples, down to the last latent's last, float32 (n,). Frees the stream's memory."""
        if self._finished:
            return self._take()
        rest = await self._send((), last=True)
        self._finished = True
        self.close()
        return rest

    def close(self) -> None:
        """Free the memory now. Idempotent, from any thread; a pending call raises EngineError."""
        self._state = None
        self._codec._forget(self)

    async def _send(self, codes: Codes, *, last: bool) -> NDArray[np.float32]:
        if self._state is None:
            raise EngineError(self._reason)
        self._held.append(checked(codes, self._codec.codes))
        if not last and self._can_wait(self._state):
            return self._take()
        held, self._held = self._held, []
        loop = asyncio.get_running_loop()
        due_s = self._playout.ends_s or max(self._due_s, time.monotonic() + FIRST_DUE_S)
        request = DecodeRequest(self, np.concatenate(held), last, due_s, loop, loop.create_future())
        self._codec._submit(request)
        await request.done
        return self._take()

    @property
    def heard(self) -> bool:
        """Whether the listener has audio already."""
        return self._playout.ends_s is not None

    def _can_wait(self, state: StreamState) -> bool:
        """Whether decoding gives nothing yet, or can wait until it is cheaper."""
        held = sum(map(len, self._held))
        if not state.gives(held):
            return True
        return held < HOLD_FRAMES * SLOTS and self._playout.buffered_s() > self._codec.reserve_s

    def _fail(self, reason: str) -> None:
        self._reason = reason
        self.close()

    def _add(self, samples: NDArray[np.float32]) -> None:
        with self._lock:
            self._unread.append(samples)

    def _take(self) -> NDArray[np.float32]:
        with self._lock:
            unread, self._unread = self._unread, []
        samples = np.concatenate(unread) if unread else np.zeros(0, np.float32)
        if len(samples):
            self._playout.add(len(samples) / self._codec.sample_rate)
        return samples


@dataclass(eq=False)
class DecodeRequest:
    """A decode or finish on its way to the decoding thread, to which all but `done` belongs once it is queued."""

    stream: CodecStream
    codes: NDArray[np.int64]
    last: bool
    due_s: float  # when the listener needs the samples, by time.monotonic
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]

    def end(self, error: EngineError | None = None) -> None:
        """Wake the caller, from any thread. One that was cancelled, or whose loop is closed, is skipped."""

        def wake() -> None:
            if self.done.done():
                return
            if error is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(error)

        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(wake)
