from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from numpy.typing import NDArray

from orpheus.tts.postprocess import MAX_GAIN, LoudnessLeveler, SilenceTrimmer

RATE = 24_000
QUIET = 10 ** (-45 / 20)
Pcm = NDArray[np.float32]


def voice(seconds: float, loud: float = 0.3) -> Pcm:
    return (loud * np.sin(2 * np.pi * 220 * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def silence(seconds: float) -> Pcm:
    return np.full(round(seconds * RATE), 1e-4, np.float32)


def trimmed(
    pcm: Pcm, cuts: list[int] | None = None, lead_silence_s: float = 0.03, pause_s: float = 0.25
) -> Pcm:
    trim = SilenceTrimmer(RATE, threshold=QUIET, lead_silence_s=lead_silence_s)
    parts = [trim.trim(part) for part in np.split(pcm, cuts or [])]
    return np.concatenate([*parts, trim.finish(pause_s)])


def level(*segments: Pcm, step: int = 2048) -> list[Pcm]:
    evener = LoudnessLeveler(RATE, QUIET)
    out = []
    for segment in segments:
        parts = [evener.level(segment[start : start + step]) for start in range(0, len(segment), step)]
        out.append(np.concatenate([*parts, evener.finish()]))
    return out


def rms(pcm: Pcm) -> float:
    return float(np.sqrt(np.mean(pcm.astype(np.float64) ** 2)))


def test_leading_and_trailing_silence_get_the_requested_length() -> None:
    out = trimmed(np.concatenate([silence(0.6), voice(1.0), silence(0.2)]))
    assert len(out) == pytest.approx((0.03 + 1.0 + 0.25) * RATE, abs=RATE * 0.02)


def test_soft_consonants_on_either_side_of_voice_are_kept_whole() -> None:
    """An f or a th is under the threshold for longer than what is kept of silence."""
    hiss = 0.004 * np.random.default_rng(1).standard_normal(round(0.1 * RATE)).astype(np.float32)
    end = np.concatenate([hiss, hiss])
    before, after = hiss[: round(0.08 * RATE)], np.concatenate([end, silence(0.09)])
    out = trimmed(np.concatenate([silence(0.4), before, voice(0.5), after]), pause_s=0.0)
    assert len(out) == pytest.approx((0.03 + 0.08 + 0.5 + 0.2 + 0.06) * RATE, abs=RATE * 0.001)
    assert rms(out[round(0.03 * RATE) :][: len(before)]) == pytest.approx(0.004, rel=0.05)
    assert rms(out[-round(0.26 * RATE) :][: len(end)]) == pytest.approx(0.004, rel=0.05)
    paused = trimmed(np.concatenate([voice(0.5), after]), pause_s=0.3)
    assert len(paused) == pytest.approx((0.03 + 0.5 + 0.2 + 0.3) * RATE, abs=RATE * 0.001)


def test_a_soft_consonant_after_a_closed_mouth_is_kept_whole() -> None:
    """The t of "feat": a tenth of a second of silence, then a soft burst."""
    burst = 0.004 * np.random.default_rng(1).standard_normal(round(0.05 * RATE)).astype(np.float32)
    for closed_s, kept_s in ((0.1, 0.1 + 0.05 + 0.06), (0.2, 0.06)):
        out = trimmed(np.concatenate([voice(0.5), silence(closed_s), burst, silence(0.1)]), pause_s=0.0)
        assert len(out) == pytest.approx((0.03 + 0.5 + kept_s) * RATE, abs=RATE * 0.001)


def test_noise_in_the_models_silence_is_not_taken_for_an_endless_consonant() -> None:
    noise = 0.004 * np.random.default_rng(1).standard_normal(RATE).astype(np.float32)
    out = trimmed(np.concatenate([noise, voice(0.5), noise[: round(0.29 * RATE)]]), pause_s=0.0)
    assert len(out) == pytest.approx((0.03 + 0.08 + 0.5 + 0.25 + 0.04) * RATE, abs=RATE * 0.001)


def test_a_short_pause_is_lengthened_and_a_long_lead_given() -> None:
    out = trimmed(voice(1.0), lead_silence_s=0.4, pause_s=0.5)
    assert len(out) == pytest.approx(1.9 * RATE, abs=RATE * 0.02)
    assert not out[: round(0.39 * RATE)].any()


def test_a_pause_within_a_segment_stays_as_it_is() -> None:
    pcm = np.concatenate([voice(0.5), silence(0.7), voice(0.5)])
    out = trimmed(pcm, lead_silence_s=0, pause_s=0)
    assert len(out) >= len(pcm)
    assert np.array_equal(out[300 : len(pcm) - 300], pcm[300:-300])


def test_as_much_silence_as_the_pause_is_not_held_back() -> None:
    whole = np.concatenate([voice(0.5), silence(0.2)])
    held, free = (
        SilenceTrimmer(RATE, threshold=QUIET, lead_silence_s=0),
        SilenceTrimmer(RATE, threshold=QUIET, lead_silence_s=0, pause_s=0.25),
    )
    assert len(held.trim(whole)) <= 0.5 * RATE, "it may be the end"
    assert len(free.trim(whole)) == pytest.approx(0.7 * RATE, abs=0.01 * RATE)
    more = np.concatenate([silence(0.2), voice(0.5)])
    assert len(free.trim(more)) == pytest.approx(0.7 * RATE, abs=0.01 * RATE), (
        "a voice again: nothing is lost"
    )


@given(natural_s=st.floats(0.02, 0.8), pause_s=st.floats(0, 0.5), given_s=st.floats(0, 0.5))
def test_the_pause_at_the_end_is_as_long_however_early_it_was_released(
    natural_s: float, pause_s: float, given_s: float
) -> None:
    pcm = np.concatenate([voice(0.4), silence(natural_s)])
    outs = []
    for expected_s in (0.0, pause_s):
        trim = SilenceTrimmer(RATE, threshold=QUIET, lead_silence_s=0, pause_s=expected_s)
        outs.append(np.concatenate([trim.trim(pcm), trim.finish(pause_s)]))
    assert abs(len(outs[0]) - len(outs[1])) <= max(0.01, natural_s - 0.3) * RATE
    trim = SilenceTrimmer(RATE, threshold=QUIET, lead_silence_s=0, pause_s=given_s)
    out = np.concatenate([trim.trim(pcm), trim.finish(0.0)])  # the text came to its end meanwhile
    assert abs(out[-1]) < 2e-4
    assert len(out) <= (0.4 + max(0.06, given_s, natural_s - 0.3) + 0.02) * RATE


def test_the_cuts_do_not_click() -> None:
    out = trimmed(np.concatenate([silence(0.3), voice(0.5), silence(0.5)]))
    assert abs(out[0]) < 1e-4
    assert abs(out[-1]) < 1e-4
    assert np.max(np.abs(np.diff(out))) < 0.03


def test_a_segment_without_voice_is_empty() -> None:
    trim = SilenceTrimmer(RATE, threshold=QUIET, lead_silence_s=0.1)
    assert len(trim.trim(silence(3))) == 0
    assert len(trim.finish(0.3)) == 0
    assert not trim.heard


def test_no_voice_is_ever_lost() -> None:
    for seconds in (0.011, 0.1, 0.5):
        pcm = np.concatenate([silence(0.5), voice(seconds), silence(0.5)])
        assert np.sum(trimmed(pcm) ** 2) > 0.8 * np.sum(pcm**2)


@effort(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 40_000), max_size=6), st.integers(0, 3))
def test_the_result_is_the_same_however_the_samples_arrive(cuts: list[int], shape: int) -> None:
    parts = [silence(0.2), voice(0.4), silence(0.35), voice(0.3), silence(0.3)]
    pcm = np.concatenate(parts[shape:])
    assert np.array_equal(trimmed(pcm, sorted(min(cut, len(pcm)) for cut in cuts)), trimmed(pcm))


def test_later_segments_are_as_loud_as_the_first_within_three_decibels() -> None:
    first, softer, much_louder = level(voice(1, 0.2), voice(1, 0.16), voice(1, 0.8))
    assert np.array_equal(first, voice(1, 0.2))
    assert rms(softer) == pytest.approx(rms(first), rel=0.01)
    assert rms(much_louder) == pytest.approx(rms(voice(1, 0.8)) / MAX_GAIN, rel=0.01)


def test_a_level_changes_no_length_and_no_chunking_changes_it() -> None:
    segments = [voice(0.7), voice(0.3, 0.25), silence(0.2), voice(1.1, 0.4)]
    for fine, coarse in zip(level(*segments, step=777), level(*segments, step=10**6), strict=True):
        assert np.array_equal(fine, coarse)
    assert [len(segment) for segment in level(*segments)] == [len(segment) for segment in segments]
