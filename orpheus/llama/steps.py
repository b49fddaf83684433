"""Jobs → their next tokens, a step at a time: plan, decode, copy, sample, publish.

The decode thread's own work. Knows nothing of threads, locks, event loops or HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from orpheus.errors import EngineError, OrpheusError
from orpheus.llama.batch_invariance import measure_batch_invariance
from orpheus.llama.batches import NO_KV_SLOT, passes
from orpheus.llama.engine_config import EngineConfig
from orpheus.llama.metrics import EngineMetrics, Stats
from orpheus.llama.sampler import Sampler
from orpheus.llama.scheduler import Scheduler, TokenSequence
from orpheus.llama.stream import CompletionChunk, FinishReason, Item, Stream
from orpheus.vocabulary import SLOTS, Vocabulary, number_of

if TYPE_CHECKING:
    from orpheus.llama.backend import Context

Delivery = tuple[Stream, Item]


class Steps:
    """All streams of one context. Every method belongs to one thread but `counts`."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        open_context: Callable[[], Context],
        config: EngineConfig,
        stats: Stats,
        metrics: EngineMetrics,
    ) -> None:
        self.counts = (0, 0)  # streams active and paused; one value, so that other threads may read it
        self.batch_invariant = False  # whether a stream's tokens are the same in any company
        self._vocabulary = vocabulary
        self._open_context = open_context
        self._config = config
        self._stats = stats
        self._metrics = metrics
        self._context: Context | None = None
        self._scheduler: Scheduler[Stream] = Scheduler(config.streams, config.batch_tokens)
        self._sampler = Sampler(vocabulary, config.streams, config.repetition_frames)
        self._starts = [ids.start for ids in vocabulary.code_ids]
        self._first_codes = vocabulary.first_codes
        self._codes = vocabulary.codes

    def open(self) -> None:
        """Make the context and warm it up by looking whether logits depend on company."""
        self._context = self._open_context()
        streams = self._config.streams
        found = measure_batch_invariance(self._context, self._vocabulary.begin_of_text, streams)
        same = streams == 1 or (found.same_in_company)
        self._scheduler.even = same and found.differs_alone and self._config.even_batches and streams > 1
        self.batch_invariant = same and (streams == 1 or self._scheduler.even or not found.differs_alone)

    def reopen(self) -> None:
        self._stats.reloads += 1
        self.close()
        self.open()

    def close(self) -> None:
        if self._context is not None:
            self._context.close()
            self._context = None

    def add(self, job: TokenSequence[Stream]) -> None:
        self._scheduler.add(job)

    def drop(self, job: TokenSequence[Stream]) -> None:
        """The reader left."""
        self._stats.cancelled += 1
        self._release(job)

    def can_run(self) -> bool:
        scheduler = self._scheduler
        runnable = any(not job.paused and not job.starved for job in scheduler.active)
        return runnable or bool(scheduler.waiting and len(scheduler.active) < self._config.streams)

    def check_readers(self, now: float) -> list[Delivery]:
        """Pause streams whose readers lag, resume those that caught up, drop those paused for too long."""
        high, low = self._config.stream_frames, self._config.stream_frames // 2
        dropped: list[Delivery] = []
        for job in list(self._scheduler.active):
            stream = job.owner
            if not job.paused and stream.unread >= high:
                # Marked before it is counted again: a reader that empties the queue meanwhile sees the mark.
                stream.paused_at, job.paused = now, True
            if job.paused and stream.unread <= low:
                stream.paused_at, job.paused = None, False
            elif stream.paused_at is not None and now - stream.paused_at > self._config.pause_timeout_s:
                self._stats.dropped += 1
                limit_s = self._config.pause_timeout_s
                dropped.append(
                    self._fail(job, EngineError(f"The stream was dropped: nobody read it for {limit_s:g} s."))
                )
        self._count()
        return dropped

    def fail_active(self, error: Exception) -> list[Delivery]:
        """End every running stream, because the context that held them is lost. Those that wait stay."""
        sentence = str(error) if isinstance(error, OrpheusError) else f"Decoding failed: {error}."
        lost = self._scheduler.reset()
        self._stats.failed += len(lost)
        self._count()
        return [(job.owner, EngineError(f"{sentence} Ask again.")) for job in lost]

    def step(self, now: float) -> list[Delivery]:
        """One decode of all rows that can run. Any exception means that the context is lost."""
        scheduler, sampler, stats = self._scheduler, self._sampler, self._stats
        context = self._context
        assert context is not None
        started = time.perf_counter()
        for job in scheduler.admit():
            constrained = job.owner.completion.constrained
            sampler.open(job.place, job.sampling, constrained=constrained, first_slot=job.first_slot)
        plan = scheduler.plan(now)
        for sequence in plan.forget:
            context.forget(sequence)
        for source, target in plan.moves:
            context.move(source, target)
        jobs, rows = plan.jobs, plan.rows
        if not rows:
            return []
        batch = [*rows, plan.idle] if plan.idle else rows
        while context.decode(batch) == NO_KV_SLOT:
            stats.no_room += 1
            if len(batch) == 1:
                return self._no_room(jobs[0])
            half = len(batch) // 2
            jobs, batch = jobs[:half], batch[:half]
        rows = batch[: len(jobs)]
        if plan.idle:
            context.forget(plan.idle.sequence)
        done = scheduler.fed(jobs, rows)
        logits = context.logits(len(done))
        decoded = time.perf_counter()

        free = [n for n, job in enumerate(done) if not job.owner.completion.constrained]
        places = np.array([job.place for job in done], np.int64)
        chosen: NDArray[np.int64] = np.zeros(len(done), np.int64)
        bound = np.arange(len(done))
        if free:
            bound = np.delete(bound, free)
        work = sampler.gather(logits, bound, places[bound])
        copied = time.perf_counter()
        if bound.size:
            chosen[bound] = sampler.draw(work, places[bound])
        for n in free:
            chosen[n] = sampler.draw_any(logits[n], done[n].place)
        sampled = time.perf_counter()

        deliveries: list[Delivery] = []
        for job, token in zip(done, chosen.tolist(), strict=True):
            if delivery := self._take(job, token, now):
                deliveries.append(delivery)
        self._count()
        stats.steps += 1
        stats.rows += len(rows)
        stats.passes += passes(batch, self._config.batch_tokens)
        stats.prompt_tokens += sum(len(row.tokens) for row in rows if len(row.tokens) > 1)
        stats.tokens += len(done)
        parts = stats.part_s
        parts["decode"] += decoded - started
        parts["copy"] += copied - decoded
        parts["sample"] += sampled - copied
        parts["publish"] += time.perf_counter() - sampled
        return deliveries

    def _take(self, job: TokenSequence[Stream], token: int, now: float) -> Delivery | None:
        """Add a token to its frame; what is to be sent, if a frame or the stream is complete."""
        completion = job.owner.completion
        if completion.constrained:
            slot = (job.first_slot + job.generated) % SLOTS
            if token == self._codes:
                return self._finish(job, "stop")
            number: int | None = number_of(slot, self._first_codes[slot] + token)
            token += self._starts[slot]
        else:
            slot = job.generated % SLOTS
            number = self._vocabulary.number_of_id(token)
            if token == self._vocabulary.end_of_speech:
                return self._finish(job, "stop")
        if token in completion.stop_ids:
            return self._finish(job, "stop")
        job.generated += 1
        job.todo = (token,)
        job.frame.append(token)
        if number is not None:
            job.numbers.append(number)
        if job.generated >= job.limit:
            return self._finish(job, "length")
        if slot < SLOTS - 1:
            return None
        return self._send(job, None)

    def _send(self, job: TokenSequence[Stream], reason: FinishReason | None) -> Delivery:
        chunk = CompletionChunk(tuple(job.frame), tuple(job.numbers), reason)
        job.frame.clear()
        job.numbers.clear()
        if chunk.ids:
            job.frames += 1
            if job.frames == 1:
                job.first_frame_at = time.monotonic()
                self._metrics.first_frame_s.observe(job.first_frame_at - job.owner.submitted_at)
        job.owner.sent += 1
        return job.owner, chunk

    def _finish(self, job: TokenSequence[Stream], reason: FinishReason) -> Delivery:
        stats = self._stats
        stats.finished[reason] += 1
        stats.stream_s += 0.1 * (time.monotonic() - job.owner.submitted_at - stats.stream_s)
        self._release(job)
        if job.owner.completion.constrained and (job.first_slot + job.generated) % SLOTS:
            job.frame.clear()  # a stop id in the middle of a frame: half a frame is no sound
            job.numbers.clear()
        return self._send(job, reason)

    def _no_room(self, job: TokenSequence[Stream]) -> list[Delivery]:
        """llama.cpp cannot take even this row: it waits for another stream to end, or fails if it is alone."""
        if any(not other.starved for other in self._scheduler.active if other is not job):
            job.starved = True
            return []
        return [self._fail(job, EngineError("The cache of the model is full: lower ORPHEUS_STREAMS."))]

    def _fail(self, job: TokenSequence[Stream], error: OrpheusError) -> Delivery:
        self._stats.failed += 1
        self._release(job)
        return job.owner, error

    def _release(self, job: TokenSequence[Stream]) -> None:
        self._scheduler.release(job)
        self._count()

    def _count(self) -> None:
        active = self._scheduler.active
        self.counts = (len(active), sum(job.paused for job in active))
