from __future__ import annotations

import io
import wave
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks import encoders
from orpheus.tts.encode import FORMATS, Format, encoded_rate, open_encoder, to_int16, wav_header
from tests.support.audio import decode

RATE = 24_000


def tone(seconds: float) -> NDArray[np.float32]:
    return (0.4 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def encode(format: Format, pcm: NDArray[np.float32], step: int = 2048, **options: Any) -> list[bytes]:
    encoder = open_encoder(format, source_rate=RATE, **options)
    chunks = [encoder.write(pcm[start : start + step]) for start in range(0, len(pcm), step)]
    return [*chunks, encoder.flush()]


@pytest.mark.parametrize("format", FORMATS)
def test_the_first_bytes_leave_with_the_first_audio(format: Format) -> None:
    chunks = encode(format, tone(1))
    first = next(index for index, chunk in enumerate(chunks) if chunk)
    assert first <= (1 if format == "flac" else 0)  # a FLAC block is 96 ms
    assert sum(map(bool, chunks)) >= len(chunks) - 3, "bytes are held back"


@pytest.mark.parametrize(
    ("format", "pad"), [("wav", 0), ("flac", 0), ("opus", 0), ("mp3", 1728), ("aac", 2048)]
)
@pytest.mark.parametrize("samples", [1, 2047, 24_000, 71_333])
def test_no_sample_is_lost(format: Format, pad: int, samples: int) -> None:
    pcm = tone(3)[:samples]
    decoded, rate = decode(b"".join(encode(format, pcm)))
    expected = samples * rate // RATE
    assert expected <= len(decoded) <= expected + pad * rate // RATE + (1 if rate != RATE else 0)


@pytest.mark.parametrize("format", ["wav", "flac"])
def test_lossless_formats_return_the_exact_samples(format: Format) -> None:
    pcm = tone(1)
    decoded, _ = decode(b"".join(encode(format, pcm)))
    assert np.array_equal(np.rint(decoded * 32768).astype(np.int16), to_int16(pcm))


def test_pcm_is_the_samples_and_wav_the_same_behind_44_bytes() -> None:
    pcm = tone(0.5)
    raw = b"".join(encode("pcm", pcm))
    assert raw == to_int16(pcm).tobytes()
    assert b"".join(encode("wav", pcm))[44:] == raw


def test_a_streamed_wav_can_be_read_and_a_whole_one_has_its_true_length() -> None:
    raw = to_int16(tone(0.5)).tobytes()
    with wave.open(io.BytesIO(wav_header(RATE) + raw)) as file:
        assert (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (RATE, 2, 1)
        assert file.readframes(10**6) == raw
    with wave.open(io.BytesIO(wav_header(RATE, len(raw)) + raw)) as file:
        assert file.getnframes() == len(raw) // 2


@pytest.mark.parametrize(
    ("format", "whole"),
    [(f, whole) for f in ("wav", "mp3", "opus", "flac") for whole in (False, True) if f != "flac" or whole],
)
def test_a_second_decoder_reads_the_same(format: Format, whole: bool) -> None:
    """libsndfile, which has no AAC, and refuses a FLAC whose length was not known when it began."""
    pcm = tone(2)
    with soundfile.SoundFile(io.BytesIO(b"".join(encode(format, pcm, whole=whole)))) as file:
        samples = file.read(10**6, dtype="float32")
        assert file.samplerate == RATE
    pad = 1728 if format == "mp3" and not whole else 0
    assert 0 <= len(samples) - len(pcm) <= pad
    peak = np.argmax(np.abs(np.fft.rfft(samples))) * RATE / len(samples)
    assert peak == pytest.approx(440, abs=2)


def test_mp3_frames_are_self_contained() -> None:
    data = b"".join(encode("mp3", tone(1)))
    assert data[0] == 0xFF
    assert data[1] & 0xE0 == 0xE0
    assert b"Xing" not in data
    assert b"Info" not in data[:200]
    assert b"ID3" not in data[:10]


@pytest.mark.parametrize("format", FORMATS)
def test_a_stream_without_samples_ends_without_an_error(format: Format) -> None:
    assert isinstance(open_encoder(format, source_rate=RATE).flush(), bytes)


@pytest.mark.parametrize("speed", [0.25, 0.5, 0.9, 1.1, 2.0, 4.0])
def test_speed_changes_the_length_within_three_percent_and_not_the_pitch(speed: float) -> None:
    pcm = tone(3)
    samples = np.frombuffer(b"".join(encode("pcm", pcm, speed=speed)), "<i2")
    assert len(samples) == pytest.approx(len(pcm) / speed, rel=0.03)
    peak = np.argmax(np.abs(np.fft.rfft(samples))) * RATE / len(samples)
    assert peak == pytest.approx(440, abs=5)


def test_speed_one_is_byte_for_byte_the_same() -> None:
    assert encode("pcm", tone(1), speed=1.0) == encode("pcm", tone(1))


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("format", FORMATS)
def test_another_sample_rate_keeps_the_length_and_the_pitch(format: Format, rate: int) -> None:
    data = b"".join(encode(format, tone(2), sample_rate=rate))
    if format == "pcm":
        samples, got = np.frombuffer(data, "<i2").astype(np.float32), rate
    else:
        samples, got = decode(data)
    assert got == (48_000 if format == "opus" else encoded_rate(format, rate))
    assert len(samples) / got == pytest.approx(2.0, abs=0.2)
    peak = np.argmax(np.abs(np.fft.rfft(samples))) * got / len(samples)
    assert peak == pytest.approx(440, abs=5)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 5000), max_size=12), st.sampled_from(FORMATS), st.sampled_from([1.0, 1.5]))
