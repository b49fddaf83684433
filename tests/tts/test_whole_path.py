"""Both tiers as a user starts them: what is heard is exactly what the tokens say."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import httpx
import numpy as np
import pytest

from orpheus import embedded
from orpheus.codec.offline import OfflineDecoder
from orpheus.tts.encode import FORMATS, Format, to_int16
from tests.support.audio import decode
from tests.support.generation import codes_of, spoken
from tests.support.live import Pair, running_pair
from tests.support.sentences import SENTENCES as FORTY
from training.listen import hear, word_error_rate

SENTENCES = FORTY[:10]
FRAME = 2048  # samples


@pytest.fixture(scope="module")
def exact_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Nothing trimmed or levelled: the samples are the codec's."""
    with running_pair(tmp_path_factory.mktemp("exact"), ORPHEUS_POSTPROCESS="false") as pair:
        yield pair


@cache
def _offline() -> OfflineDecoder:
    return OfflineDecoder.load(embedded.CODEC)


@pytest.mark.slow
def test_ten_sentences_arrive_sample_for_sample_as_snac_decodes_them(exact_pair: Pair) -> None:
    heard, heard_offline = [], []
    for seed, sentence in enumerate(SENTENCES):
        samples = np.frombuffer(spoken(exact_pair.url, sentence, seed), "<i2")
        expected = to_int16(_offline().decode(codes_of(exact_pair.llama_url, sentence, seed), seed=seed))
        assert len(samples) == len(expected), "not one sample lost or repeated"
        error = samples.astype(int) - expected.astype(int)
        # The float sums of a decode in parts and of one at once differ by about 1e-6; where that falls on
        # the edge between two 16-bit values they round apart.
        assert np.max(np.abs(error[FRAME:])) <= 1
        # The first frame is approximated, so that it can leave early.
        assert np.max(np.abs(error[:FRAME])) <= 0.01 * 32768
        heard.append(hear(samples))
        heard_offline.append(hear(expected))
    rate, rate_offline = (word_error_rate(SENTENCES, texts) for texts in (heard, heard_offline))
    print(f"word error rate {rate:.2f}, offline {rate_offline:.2f}")
    assert (
        rate <= rate_offline + 0.06
    )  # four words of seventy: a rounding can tip what a recogniser takes a word for
    assert rate < 0.5, f"this is no speech: {heard}"


def test_every_format_holds_the_same_speech(pair: Pair) -> None:
    samples = len(spoken(pair.url, SENTENCES[0], 1)) // 2
    pad: dict[Format, int] = {"mp3": 1728, "aac": 2048}
    for format in FORMATS:
        data = spoken(pair.url, SENTENCES[0], 1, response_format=format)
        if format == "pcm":
            assert len(data) == samples * 2
            continue
        decoded, rate = decode(data)
        assert 0 <= len(decoded) * 24_000 / rate - samples <= pad.get(format, 0), format


@pytest.mark.parametrize("text", ["Hi.", "Yes", "No!", "Okay, thanks."])
def test_a_short_reply_is_sound(pair: Pair, text: str) -> None:
    samples = np.frombuffer(spoken(pair.url, text, 3), "<i2")
    assert len(samples) >= 4096
    assert np.max(np.abs(samples.astype(int))) > 500, "silence"


@pytest.mark.slow
def test_a_text_of_3000_characters_is_spoken_to_its_end(pair: Pair) -> None:
    text = " ".join(SENTENCES * 10)[:2999] + "."
    seconds = len(spoken(pair.url, text, 5)) / 2 / 24_000
    assert 3000 / 30 < seconds < 3000 / 7, "a voice says 7 to 30 characters a second"


def test_the_same_seed_is_the_same_audio_and_another_is_not(pair: Pair) -> None:
    first, again, other = (spoken(pair.url, SENTENCES[0], seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.slow
def test_in_one_process_it_is_the_same_audio(pair: Pair, tmp_path: Path) -> None:
    with running_pair(tmp_path, "--in-process") as single:
        assert spoken(single.url, SENTENCES[0], 1) == spoken(pair.url, SENTENCES[0], 1)
        assert httpx.get(f"{single.url}/health", trust_env=False).json()["status"] == "ready"


def test_a_request_has_one_id_in_the_log_of_both_tiers(pair: Pair) -> None:
    headers = {"x-request-id": "joined-by-this"}
    body = {"input": "Hello.", "voice": "tara", "response_format": "pcm"}
    answer = httpx.post(
        f"{pair.url}/v1/audio/speech", json=body, headers=headers, timeout=60, trust_env=False
    )
    assert answer.headers["x-request-id"] == "joined-by-this"
    deadline = time.monotonic() + 5  # tier 2 writes its line once the answer has gone
    while len(lines := [line for line in pair.log.read_text().splitlines() if "joined-by-this" in line]) < 2:
        assert time.monotonic() < deadline, lines
        time.sleep(0.05)
    assert any("/v1/completions" in line for line in lines)
    assert any("route=/v1/audio/speech" in line for line in lines)
