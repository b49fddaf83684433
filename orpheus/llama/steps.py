"""One step of all sequences: plan, decode, copy logits, sample, publish. The decode thread runs it in a loop.

In: `TokenSequence`s. Out: `CompletionChunk`s, each with the stream it belongs to.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from orpheus.errors import EngineError, OrpheusError
from orpheus.llama.batch_invariance import measure_batch_invariance
from orpheus.llama.batches import NO_KV_ROOM, count_passes
from orpheus.llama.completion import CompletionChunk, FinishReason
from orpheus.llama.engine_config import EngineConfig
from orpheus.llama.metrics import EngineMetrics, Stats
from orpheus.llama.sampler import Floats, Sampler
from orpheus.llama.scheduler import Scheduler, TokenSequence
from orpheus.llama.stream import Stream, StreamItem
from orpheus.vocabulary import FRAME_S, SLOTS, Vocabulary, number_of

if TYPE_CHECKING:
    from orpheus.llama.backend import Context

Delivery = tuple[Stream, StreamItem]


@dataclass(frozen=True, eq=False)
class _Sampled:
    """Sequences that are sampled together, as arrays: made when they change, which most steps do not."""

    sequences: list[TokenSequence]
    bound: NDArray[np.int64]  # which of them are constrained,
    bound_rows: NDArray[np.int64]  # and their rows of the sampler
    free: list[int]  # which are not

    @classmethod
    def of(cls, sequences: list[TokenSequence]) -> _Sampled:
        constrained = [sequence.stream.completion.constrained for sequence in sequences]
        bound = np.flatnonzero(constrained)
        rows = np.array([sequence.sampler_row for sequence in sequences], np.int64)
        return cls(sequences, bound, rows[bound], [n for n, yes in enumerate(constrained) if not yes])


class Steps:
    """The sequences of one context. Everything but `counts` belongs to one thread."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        open_context: Callable[[], Context],
        config: EngineConfig,
        stats: Stats,
        metrics: EngineMetrics,
        first_output: int = 0,
    ) -> None:
        """`first_output` is the token of the first column of logits."""
        self.counts = (0, 0)  # sequences active and paused; one value, so that other threads may read it
        self.batch_invariant = False  # whether a seed gives the same tokens whatever else is decoded
        self._vocabulary = vocabulary
        self._open_context = open_context
        self._config = config
        self._stats = stats
        self._metrics = metrics
        self._context: Context | None = None
        self._scheduler = Scheduler(config.streams, config.batch_tokens)
        self._sampler = Sampler(vocabulary.moved(first_output), config.streams)
        self._code_starts = [ids.start for ids in vocabulary.code_ids]
        # What a slot's token ids lack to be numbers.
        self._to_numbers = [
            number_of(slot, first) - ids.start
            for slot, (first, ids) in enumerate(zip(vocabulary.first_codes, vocabulary.code_ids, strict=True))
        ]
        self._codes = vocabulary.codes
        self._sampled = _Sampled.of([])

    def open(self) -> None:
        """Make the context, and warm it up by measuring its batch invariance."""
        self._context = self._open_context()
        streams = self._config.streams
        found = measure_batch_invariance(self._context, self._vocabulary.code_ids[0], streams)
        self.batch_invariant = found.among_batches
        self._scheduler.pad_lone_rows = found.among_batches and not found.alone

    def reopen(self) -> None:
        self._stats.reloads += 1
        self.close()
        self.open()

    def close(self) -> None:
        if self._context is not None:
            self._context.close()
            self._context = None

    def add(self, sequence: TokenSequence) -> None:
        self._scheduler.add(sequence)

    def cancel(self, sequence: TokenSequence) -> None:
        """Take out a sequence whose reader left."""
        self._stats.cancelled += 1
        self._release(sequence)

    def can_run(self) -> bool:
        scheduler = self._scheduler
        runnable = any(not sequence.paused and not sequence.starved for sequence in scheduler.active)
        return runnable or bool(scheduler.waiting and len(scheduler.active) < self._config.streams)

    def check_readers(self, now_s: float) -> list[Delivery]:
        """Pause streams whose readers lag, resume those that caught up, drop those paused for too long."""
        high, low = self._config.stream_frames, self._config.stream_frames // 2
        limit_s = self._config.pause_timeout_s
        dropped: list[Delivery] = []
        for sequence in list(self._scheduler.active):
            stream = sequence.stream
            if not sequence.paused and stream.unread >= high:
                # Marked before `unread` is read again: a reader that empties the queue meanwhile sees the mark.
                stream.paused_since_s, sequence.paused = now_s, True
            if sequence.paused and stream.unread <= low:
                stream.paused_since_s, sequence.paused = None, False
            elif stream.paused_since_s is not None and now_s - stream.paused_since_s > limit_s:
                self._stats.dropped += 1
                error = EngineError(f"The stream was dropped: its client read nothing for {limit_s:g} s.")
                dropped.append(self._fail(sequence, error))
        self._count()
        return dropped

    def fail_active(self, error: Exception) -> list[Delivery]:
        """End every active sequence, because the context that held them is lost. Those that wait stay."""
        sentence = str(error) if isinstance(error, OrpheusError) else f"Decoding failed: {error}."
        lost = self._scheduler.reset()
        self._stats.failed += len(lost)
        self._count()
        return [(sequence.stream, EngineError(f"{sentence} Try again.")) for sequence in lost]

    def step(self, now_s: float) -> list[Delivery]:
        """One decode of all rows that can run. Any exception means that the context is lost."""
        scheduler, stats = self._scheduler, self._stats
        context = self._context
        assert context is not None
        began_s = time.perf_counter()
        for sequence in scheduler.admit():
            sequence.stream.started_s = now_s
            self._sampler.open(
                sequence.sampler_row,
                sequence.sampling,
                constrained=sequence.stream.completion.constrained,
                first_slot=sequence.first_slot,
            )
        plan = scheduler.plan(now_s)
        for seq_id in plan.freed:
            context.free(seq_id)
        for source, target in plan.moves:
            context.move(source, target)
        sequences, batch = plan.sequences, plan.rows
        if not batch:
            return []
        if plan.padding_row:
            batch = [*batch, plan.padding_row]
        planned_s = time.perf_counter()
        while context.decode(batch) == NO_KV_ROOM:
            stats.no_room += 1
            if len(batch) == 1:
                return self._no_room(sequences[0])
            half = len(batch) // 2
            sequences, batch = sequences[:half], batch[:half]
        if plan.padding_row:
            context.free(plan.padding_row.seq_id)
        rows = batch[: len(sequences)]
        sequences = scheduler.decoded(sequences, rows)
        logits = context.logits(len(sequences))
        decoded_s = time.perf_counter()
        chosen, copied_s = self._sample(logits, sequences)
        sampled_s = time.perf_counter()
        deliveries = [
            delivery
            for sequence, choice in zip(sequences, chosen, strict=True)
            if (delivery := self._take(sequence, choice))
        ]
        self._count()
        stats.steps += 1
        stats.rows += len(rows)
        stats.passes += count_passes(batch, self._config.batch_tokens)
        stats.prompt_tokens += sum(len(row.tokens) for row in rows if len(row.tokens) > 1)
        stats.tokens += len(sequences)
        parts = stats.part_s
        parts["plan"] += planned_s - began_s
        parts["decode"] += decoded_s - planned_s
        parts["copy"] += copied_s - decoded_s
        parts["sample"] += sampled_s - copied_s
        parts["publish"] += time.perf_counter() - sampled_s
        return deliveries

    def _sample(self, logits: Floats, sequences: list[TokenSequence]) -> tuple[list[int], float]:
        """What is drawn for each row of `logits`, and when they had been copied.

        The n-th legal code or `codes`, the end of speech, for a constrained sequence; an id for others.
        """
        sampler, sampled = self._sampler, self._sampled
        if sampled.sequences != sequences:
            sampled = self._sampled = _Sampled.of(sequences)
        work = sampler.gather(logits, sampled.bound, sampled.bound_rows)
        copied_s = time.perf_counter()
        drawn = sampler.draw(work, sampled.bound_rows).tolist() if len(work) else []
        if not sampled.free:
            return drawn, copied_s
        chosen = dict(zip(sampled.bound.tolist(), drawn, strict=True))
        chosen |= {n: sampler.draw_any(logits[n], sequences[n].sampler_row) for n in sampled.free}
        return [chosen[n] for n in range(len(sequences))], copied_s

    def _take(self, sequence: TokenSequence, choice: int) -> Delivery | None:
        """Add the sampled token to the sequence's frame; a delivery if the frame or the stream is complete."""
        completion = sequence.stream.completion
        slot = (sequence.first_slot + sequence.generated) % SLOTS
        if not completion.constrained:
            token = choice
        elif choice == self._codes:
            token = self._vocabulary.end_of_speech
        else:
            token = self._code_starts[slot] + choice
        if token == self._vocabulary.end_of_speech or token in completion.stop_ids:
            return self._finish(sequence, "stop")
        if not sequence.generated:
            sequence.first_token_s = time.monotonic()
        sequence.generated += 1
        sequence.pending_tokens = (token,)
        sequence.frame_ids.append(token)
        if sequence.generated >= sequence.max_tokens:
            return self._finish(sequence, "length")
        return self._send(sequence, None) if slot == SLOTS - 1 else None

    def _send(self, sequence: TokenSequence, reason: FinishReason | None) -> Delivery:
        stream = sequence.stream
        chunk = CompletionChunk(tuple(sequence.frame_ids), self._numbers(sequence), reason)
        sequence.frame_ids.clear()
        if chunk.ids:
            now_s = time.monotonic()
            if not sequence.has_first_frame:
                assert stream.started_s is not None
                self._metrics.first_frame(stream.submitted_s, stream.started_s, sequence.first_token_s, now_s)
                stream.first_frame_s = now_s
            sequence.playout.add(FRAME_S, now_s)
        stream.sent += 1
        return stream, chunk

    def _finish(self, sequence: TokenSequence, reason: FinishReason) -> Delivery:
        stats, stream = self._stats, sequence.stream
        stats.finished[reason] += 1
        self._release(sequence)
        if stream.completion.constrained and (sequence.first_slot + sequence.generated) % SLOTS:
            sequence.frame_ids.clear()  # a stop id in the middle of a frame: half a frame cannot be decoded
        return self._send(sequence, reason)

    def _numbers(self, sequence: TokenSequence) -> tuple[int, ...]:
        """Of the tokens in its frame, those that have one."""
        ids = sequence.frame_ids
        if not sequence.stream.completion.constrained:
            found = map(self._vocabulary.number_of_id, ids)
            return tuple(number for number in found if number is not None)
        slot = (sequence.first_slot + sequence.generated - len(ids)) % SLOTS
        return tuple(token + self._to_numbers[(slot + n) % SLOTS] for n, token in enumerate(ids))

    def _no_room(self, sequence: TokenSequence) -> list[Delivery]:
        """llama.cpp has no room even for this row: it waits for another sequence to end, or fails if it is alone."""
        if any(not other.starved for other in self._scheduler.active if other is not sequence):
            sequence.starved = True
            return []
        error = EngineError("The model's cache is full: lower ORPHEUS_STREAMS.")
        return [self._fail(sequence, error)]

    def _fail(self, sequence: TokenSequence, error: OrpheusError) -> Delivery:
        self._stats.failed += 1
        self._release(sequence)
        return sequence.stream, error

    def _release(self, sequence: TokenSequence) -> None:
        self._scheduler.release(sequence)
        self._count()

    def _count(self) -> None:
        active = self._scheduler.active
        self.counts = (len(active), sum(sequence.paused for sequence in active))
