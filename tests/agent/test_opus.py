"""Opus as browsers stream it. Recordings: opus-recorder 8.0.5 with unmute's settings, MediaRecorder of Chromium."""

from __future__ import annotations

import io
import os
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpheus.agent import opus
from orpheus.agent.opus import OggOpusReader, OggOpusWriter, OpusReader, WebmReader
from orpheus.errors import BadRequest
from orpheus.tts.encode import to_int16
from tests.support.audio import decode
from tests.support.sounds import Sound, tone

RECORDINGS = Path(__file__).parent / "recordings"
Reader = OggOpusReader | WebmReader | OpusReader


def heard(reader: Reader, data: bytes, step: int | None = None) -> Sound:
    """What a reader gives of bytes in pieces of `step`."""
    step = step or max(1, len(data))
    parts = [part for at in range(0, len(data), step) for part in reader.add(data[at : at + step])]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def pages(stream: bytes) -> list[bytes]:
    return [b"OggS" + rest for rest in stream.split(b"OggS")[1:]]


@cache
def ogg(seconds: float = 1.0, hz: float = 440) -> bytes:
    writer = OggOpusWriter()
    return writer.write(tone(hz, seconds, rate=24_000)) + writer.flush()


@cache
def made(
    muxer: str, *, rate: int = 48_000, layout: str = "mono", codec: str = "libopus", **options: str
) -> bytes:
    """Two seconds of 440 Hz, as FFmpeg writes them into a file."""
    file = io.BytesIO()
    with av.open(file, "w", format=muxer, options=options) as container:
        stream: Any = container.add_stream(codec, rate=rate, layout=layout)
        channels = len(stream.layout.channels)
        samples = to_int16(np.repeat(tone(440, 2, rate=rate), channels))
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        resampler = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=rate)
        for converted in resampler.resample(frame):
            container.mux(stream.encode(converted))
        container.mux(stream.encode(None))
    return file.getvalue()


def pitch_hz(sound: Sound, rate: int = 16_000) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(sound * np.hanning(len(sound)))))) * rate / len(sound)


def level(sound: Sound) -> float:
    return float(np.sqrt(np.mean(sound**2)))


# Out


def test_every_20_ms_yields_its_page_at_once_and_the_first_the_headers_too() -> None:
    writer = OggOpusWriter()
    said = tone(440, 1, rate=24_000)
    sent = [writer.write(said[at : at + 480]) for at in range(0, len(said), 480)]
    assert [page.count(b"OggS") for page in sent] == [3] + 49 * [1]
    assert sent[0].startswith(b"OggS\0\x02")
    assert sent[0][28:36] == b"OpusHead"


def test_the_headers_can_be_had_before_there_is_anything_to_say() -> None:
    writer = OggOpusWriter()
    head = writer.begin()
    assert [page[28:36] for page in pages(head)] == [b"OpusHead", b"OpusTags"]
    assert writer.begin() == b""
    assert writer.write(np.zeros(480, np.float32)).count(b"OggS") == 1


