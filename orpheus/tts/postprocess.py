"""The samples of segments → continuous speech: silence trimmed, pauses set, edges faded, loudness leveled.

Samples are mono float32 within ±1. Everything works on blocks counted from a segment's first sample, so the result
does not depend on how the samples were chunked.
"""

from __future__ import annotations

import math
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from orpheus.pcm import Pcm

BLOCK_S = 0.010  # loudness is measured over this long
FADE_S = 0.005  # at a cut, so that it does not click
# Sound this far below the threshold counts as speech next to voice: an f or a th is no louder. After voice the mouth may
# close in between, as before the t of "feat". Only this much of it counts, since it may be noise in the model's silence,
# which would delay the first word.
SOFT = 10 ** (-15 / 20)
SOFT_BEFORE_S, SOFT_AFTER_S = 0.080, 0.250
CLOSURE_S = 0.120
BEFORE_VOICE_S = 0.030  # kept before the first voice
AFTER_VOICE_S = 0.060  # and after the last
HELD_S = 0.300  # of silence, until it is clear whether it is a pause or the end

MEASURED_TOGETHER = 100  # blocks: a second at a time costs a fifth of frame by frame
LEVEL_S = 0.500  # of voice, before a segment's loudness is measured
MAX_GAIN = 10 ** (3 / 20)  # a segment is never changed by more than 3 dB, so that emphasis survives


class SilenceTrimmer:
    """One segment: leading silence cut to `lead_silence_s`, trailing silence to the pause after it, both faded.

    `threshold` is the RMS below which a block is silence, except for soft sound next to voice. Silence within the
    segment is kept. Up to `pause_s` of it, the pause expected at the end, is released at once: the listener may have
    nothing else to play.
    """

    def __init__(self, rate: int, *, threshold: float, lead_silence_s: float, pause_s: float = 0.0) -> None:
        self._block = max(1, round(BLOCK_S * rate))
        self._fade = round(FADE_S * rate)
        self._threshold = threshold
        self._lead = round(lead_silence_s * rate)
        self._after = round(AFTER_VOICE_S * rate)
        self._rate = rate
        self._most_held = round(HELD_S * rate)
        self._released = round(pause_s * rate) - self._block  # the last block is kept to be faded
        self._before = round(max(BEFORE_VOICE_S, lead_silence_s) * rate)
        # Samples from the last voice to the end of the soft sound after it, or of soft sound so far before the first.
        self._soft = 0
        self._closure = round(CLOSURE_S * rate)
        self._soft_before, self._soft_after = round(SOFT_BEFORE_S * rate), round(SOFT_AFTER_S * rate)
        self._rest = np.zeros(0, np.float32)  # less than a block
        self._held = np.zeros(0, np.float32)  # silence since the last voice, or before the first
        self.quiet = 0  # samples of silence already released since the last voice
        self.heard = False  # whether there was any voice

    def trim(self, pcm: Pcm) -> Pcm:
        """Take samples; return those that are certain to be kept."""
        self._rest = np.concatenate([self._rest, pcm])
        whole = len(self._rest) // self._block * self._block
        blocks, self._rest = self._rest[:whole].reshape(-1, self._block), self._rest[whole:]
        rms = _rms(blocks).tolist()
        out: list[Pcm] = []
        for voiced, run in groupby(range(len(rms)), lambda index: rms[index] > self._threshold):
            indices = list(run)
            if voiced:
                out.append(self._voice(blocks[indices[0] : indices[-1] + 1].reshape(-1)))
            else:
                soft = SOFT * self._threshold
                out += [self._silence(blocks[index], rms[index] > soft) for index in indices]
        return np.concatenate(out) if out else self._rest[:0]

    def finish(self, pause_s: float) -> Pcm:
        """The rest of the segment, followed by a pause of `pause_s` seconds; empty if there was no voice."""
        if not self.heard:
            return self._held[:0]
        pause = round(pause_s * self._rate)
        end = np.concatenate([self._held, self._rest])
        paused = self.quiet - self._soft
        wanted = max(0, pause - paused)
        natural = end[: max(wanted, self._after - paused, self._fade)].copy()
        _fade_out(natural, self._fade)
        return np.concatenate([natural, np.zeros(max(0, wanted - len(natural)), np.float32)])

    def _voice(self, blocks: Pcm) -> Pcm:
        """Take the samples of one block or several."""
        out = np.concatenate([self._held, blocks]) if len(self._held) else blocks
        self._held = blocks[:0]
        self.quiet = 0
        if not self.heard:
            self.heard = True
            out = out[-(len(blocks) + self._soft + self._before) :].copy()
            _fade_in(out, self._fade)
            # Padded to exactly `lead` if the model left less.
            out = np.concatenate([np.zeros(max(0, self._lead + len(blocks) - len(out)), np.float32), out])
        self._soft = 0
        return out

    def _silence(self, block: Pcm, soft: bool) -> Pcm:
        if self.heard:
            so_far = self.quiet + len(self._held)
            if soft and so_far - self._soft <= self._closure:
                self._soft = min(so_far + len(block), self._soft_after)
        else:
            self._soft = min(self._soft + len(block), self._soft_before) if soft else 0
        self._held = np.concatenate([self._held, block])
        most = self._most_held if self.heard else self._before + self._soft_before
        if self.heard and self.quiet + len(self._held) <= self._released:
            most = 0
        surplus = max(0, len(self._held) - most)
        gone, self._held = self._held[:surplus], self._held[surplus:]
        if not self.heard:
            return gone[:0]
        self.quiet += len(gone)
        return gone


