"""Pushes of many streams, awaited → PCM, decoded together by one thread.

Knows nothing of tokens, formats or clients. The event loop only hands over codes and is called back; every
stream's state is touched by the decoding thread alone.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from orpheus.codec.checkpoint import LATENTS_PER_FRAME
from orpheus.codec.decoder import Decoder
from orpheus.codec.device import choose_device
from orpheus.codec.graphs import GraphedDecoder
from orpheus.codec.request import DecodeRequest
from orpheus.codec.stream import Codes, StreamState, advance, checked, choose_step, start_early
from orpheus.errors import EngineError
from orpheus.settings import Settings
from orpheus.vocabulary import SLOTS

# Latents (21 ms each) known beyond the first frame before it leaves, which is approximated: 4 is 51 dB from exact and
# lets sound start after 14 tokens. Everything after it is exact.
LOOKAHEAD = 4
GATHER_S = 0.002  # longest a step waits for the other open streams; a lone stream never waits
RESERVE_S = 0.5  # with more audio than this in the listener's hands, frames are decoded four at a time
# Decoded at once while the listener has audio in hand: three quarters of the cost of one by one.
HOLD_FRAMES = 4
CLOSED = "The codec is closed: the service is stopping."
STREAM_CLOSED = "This codec stream is closed."


class Codec:
    """Loaded SNAC decoder + the thread that decodes all open streams together."""

    def __init__(
        self,
        decoder: Decoder,
        *,
        lookahead: int = LOOKAHEAD,
        gather_s: float = GATHER_S,
        reserve_s: float = RESERVE_S,
    ) -> None:
        self.decoder = decoder
        self.sample_rate = decoder.shape.sample_rate
        self.hop = decoder.hop
        self.codes = decoder.shape.codes
        self.samples_per_frame = LATENTS_PER_FRAME * decoder.hop
        self.lookahead = lookahead
        self._gather_s = gather_s
        self.reserve_s = reserve_s
        self._streams: weakref.WeakSet[CodecStream] = weakref.WeakSet()
        self._queue: list[DecodeRequest] = []
        self._changed = threading.Condition()
        self._closed = False
        self._steps = self._rows = self._latents = self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="orpheus-codec", daemon=True)
        decoder.warm_up()
        self._thread.start()

    @classmethod
    def load(cls, folder: Path, settings: Settings) -> Codec:
        """From a SNAC folder; blocks until the first step has run. WeightsError or SetupError, one sentence each."""
        device = choose_device(settings.codec_device)
        torch.set_num_threads(settings.cpu_threads)  # one count per process; only the codec uses torch here
        kind = GraphedDecoder if device.startswith("cuda") else Decoder
        return cls(kind.load(folder, device=device))

    def open(self, seed: int) -> CodecStream:
        """A new stream. Equal seeds and codes give equal noise."""
        stream = CodecStream(self, seed)
        with self._changed:
            if self._closed:
                raise EngineError(CLOSED)
            self._streams.add(stream)
        return stream

    def report(self) -> dict[str, object]:
        """For /health and metrics: device, threads, bytes of memory a stream, open streams, and counts since the start."""
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
        """Stop the thread; what is pending fails. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _submit(self, job: DecodeRequest) -> None:
        with self._changed:
            if self._closed:
                raise EngineError(CLOSED)
            self._queue.append(job)
            self._changed.notify_all()

    def _forget(self, stream: CodecStream) -> None:
        with self._changed:
            self._streams.discard(stream)
            gone = [job for job in self._queue if job.stream is stream]
            self._queue = [job for job in self._queue if job.stream is not stream]
            self._changed.notify_all()
        for job in gone:
            job.end(EngineError(STREAM_CLOSED))

    def _gather(self, idle: bool) -> list[DecodeRequest]:
        """The queued jobs. When idle, wait for one, and then GATHER_S for the other open streams."""
        with self._changed:
            if idle:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if self._gather_s and len(self._streams) > 1:
                    self._changed.wait_for(
                        lambda: (
                            self._closed or len({id(job.stream) for job in self._queue}) >= len(self._streams)
                        ),
                        timeout=self._gather_s,
                    )
            jobs, self._queue = self._queue, []
            return jobs

    def _run(self) -> None:
        jobs: list[DecodeRequest] = []
        while not self._closed:
            jobs += [job for job in self._gather(idle=not jobs) if self._started(job)]
            jobs = self._decode(jobs)
        for job in jobs + self._gather(idle=False):
            job.end(EngineError(CLOSED))

    def _started(self, job: DecodeRequest) -> bool:
        """Hand a job's codes to its stream's state; False where the stream is gone."""
        state = job.stream._state
        if state is None:
            job.end(EngineError(STREAM_CLOSED))
            return False
        state.push(job.codes)
        if job.last:
            state.finish()
            self._dropped += state.dropped
        return True

    def _decode(self, jobs: list[DecodeRequest]) -> list[DecodeRequest]:
        """One step for the jobs' streams; ends the jobs that have nothing more to decode, returns the others."""
        states = {job.stream: job.stream._state for job in jobs}
        live = {stream: state for stream, state in states.items() if state is not None}
        try:
            chosen, count = choose_step(self.decoder, live.values())
            if chosen:
                advance(self.decoder, chosen, count)
                self._steps += 1
                self._rows += len(chosen)
                self._latents += len(chosen) * count
            start_early(self.decoder, list(live.values()))
        except Exception as error:  # whatever broke, the thread serves on and the callers hear of it
            for stream in live:
                stream._fail(f"Decoding failed: {type(error).__name__}: {error}".split("\n", 1)[0])
            live = {}
        left = []
        for job in jobs:
            state = live.get(job.stream)
            if state is None or job.stream._state is None:
                job.end(EngineError(job.stream._reason))
            elif state.ready:
                left.append(job)
            else:
                job.stream._add(state.take())
                job.end()
        return left


