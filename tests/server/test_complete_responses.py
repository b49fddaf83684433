"""`stream: false` and `sample_rate`: responses of known length, at the requested rate."""

from __future__ import annotations

import io
import wave
from collections.abc import Callable

import av
import httpx
import pytest

from orpheus.tts.encode import CONTENT_TYPES, FORMATS, Format
from tests.support.audio import decode
from tests.support.speech import PATH, SAMPLES, ask, error_of
from tests.support.upstream import Upstream

Start = Callable[..., httpx.Client]


@pytest.mark.parametrize("format", FORMATS)
def test_a_complete_response_states_its_length(speech: Start, format: Format) -> None:
    response = speech().post(PATH, json=ask(response_format=format, stream=False))
    assert response.headers["content-type"] == CONTENT_TYPES[format]
    assert int(response.headers["content-length"]) == len(response.content)
    assert "transfer-encoding" not in response.headers
    if format == "pcm":
        assert len(response.content) == SAMPLES * 2
    elif format == "aac":  # ADTS has no field for a length
        assert len(decode(response.content)[0]) >= SAMPLES
    elif format == "opus":
        samples, rate = decode(response.content)
        assert len(samples) == SAMPLES * rate / 24_000
    else:
        assert len(decode(response.content)[0]) == SAMPLES


def test_a_complete_wav_has_a_correct_header(speech: Start) -> None:
    client = speech()
    content = client.post(PATH, json=ask(response_format="wav", stream=False)).content
    with wave.open(io.BytesIO(content)) as wav:
        assert (wav.getnframes(), wav.getframerate(), wav.getnchannels()) == (SAMPLES, 24_000, 1)
    assert int.from_bytes(content[4:8], "little") == len(content) - 8
    streamed = client.post(PATH, json=ask(response_format="wav")).content
    assert content[44:] == streamed[44:]


def test_a_complete_flac_or_mp3_states_its_duration(speech: Start) -> None:
    for format in ("flac", "mp3"):
        content = speech().post(PATH, json=ask(response_format=format, stream=False)).content
        if format == "flac":
            assert int.from_bytes(content[21:26], "big") & ((1 << 36) - 1) == SAMPLES
        else:
            assert b"Xing" in content[:200] or b"Info" in content[:200]
        with av.open(io.BytesIO(content)) as opened:
            assert opened.duration is not None
            assert opened.duration / 1e6 == pytest.approx(SAMPLES / 24_000, abs=0.06)


def test_a_failed_complete_response_is_an_error_never_partial_audio(
    speech: Start, upstream: Upstream
) -> None:
    upstream.break_after = 5
    response = speech().post(PATH, json=ask(stream=False))
    assert response.status_code == 502
    assert error_of(response)["code"] == "upstream_error"


@pytest.mark.parametrize(("format", "requested", "used"), [
    ("pcm", 16_000, 16_000), ("wav", 8000, 8000), ("wav", 44_100, 44_100), ("flac", 22_050, 22_050),
    ("mp3", 17_000, 22_050), ("opus", 16_000, 16_000), ("opus", 44_100, 48_000), ("aac", 48_000, 48_000),
])  # fmt: skip
def test_the_requested_sample_rate_is_used_and_reported(
    speech: Start, format: Format, requested: int, used: int
) -> None:
    response = speech().post(PATH, json=ask(response_format=format, sample_rate=requested, stream=False))
    assert response.headers["x-sample-rate"] == str(used)
    assert (response.headers["x-channels"], response.headers["x-bit-depth"]) == ("1", "16")
    if format == "pcm":
        seconds = len(response.content) / 2 / used
    else:
        samples, rate = decode(response.content)
        assert rate == (48_000 if format == "opus" else used)
        seconds = len(samples) / rate
    assert seconds == pytest.approx(SAMPLES / 24_000, abs=0.1)


@pytest.mark.parametrize("rate", [7999, 48_001, "high"])
def test_a_sample_rate_out_of_range_is_a_400(speech: Start, rate: object) -> None:
    assert error_of(speech().post(PATH, json=ask(sample_rate=rate)))["param"] == "sample_rate"


@pytest.mark.parametrize(
    "unset", [{"instructions": ""}, {"instructions": "None"}, {"voice": None, "speed": None}]
)
def test_values_that_clients_send_for_unset_count_as_unset(speech: Start, unset: dict[str, object]) -> None:
    assert speech().post(PATH, json=ask() | unset).status_code == 200
