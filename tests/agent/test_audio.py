"""Audio of the wire to samples and back, as streams and as files."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpheus.agent import audio
from orpheus.agent.audio import SAMPLE_RATE, AudioFormat, InputStream, Kind, OutputStream, read_audio
from orpheus.errors import BadRequest
from orpheus.tts.encode import FORMATS, Format, open_encoder, to_int16
from tests.support.sounds import Sound, noises, tone

CODECS = {"pcmu": "pcm_mulaw", "pcma": "pcm_alaw"}
FILTER_S = 0.005  # what the resampler may still hold


def heard(stream: InputStream, data: bytes, chunk_bytes: list[int]) -> Sound:
    """The samples of `data`, sent in chunks of these sizes in turn."""
    parts, at, turn = [], 0, 0
    while at < len(data):
        size = chunk_bytes[turn % len(chunk_bytes)]
        parts.append(stream.add(data[at : at + size]))
        at, turn = at + size, turn + 1
    return np.concatenate(parts)


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 44_100, 48_000])
def test_ten_minutes_in_odd_chunks_do_not_drift_and_are_what_the_whole_signal_resampled_is(rate: int) -> None:
    sent = to_int16(tone(440, 600, rate=rate) + tone(1_234, 600, 0.1, rate)).tobytes()
    got = heard(InputStream(AudioFormat("pcm", rate)), sent, [1, 4_801, 19_999, 3, 960])
    assert 0 <= 600 * SAMPLE_RATE - len(got) <= FILTER_S * SAMPLE_RATE
    ideal = tone(440, 600, rate=SAMPLE_RATE) + tone(1_234, 600, 0.1, SAMPLE_RATE)
    inner = slice(2_000, len(got) - 2_000)
    # Any click, and a shift by a hundredth of a sample, would be more.
    assert np.abs(got[inner] - ideal[inner]).max() < 2e-4


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 24_000, 48_000])
def test_what_is_sent_has_the_length_of_what_was_said_to_the_sample(rate: int) -> None:
    said = tone(440, 61.0003, rate=24_000)
    stream = OutputStream(AudioFormat("pcm", rate), 24_000)
    sent = b"".join(stream.add(said[at : at + 777]) for at in range(0, len(said), 777)) + stream.flush()
    samples = np.frombuffer(sent, "<i2") / 32768
    assert len(samples) == round(len(said) * rate / 24_000)
    ideal = tone(440, 61, rate=rate)
    assert np.abs(samples[100 : len(ideal) - 100] - ideal[100:-100]).max() < 2e-4


def test_a_stream_goes_on_after_it_was_flushed() -> None:
    stream = OutputStream(AudioFormat("pcm", 8_000), 24_000)
    lengths = [len(stream.add(tone(300, 0.1, rate=24_000)) + stream.flush()) for _ in range(3)]
    assert lengths == [1_600] * 3
    assert stream.flush() == b""


def test_a_chunk_of_ten_minutes_is_the_same_as_small_ones() -> None:
    sent = to_int16(noises(60)["pink noise"]).tobytes() * 5
    format = AudioFormat("pcm", 24_000)
    whole = InputStream(format).add(sent)
    assert np.array_equal(whole, heard(InputStream(format), sent, [96_000]))


@settings(deadline=None, max_examples=40)
@given(cuts=st.lists(st.integers(0, 4_000), max_size=12), kind=st.sampled_from(["pcm", "pcmu", "pcma"]))
def test_where_the_bytes_are_cut_changes_nothing(cuts: list[int], kind: Kind) -> None:
    data = np.random.default_rng(1).integers(0, 256, 4_000, np.uint8).tobytes()
    format = AudioFormat(kind, 8_000)
    edges = [0, *sorted(cuts), len(data)]
    stream = InputStream(format)
    parts = [stream.add(data[start:end]) for start, end in itertools.pairwise(edges)]
    # Not to the bit: FFmpeg's filter sums in another order at another offset.
    np.testing.assert_allclose(np.concatenate(parts), InputStream(format).add(data), atol=1e-4)


@pytest.mark.parametrize("kind", ["pcmu", "pcma"])
def test_g711_stands_for_the_levels_that_ffmpeg_says(kind: Kind) -> None:
    codec: Any = av.CodecContext.create(CODECS[kind], "r")
    codec.sample_rate, codec.layout = 8_000, "mono"
    (frame,) = codec.decode(av.Packet(bytes(range(256))))
    assert np.array_equal(audio._levels(kind), frame.to_ndarray()[0])


@pytest.mark.parametrize(("kind", "quiet"), [("pcmu", 0xFF), ("pcma", 0xD5)])
def test_g711_survives_the_way_there_and_back(kind: Kind, quiet: int) -> None:
    format = AudioFormat(kind, 8_000)
    every = (audio._levels(kind) / 32767).astype(np.float32)
    assert np.array_equal(
        audio._levels(kind)[np.frombuffer(OutputStream(format, 8_000).add(every), np.uint8)],
        audio._levels(kind),
    )
    assert OutputStream(format, 8_000).add(np.zeros(3, np.float32)) == bytes([quiet] * 3)
    said = noises(2)["pink noise"]
    sent = np.frombuffer(OutputStream(format, 8_000).add(said), np.uint8)
    back = audio._decoder(kind)(sent.tobytes())
    noise = np.mean(np.square(back - said)) / np.mean(np.square(said))
    assert 10 * math.log10(noise) < -35  # dB, what the standard is made for


@pytest.mark.parametrize(
    ("kind", "rate"), [("pcm", 7_999), ("pcm", 48_001), ("pcmu", 16_000), ("pcma", 24_000)]
)
def test_a_rate_that_a_kind_does_not_have_is_refused(kind: Kind, rate: int) -> None:
    with pytest.raises(BadRequest, match=str(rate)):
        AudioFormat(kind, rate)


def test_loud_samples_are_clipped_and_do_not_wrap() -> None:
    sent = OutputStream(AudioFormat("pcm", 16_000), 16_000).add(np.array([2.0, -2.0], np.float32))
    assert np.frombuffer(sent, "<i2").tolist() == [32767, -32768]


def encoded(format: Format, sound: Sound, rate: int = 24_000) -> bytes:
    encoder = open_encoder(format, source_rate=rate, whole=True)
    return encoder.write(sound) + encoder.flush()


def muxed(
    container: str, codec: str, *, stereo: bool = False, seconds: float = 2.0, video: bool = False
) -> bytes:
    """A tone in a container that tier 2 does not make; with `video` a black picture instead."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        if video:
            picture: Any = output.add_stream(codec, rate=5)
            picture.width = picture.height = 64
            picture.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for _ in range(5):
                output.mux(picture.encode(av.VideoFrame(64, 64, "yuv420p")))
            output.mux(picture.encode(None))
        else:
            stream: Any = output.add_stream(codec, rate=48_000, layout="stereo" if stereo else "mono")
            stream.codec_context.open()
            samples = to_int16(tone(440, seconds, rate=48_000))
            samples = np.repeat(samples, 2) if stereo else samples
            frame = av.AudioFrame.from_ndarray(
                samples.reshape(1, -1), format="s16", layout="stereo" if stereo else "mono"
            )
            frame.sample_rate = 48_000
            resampler = av.AudioResampler(
                format=stream.format, layout=stream.layout, rate=48_000, frame_size=stream.frame_size
            )
            for part in [*resampler.resample(frame), *resampler.resample(None)]:
                output.mux(stream.encode(part))
            output.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize("format", [format for format in FORMATS if format != "pcm"])