class CodecStream:
    """One stream of codes. Its methods belong to one event loop; one push or finish at a time."""

    def __init__(self, codec: Codec, seed: int) -> None:
        self._codec = codec
        self._state: StreamState | None = StreamState(codec.decoder, seed, codec.lookahead)
        self._reason = STREAM_CLOSED
        self._finished = False
        self._unread: list[NDArray[np.float32]] = []
        self._held: list[NDArray[np.int64]] = []
        self._emitted = 0  # samples the caller has
        self._started_s = 0.0  # when it got the first of them
        self._lock = threading.Lock()

    async def push(self, codes: Codes) -> NDArray[np.float32]:
        """Decode flat codes in slot order, going on where the last push ended; any number, half frames included.

        Returns the samples that became final, (n,) float32, mono, about [-1, 1]; often none. EngineError for a code
        outside 0 … codes - 1, a closed stream, or a decoding failure. A cancelled push loses nothing: its samples
        come with the next one. While the listener has more than RESERVE_S in hand, counting from the
        first sample returned, up to three frames are held back to be decoded with the fourth.
        """
        return await self._send(codes, last=False)

    async def finish(self) -> NDArray[np.float32]:
        """The rest, down to the last latent's last sample, (n,). The stream's memory is free afterwards."""
        if self._finished:
            return self._take()
        rest = await self._send((), last=True)
        self._finished = True
        self.close()
        return rest

    def close(self) -> None:
        """Free the memory now. Idempotent, from any thread; a pending push raises EngineError."""
        self._state = None
        self._codec._forget(self)

    async def _send(self, codes: Codes, *, last: bool) -> NDArray[np.float32]:
        if self._state is None:
            raise EngineError(self._reason)
        loop = asyncio.get_running_loop()
        self._held.append(checked(codes, self._codec.codes))
        if not last and self._can_wait():
            return self._take()
        held, self._held = self._held, []
        job = DecodeRequest(self, np.concatenate(held), last, loop, loop.create_future())
        self._codec._submit(job)
        await job.waiting
        return self._take()

    def _can_wait(self) -> bool:
        """Has the listener so much audio in hand that decoding can wait for a cheaper step?"""
        if not self._codec.reserve_s or not self._emitted:
            return False
        played_s = time.monotonic() - self._started_s
        in_hand_s = self._emitted / self._codec.sample_rate - played_s
        return in_hand_s > self._codec.reserve_s and sum(map(len, self._held)) < HOLD_FRAMES * SLOTS

    def _fail(self, reason: str) -> None:
        self._reason = reason
        self.close()

    def _add(self, samples: NDArray[np.float32]) -> None:
        with self._lock:
            self._unread.append(samples)

    def _take(self) -> NDArray[np.float32]:
        with self._lock:
            pieces, self._unread = self._unread, []
        samples = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
        if len(samples) and not self._emitted:
            self._started_s = time.monotonic()
        self._emitted += len(samples)
        return samples