def test_any_split_of_the_samples_gives_the_same_audio(
    lengths: list[int], format: Format, speed: float
) -> None:
    pcm = tone(2)[: sum(lengths)]
    encoder = open_encoder(format, source_rate=RATE, speed=speed)
    split = [encoder.write(part) for part in np.split(pcm, np.cumsum(lengths)[:-1])] if lengths else []
    data = b"".join([*split, encoder.flush()])
    if format != "opus":  # whose stream carries a random serial number
        assert data == b"".join(encode(format, pcm, step=max(1, len(pcm)), speed=speed))


def test_samples_out_of_range_are_clipped_not_wrapped() -> None:
    assert to_int16(np.array([-2.0, -1.0, 0.0, 1.0, 2.0], np.float32)).tolist() == [
        -32768,
        -32767,
        0,
        32767,
        32767,
    ]


@pytest.mark.parametrize("format", ["mp3", "opus"])
def test_what_encoding_adds_cannot_be_heard_and_is_no_more_than_with_ffmpegs_own_settings(
    format: Format,
) -> None:
    spoken = speechlike(2.0)

    def noise_db(options: dict[str, str] | None) -> float:
        data, _ = encoders.encoded(spoken, format, options)
        return encoders.noise_to_mask_db(*encoders.aligned(spoken, encoders.decoded(data)))

    ours = noise_db(None)
    assert ours < -5
    assert ours < noise_db({}) + 1


def test_what_can_be_heard_lies_above_the_mask() -> None:
    spoken = speechlike(1.0)
    hiss = 0.003 * np.random.default_rng(0).standard_normal(len(spoken)).astype(np.float32)
    assert (
        encoders.noise_to_mask_db(spoken, spoken + hiss)
        > 0
        > encoders.noise_to_mask_db(spoken, spoken + hiss / 300)
    )


def speechlike(seconds: float) -> NDArray[np.float32]:
    """Voiced syllables, a moving pitch, and hisses between them."""
    count = int(seconds * RATE)
    at = np.arange(count) / RATE
    phase = 2 * np.pi * np.cumsum(150 + 40 * np.sin(2 * np.pi * 1.3 * at)) / RATE
    voice = sum(np.sin(phase * k) / k * np.exp(-(((k * 150 - 600) / 900) ** 2)) for k in range(1, 30))
    hiss = np.diff(np.random.default_rng(1).standard_normal(count + 1))
    syllable = np.sin(2 * np.pi * 4 * at)
    return (0.3 * np.clip(syllable, 0, 1) * voice + 0.03 * np.clip(-syllable, 0, 1) * hiss).astype(np.float32)