def test_every_format_that_the_pair_speaks_is_heard(format: Format) -> None:
    got = read_audio(encoded(format, tone(440, 2, rate=24_000)))
    assert abs(len(got) / SAMPLE_RATE - 2) < 0.15
    assert loudest_hz(got) == pytest.approx(440, abs=2)


@pytest.mark.parametrize(
    ("container", "codec"), [("webm", "libopus"), ("ipod", "aac"), ("ogg", "libopus"), ("matroska", "aac")]
)
@pytest.mark.parametrize("stereo", [False, True])
def test_what_browsers_and_telephones_record_is_heard(container: str, codec: str, stereo: bool) -> None:
    got = read_audio(muxed(container, codec, stereo=stereo))
    assert abs(len(got) / SAMPLE_RATE - 2) < 0.15
    assert loudest_hz(got) == pytest.approx(440, abs=2)


def loudest_hz(sound: Sound) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(sound)))) * SAMPLE_RATE / len(sound)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not audio at all" * 100,
        b"\0" * 10_000,
        encoded("wav", tone(440, 0.1))[:20],
        b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data\0\0\0\0",
    ],
)
def test_what_is_no_audio_is_refused_in_a_sentence(data: bytes) -> None:
    with pytest.raises(BadRequest, match=r"send .*\.$|record again"):
        read_audio(data)


def test_a_film_without_sound_is_refused() -> None:
    with pytest.raises(BadRequest, match="holds no audio"):
        read_audio(muxed("matroska", "mjpeg", video=True))


def test_a_file_that_breaks_off_is_heard_as_far_as_it_goes() -> None:
    whole = encoded("wav", tone(440, 2, rate=24_000))
    assert len(read_audio(whole[: len(whole) // 2 + 1])) == pytest.approx(SAMPLE_RATE, abs=50)


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{}'\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
    ],
)
def test_a_playlist_cannot_make_the_server_read_its_own_files(playlist: str, tmp_path: Any) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(encoded("wav", tone(440, 1)))
    with pytest.raises(BadRequest):
        read_audio(playlist.format(secret).encode())


def test_a_small_file_of_hours_is_refused_before_it_is_unpacked() -> None:
    hours = encoded("flac", np.zeros(24_000 * 700, np.float32))
    assert len(hours) < 200_000
    with pytest.raises(BadRequest, match="longer than 10 minutes"):
        read_audio(hours)


@pytest.mark.parametrize("rate", [1, 500, 2_000_000_000])
def test_a_file_at_a_rate_that_nobody_records_at_is_refused(rate: int) -> None:
    wav = bytearray(encoded("wav", tone(440, 1)))
    wav[24:28] = rate.to_bytes(4, "little")
    with pytest.raises(BadRequest):
        read_audio(bytes(wav))


@settings(deadline=None, max_examples=60)
@given(
    format=st.sampled_from([format for format in FORMATS if format != "pcm"]),
    at=st.integers(0, 2_000),
    put=st.binary(min_size=1, max_size=40),
)
def test_a_damaged_file_is_heard_or_refused_and_nothing_else(format: Format, at: int, put: bytes) -> None:
    data = encoded(format, tone(440, 0.3, rate=24_000))
    at = min(at, len(data))
    try:
        got = read_audio(data[:at] + put + data[at + len(put) :])
    except BadRequest:
        return
    assert got.dtype == np.float32
    assert np.abs(got).max() <= 1


def test_damaged_aac_that_says_it_has_dozens_of_channels_crashes_nothing() -> None:
    rng = np.random.default_rng(11)
    whole = encoded("aac", tone(440, 0.3, rate=24_000))
    for _ in range(300):
        at, size = int(rng.integers(0, min(2_000, len(whole)))), int(rng.integers(1, 40))
        data = whole[:at] + rng.bytes(size) + whole[at + size :]
        with contextlib.suppress(BadRequest):
            read_audio(data)