@pytest.mark.parametrize("rate", [16_000, 24_000])
def test_what_comes_back_is_what_went_in_at_the_sample_where_it_was(rate: int) -> None:
    rng = np.random.default_rng(1)
    at_s = np.arange(24_000 * 3) / 24_000
    said = (0.3 * np.sin(2 * np.pi * (300 + 200 * at_s) * at_s)).astype(
        np.float32
    )  # a chirp has one place only
    writer, reader = OggOpusWriter(), OggOpusReader(rate)
    back, at = [], 0
    while at < len(said):
        size = int(rng.integers(1, 2_000))
        back.append(heard(reader, writer.write(said[at : at + size])))
        at += size
    whole = np.concatenate([*back, heard(reader, writer.flush())])
    length = 3 * rate
    assert (
        length <= len(whole) + 20 <= length + 0.04 * rate
    )  # silence to the end of a frame, less the filter's
    ideal = 0.3 * np.sin(2 * np.pi * (300 + 200 * np.arange(length) / rate) * np.arange(length) / rate)
    inner = slice(rate // 10, length - rate // 10)
    likeness = [
        np.corrcoef(np.roll(whole[:length], shift)[inner], ideal[inner])[0, 1] for shift in range(-40, 41)
    ]
    assert abs(int(np.argmax(likeness)) - 40) <= 1
    assert max(likeness) > 0.95  # of a chirp, which Opus draws roughly


def test_what_is_said_last_is_heard_and_the_stream_goes_on_after_it() -> None:
    writer, reader = OggOpusWriter(), OggOpusReader(24_000)
    for seconds in (0.011, 0.02, 0.5, 0.987):
        said = tone(440, seconds, rate=24_000)
        back = (
            heard(reader, writer.write(said))
            if seconds != 0.02
            else heard(reader, writer.write(to_int16(said)))
        )
        back = np.concatenate([back, heard(reader, writer.flush())])
        assert writer.flush() == b""
        assert len(back) >= len(said) - 20
        tail = back[max(0, len(said) - 240) : len(said)]
        assert level(tail) > 0.1


def test_other_players_read_what_is_written() -> None:
    samples, rate = decode(ogg(2))
    assert abs(len(samples) / rate - 2) < 0.04
    assert pitch_hz(samples[:rate], rate) == pytest.approx(440, abs=2)
    assert level(samples[rate // 2 : rate]) == pytest.approx(0.3 / 2**0.5, rel=0.05)


# In


@pytest.mark.parametrize(
    ("muxer", "options"),
    [
        ("ogg", {}),
        ("ogg", {"page_duration": "20000"}),
        ("ogg", {"layout": "stereo"}),
        ("ogg", {"rate": 16_000}),
        ("webm", {}),
        ("webm", {"cluster_time_limit": "100"}),
        ("webm", {"live": "1"}),
        ("webm", {"layout": "stereo", "cluster_size_limit": "500"}),
    ],
)
@pytest.mark.parametrize("step", [1, None])
def test_files_of_ffmpeg_are_read_in_pieces_of_any_size(
    muxer: str, options: dict[str, Any], step: int | None
) -> None:
    sound = heard(OpusReader(), made(muxer, **options), step)
    assert 1.98 <= len(sound) / 16_000 <= 2.05
    assert pitch_hz(sound[1_600:31_600]) == pytest.approx(440, abs=2)
    assert level(sound[1_600:31_600]) == pytest.approx(0.3 / 2**0.5, rel=0.05)


@pytest.mark.parametrize(
    ("name", "kind", "seconds"),
    [("opus-recorder.ogg", OggOpusReader, 1.9), ("chromium-100ms.webm", WebmReader, 1.9)],
)
@pytest.mark.parametrize("step", [1, 97, None])
def test_what_browsers_record_is_read(
    name: str, kind: Callable[[], Reader], seconds: float, step: int | None
) -> None:
    data = (RECORDINGS / name).read_bytes()
    for reader in (kind(), OpusReader()):
        sound = heard(reader, data, step)
        assert seconds <= len(sound) / 16_000 <= seconds + 0.25
        assert pitch_hz(sound[8_000:24_000]) == pytest.approx(440, abs=2)


@pytest.mark.parametrize("name", ["opus-recorder.ogg", "chromium-100ms.webm"])
def test_a_recording_gives_its_sound_as_it_arrives(name: str) -> None:
    data = (RECORDINGS / name).read_bytes()
    reader = OpusReader()
    lengths = [len(heard(reader, data[at : at + 200])) / 16_000 for at in range(0, len(data), 200)]
    behind_s, given_s = 0.0, 0.0
    total_s = sum(lengths)
    for number, length_s in enumerate(lengths):
        given_s += length_s
        behind_s = max(behind_s, total_s * (number + 1) / len(lengths) - given_s)
    assert behind_s < 0.15  # the biggest page, or block


def test_bytes_that_are_no_audio_cost_only_themselves() -> None:
    rng = np.random.default_rng(2)
    whole = pages(ogg(2))
    for junk in (
        rng.bytes(3_000),
        b"OggS",
        b"OggS" + bytes(23),
        b"OggS\0\0" + b"\xff" * 400,
        b"Og",
        b"OggSOggSOggS",
    ):
        reader = OggOpusReader()
        sent = b"".join(whole[:40]) + junk + b"".join(whole[40:])
        lost_s = len(heard(OggOpusReader(), b"".join(whole))) / 16_000 - len(heard(reader, sent, 50)) / 16_000
        assert lost_s < 0.001


@given(st.data())
@settings(max_examples=12, deadline=None)
def test_damage_anywhere_costs_a_gap_and_not_the_stream(data: st.DataObject) -> None:
    sent = bytearray(ogg(1) if data.draw(st.booleans()) else made("webm", cluster_time_limit="100"))
    beginning = max(600, sent.find(b"\x1f\x43\xb6\x75") + 4)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(beginning, len(sent) - 2_000))
        match data.draw(st.sampled_from(["change", "drop", "add"])):
            case "change":
                sent[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4))
            case "drop":
                del sent[at : at + data.draw(st.integers(1, 100))]
            case "add":
                sent[at:at] = data.draw(st.binary(min_size=1, max_size=300))
    reader = OpusReader()
    sound = np.zeros(0, np.float32)
    try:
        sound = heard(reader, bytes(sent), data.draw(st.sampled_from([1, 64, 10_000])))
    except BadRequest:
        pytest.fail("some bytes are no reason to complain")
    assert np.isfinite(sound).all()
    assert len(sound) > 0.2 * 16_000
    assert len(heard(reader, ogg() if sent.startswith(b"OggS") else made("webm"))) > 0.9 * 16_000


def test_a_damaged_packet_costs_a_gap() -> None:
    whole = pages(ogg(1))
    page = bytearray(whole[20])
    page[28:] = b"\xff" * (len(page) - 28)  # says more frames than it has
    page[22:26] = struct.pack("<I", opus._checksum(bytes(page)))
    sent = b"".join([*whole[:20], bytes(page), *whole[21:]])
    lost_s = (len(heard(OggOpusReader(), b"".join(whole))) - len(heard(OggOpusReader(), sent))) / 16_000
    assert lost_s == pytest.approx(0.02, abs=0.001)


def test_what_an_older_connection_left_is_skipped() -> None:
    old, new = pages(ogg(1, 440)), ogg(1, 1_000)
    for left in (b"".join(old[3:30]), old[10][30:] + old[11], b"".join(old[2:5])):
        for reader in (OggOpusReader(), OpusReader()):
            sound = heard(reader, left + new, 100)
            assert len(sound) < 1.05 * 16_000
            assert pitch_hz(sound[1_600:14_400]) == pytest.approx(1_000, abs=2)
    webm = made("webm", cluster_time_limit="100")
    reader = OpusReader()
    assert len(heard(reader, webm[3_000:6_000] + webm, 100)) == len(heard(OpusReader(), webm))


def test_a_stream_that_begins_in_the_middle_takes_the_place_of_the_other() -> None:
    first, second = ogg(1, 440), ogg(1, 1_000)
    for cut in (len(first), len(first) - 30, 700):
        sound = heard(OggOpusReader(), first[:cut] + second, 64)
        assert pitch_hz(sound[-14_400:-1_600]) == pytest.approx(1_000, abs=2)
    webm = made("webm", cluster_time_limit="100")
    twice = heard(WebmReader(), webm[: len(webm) // 2] + webm, 64)
    assert len(twice) > 1.25 * len(heard(WebmReader(), webm))


def test_other_streams_between_the_pages_are_ignored() -> None:
    first, second = pages(ogg(1, 440)), pages(ogg(1, 1_000))
    second[0] = second[0][:28] + b"\x7fFLAC" + second[0][33:]
    second[0] = second[0][:22] + struct.pack("<I", opus._checksum(second[0])) + second[0][26:]
    mixed = b"".join(page for pair in zip(first, second, strict=True) for page in pair)
    assert np.array_equal(heard(OggOpusReader(), mixed), heard(OggOpusReader(), b"".join(first)))


def test_a_packet_over_several_pages_and_one_too_long_for_any_packet() -> None:
    def page(number: int, flags: int, lacing: bytes, body: bytes) -> bytes:
        made = opus._PAGE.pack(b"OggS", 0, flags, 0, 7, number, 0, len(lacing)) + lacing + body
        return made[:22] + struct.pack("<I", opus._checksum(made)) + made[26:]

    head = page(0, 2, b"\x13", b"OpusHead" + struct.pack("<BBHIhB", 1, 1, 0, 48_000, 0, 0))
    long_tags = [page(1 + n, n and 1, b"\xff" * 255, b"OpusTags".ljust(65_025, b"x")) for n in range(30)]
    end_of_tags = page(31, 1, b"\x01", b"x")
    packet = b"\x03\x01" + bytes(298)  # one frame with 298 bytes, of 10 ms
    halves = [page(32, 0, b"\xff", packet[:255]), page(33, 1, b"\x2d", packet[255:])]
    reader = OggOpusReader()
    tracemalloc.start()
    for number, data in enumerate([head, *long_tags, end_of_tags]):
        assert not len(heard(reader, data)), number
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    tracemalloc.stop()
    assert not len(heard(reader, halves[0]))
    assert len(heard(reader, halves[1])) > 100
    # Where its other half is lost, it is no packet.
    assert not len(heard(reader, page(35, 1, b"\x2d", packet[255:])))


# What cannot be heard


def complaints(reader: Reader, data: bytes, step: int = 1_000) -> list[str]:
    told = []
    for at in range(0, len(data), step):
        try:
            for _ in reader.add(data[at : at + step]):
                pass
        except BadRequest as error:
            told.append(str(error))
    return told


@pytest.mark.parametrize("kind", [OggOpusReader, WebmReader, OpusReader])
def test_a_client_learns_once_that_nothing_of_what_it_sends_can_be_read(kind: Callable[[], Reader]) -> None:
    rng = np.random.default_rng(3)
    headless = b"".join(pages(ogg(20))[3:])
    for junk in (rng.bytes(300_000), headless, bytes(100_000)):
        told = complaints(kind(), junk)
        assert len(told) == 1
        assert "from its beginning" in told[0]


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (lambda: (RECORDINGS / "chromium.mp4").read_bytes(), "MP4"),
        (lambda: (RECORDINGS / "chromium-pcm.webm").read_bytes(), "A_PCM/FLOAT/IEEE"),
        (lambda: b"RIFF\xff\xff\xff\xffWAVEfmt ", "WAV"),
        (lambda: made("ogg", layout="5.1"), "6 channels"),
        (lambda: made("webm", layout="5.1"), "6 channels"),
        (lambda: made("matroska", codec="flac"), "A_FLAC"),
    ],
)
def test_what_is_sent_instead_is_named(data: Callable[[], bytes], word: str) -> None:
    told = complaints(OpusReader(), data()[:3_000])
    assert word in told[0]
    assert len(told) <= 2


def test_a_reader_goes_on_after_a_complaint() -> None:
    reader = OpusReader()
    complaints(reader, bytes(20_000))
    assert len(heard(reader, ogg(1))) > 15_000
    reader = OpusReader()
    complaints(reader, made("matroska", codec="flac"))
    assert len(heard(reader, made("webm"))) > 30_000


# Bounds


def repeated(reader: Reader) -> tuple[bytes, bytes]:
    """The beginning of a stream, and two seconds of it that may follow again and again."""
    if isinstance(reader, OggOpusReader):
        whole = pages(ogg(3))
        return b"".join(whole[:2]), b"".join(whole[2:102])
    webm = made("webm", cluster_time_limit="100")
    start = webm.index(b"\x1f\x43\xb6\x75")
    return webm[:start], webm[start : webm.rindex(b"\x1c\x53\xbb\x6b")]


@pytest.mark.parametrize("kind", [OggOpusReader, WebmReader])
def test_a_stream_that_goes_on_leaves_nothing_behind(kind: Callable[[], Reader]) -> None:
    reader = kind()
    start, piece = repeated(reader)
    assert not len(heard(reader, start))
    sizes = []
    tracemalloc.start()
    for _ in range(10):
        assert len(heard(reader, piece)) > 31_000
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert max(sizes[5:]) - sizes[5] < 5_000


def rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.slow
def test_five_minutes_there_and_back_take_no_more_memory_than_one() -> None:
    writer, reader = OggOpusWriter(), OggOpusReader()
    second = tone(440, 1, rate=24_000)
    count, after_a_minute = 0, 0
    for number in range(300):
        if number == 60:
            after_a_minute = rss()
        count += len(heard(reader, writer.write(second)))
    assert count / 16_000 == pytest.approx(300, abs=0.05)
    assert rss() - after_a_minute < 4_000_000


def hours() -> bytes:
    """Six thousand seconds of nothing, in half a megabyte."""
    packet = b"\x1b\x02" + bytes(6)  # 120 ms

    def page(number: int, flags: int, packets: list[bytes]) -> bytes:
        lacing = bytes(len(packet) for packet in packets)
        made = opus._PAGE.pack(b"OggS", 0, flags, 0, 7, number, 0, len(packets)) + lacing + b"".join(packets)
        return made[:22] + struct.pack("<I", opus._checksum(made)) + made[26:]

    head = b"OpusHead" + struct.pack("<BBHIhB", 1, 1, 0, 48_000, 0, 0)
    return page(0, 2, [head]) + page(1, 0, [packet] * 255) * 200


def test_a_huge_message_comes_in_pieces_and_is_decoded_only_as_they_are_taken() -> None:
    reader = OggOpusReader()
    pieces: Iterator[Sound] = reader.add(hours())
    tracemalloc.start()
    lengths = [len(next(pieces)) for _ in range(20)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 8_000 <= max(lengths) <= 16_000
    assert peak < 5_000_000
    with pytest.raises(BadRequest, match="longer than 60 s"):
        list(pieces)
    assert len(heard(reader, ogg(1))) > 15_000


@pytest.mark.parametrize(
    "junk",
    [
        b"OggS" * 20_000,
        (b"OggS\0\0" + bytes(20) + b"\xff") * 6_000,
        (b"OggS\0\0" + bytes(20) + b"\xff" + b"\xff" * 255) * 700,
        b"\x1a\x45\xdf\xa3" * 20_000,
        b"\x1a\x45\xdf\xa3\x80" + b"\x1f\x43\xb6\x75\x00" * 30_000,
        b"\x1a\x45\xdf\xa3\x80" + b"\xae\x80\x86\x84ABCD" * 8_000,
        b"\x1a\x45\xdf\xa3\x80" + bytes(200_000),
    ],
)
def test_a_message_of_what_looks_like_beginnings_is_over_soon(junk: bytes) -> None:
    for reader in (OggOpusReader(), WebmReader(), OpusReader()):
        started_s = time.process_time()
        complaints(reader, junk, len(junk))
        complaints(reader, junk, len(junk))
        assert time.process_time() - started_s < 2