class LoudnessLeveler:
    """Makes every segment as loud as the first: `level` its samples, `finish` it, then level the next."""

    def __init__(self, rate: int, threshold: float) -> None:
        self._block = max(1, round(BLOCK_S * rate))
        self._enough = round(LEVEL_S / BLOCK_S)
        self._threshold = threshold
        self._reference: float | None = None  # RMS of the first segment's voice
        self._gain: float | None = 1.0  # None until it is known
        self._held: list[Pcm] = []
        self._measure = _VoicedRms(self._block, threshold)

    def level(self, pcm: Pcm) -> Pcm:
        if self._gain is None or self._reference is None:
            self._measure.add(pcm)
        if self._gain is None:
            self._held.append(pcm)
            if self._measure.blocks < self._enough:
                return pcm[:0]
            pcm = self._release()
        return pcm if self._gain == 1.0 else pcm * np.float32(self._gain)

    def finish(self) -> Pcm:
        """The rest of this segment; the next `level` starts another."""
        rest = self._release() if self._gain is None else np.zeros(0, np.float32)
        rest = rest * np.float32(self._gain)
        if self._reference is None and self._measure.blocks:
            self._reference = self._measure.rms(None)
        self.reset()
        return rest

    def reset(self) -> None:
        """Drop a segment of which nothing was returned yet; the next `level` starts it anew."""
        self._held.clear()
        self._gain = None if self._reference else 1.0
        self._measure = _VoicedRms(self._block, self._threshold)

    def _release(self) -> Pcm:
        # Measured on the same samples however they were chunked: the first half second of voice.
        rms = self._measure.rms(self._enough)
        gain = self._reference / rms if self._reference and rms else 1.0
        self._gain = min(MAX_GAIN, max(1 / MAX_GAIN, gain))
        held, self._held = self._held, []
        return np.concatenate(held) if held else np.zeros(0, np.float32)


class _VoicedRms:
    """RMS over the voiced blocks of the samples added."""

    def __init__(self, block: int, threshold: float) -> None:
        self._block, self._threshold = block, threshold
        self._added: list[Pcm] = []  # and not measured yet
        self._unmeasured = 0  # samples
        self._powers: list[float] = []

    @property
    def blocks(self) -> int:
        self._measure()
        return len(self._powers)

    def add(self, pcm: Pcm) -> None:
        self._added.append(pcm)
        self._unmeasured += len(pcm)
        if self._unmeasured >= MEASURED_TOGETHER * self._block:
            self._measure()

    def rms(self, first: int | None) -> float:
        self._measure()
        powers = self._powers[:first]
        return math.sqrt(sum(powers) / len(powers)) if powers else 0.0

    def _measure(self) -> None:
        if self._unmeasured < self._block:
            return
        joined = np.concatenate(self._added)
        whole = len(joined) // self._block * self._block
        rms = _rms(joined[:whole].reshape(-1, self._block))
        self._powers += (rms[rms > self._threshold] ** 2).tolist()
        self._added = [joined[whole:].copy()]  # not all of it is kept
        self._unmeasured = len(joined) - whole


def _rms(blocks: Pcm) -> NDArray[np.float64]:
    wide = blocks.astype(np.float64)
    power: NDArray[np.float64] = np.vecdot(wide, wide) / blocks.shape[1]
    return np.sqrt(power)


def _fade_in(pcm: Pcm, samples: int) -> None:
    count = min(samples, len(pcm))
    pcm[:count] *= _ramp(count)


def _fade_out(pcm: Pcm, samples: int) -> None:
    count = min(samples, len(pcm))
    pcm[len(pcm) - count :] *= _ramp(count)[::-1]


def _ramp(count: int) -> Pcm:
    """A raised cosine from 0 to 1."""
    return (0.5 - 0.5 * np.cos(np.pi * (np.arange(count) + 0.5) / max(1, count))).astype(np.float32)
