"""Conversations with the real voice activity, recogniser and voice, over an LLM that is scripted: what is said is heard."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import expect
from websockets.sync.client import connect

from orpheus.agent import hear
from orpheus.agent.audio import AudioFormat, InputStream, Samples
from orpheus.agent.conversation import Ports
from orpheus.agent.hear import Heard, WhisperRecognizer
from orpheus.agent.murmur import is_murmur
from orpheus.agent.turns import is_backchannel
from orpheus.agent.vad import VoiceActivity
from tests.agent.conftest import Host
from tests.support.agent import OUT_RATE, RealtimeClient, Script, audio_of, pcm16, silence, types
from tests.support.browser import Visit, chromium, with_microphone
from tests.support.generation import spoken
from tests.support.heard import words_wrong
from tests.support.live import ROOT, Pair, clean_environment
from tests.support.upstream import Upstream, whole
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow
QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris, which is a very old city."
STORY = [
    f"This is sentence number {n} of a long story about the sea. " for n in ("one", "two", "three", "four")
]
VOICES = ("tara", "leo", "dan", "mia", "zoe", "leah", "jess", "zac")


@pytest.fixture(scope="module")
def whisper() -> hear._Whisper:
    return hear._Whisper(("en",), 1)


Start = Callable[..., Host]


def real_ears(whisper: hear._Whisper) -> Callable[[Script], Ports]:
    return lambda script: Ports(VoiceActivity.load(), WhisperRecognizer(whisper, 1), script.thinker)


@pytest.fixture(scope="module")
def talking(start_host: Start, pair: Pair, whisper: hear._Whisper) -> Iterator[Host]:
    """An agent with the voice of the pair."""
    with ExitStack() as stack:
        yield start_host(stack, real_ears(whisper), llama_endpoint=pair.llama_url)


def words_in(whisper: hear._Whisper, pcm: bytes) -> Heard:
    samples = InputStream(AudioFormat("pcm", OUT_RATE)).add(pcm)
    text, likely = whisper.transcribe(samples, "en", None, threading.Event())
    return Heard(text, len(samples) / hear.SAMPLE_RATE, 0.0, likely)


def live(client: RealtimeClient, pcm: bytes) -> None:
    """As fast as it is spoken."""
    due_s = time.monotonic()
    for start in range(0, len(pcm), 4800):
        client.hear(pcm[start : start + 4800])
        due_s += 0.1
        time.sleep(max(0.0, due_s - time.monotonic()))


def test_a_spoken_question_is_understood_and_the_words_of_its_answer_are_heard(
    talking: Host, pair: Pair, whisper: hear._Whisper
) -> None:
    talking.script.thinker.answers = [[f"{word} " for word in ANSWER.split()], ["You are welcome."]]
    with connect(talking.url.replace("http", "ws", 1) + "/v1/realtime", proxy=None) as socket:
        client = RealtimeClient(socket, talking.script)
        live(client, spoken(pair.url, QUESTION, 3, voice="leo") + silence(800))
        events = client.until("response.done", timeout_s=40)
        assert words_wrong([QUESTION], [talking.script.thinker.last[-1][1]]) <= 0.2
        assert words_wrong([ANSWER], [words_in(whisper, audio_of(events)).text]) <= 0.25
        assert events[-1]["response"]["output"][0]["content"][0]["transcript"].strip() == ANSWER
        live(client, spoken(pair.url, "Thank you very much indeed.", 3, voice="leo") + silence(800))
        client.until("response.done", timeout_s=40)
        assert [role for role, _ in talking.script.thinker.last] == ["user", "assistant", "user"]


def hum(ms: int, hz: float, bend: float, dips: bool) -> bytes:
    """Behind closed lips, of a pitch that rises or falls; with `dips` it is two, with a breath between them."""
    count = OUT_RATE * ms // 1000
    at = np.arange(count) / count
    random = np.random.default_rng(ms)
    phase = 2 * np.pi * np.cumsum(hz * (1 + bend * (at - 0.5))) / OUT_RATE
    gains = [
        1 / (1 + ((k * hz - 250) / 100) ** 2) + 0.08 / (1 + ((k * hz - 1000) / 150) ** 2)
        for k in range(1, 20)
    ]
    buzz = sum(gain * np.sin(k * phase + random.uniform(0, 6)) for k, gain in enumerate(gains, 1))
    middle = np.exp(-(((at - 0.45) / 0.06) ** 2)) * dips
    sound = 0.2 * buzz / np.abs(buzz).max() * (1 - 0.9 * middle) + 0.02 * random.normal(size=count) * middle
    edges = np.minimum(1, np.minimum(np.arange(count), np.arange(count)[::-1]) / (0.03 * OUT_RATE))
    return pcm16(sound * edges)


HUMS: list[tuple[int, float, float, bool]] = [
    (ms, hz, bend, dips)
    for ms in (200, 300, 400, 500, 600)
    for hz, bend, dips in ((95, -0.25, False), (140, 0.3, ms >= 400), (210, -0.25, ms >= 500))
]
MURMURS = [("Mm-hmm.", voice) for voice in VOICES]
MURMURS += [(text, voice) for text in ("Mhm.", "Hmm.") for voice in VOICES[::2]]


class Ears(WhisperRecognizer):
    running = 0

    async def transcribe(
        self, samples: Samples, *, language: str | None = None, prompt: str | None = None
    ) -> Heard:
        self.running += 1
        try:
            return await super().transcribe(samples, language=language, prompt=prompt)
        finally:
            self.running -= 1


def test_of_15_hums_none_and_of_16_murmurs_three_at_most_stop_the_agent_or_make_a_turn(
    start_host: Start, pair: Pair, whisper: hear._Whisper, upstream: Upstream
) -> None:
    upstream.events = whole(40)
    sounds: dict[object, bytes] = {tried: hum(*tried) for tried in HUMS}
    sounds |= {tried: spoken(pair.url, tried[0], 3, voice=tried[1]) for tried in MURMURS}
    failed: list[object] = []
    ears = Ears(whisper, 1)
    with ExitStack() as stack:
        host = start_host(stack, lambda script: Ports(VoiceActivity.load(), ears, script.thinker))
        host.script.thinker.answers = [STORY * 10]
        url = host.url.replace("http", "ws", 1) + "/v1/realtime"
        client = RealtimeClient(stack.enter_context(connect(url, proxy=None)), host.script)
        client.send("response.create")
        client.until("response.output_audio.delta")
        for tried, sound in sounds.items():
            if tried in MURMURS[:8]:
                live(client, sound)
            else:
                client.hear(sound)
            client.hear(silence(700))
            events = client.flush()
            for _ in range(3):  # an echo is looked for before words are
                time.sleep(0.04)
                eventually(lambda: not ears.running)
            events += client.flush()
            if "input_audio_buffer.speech_started" in types(events):
                failed.append(tried)
                client.until("response.done")
                client.send("response.create")
                client.until("response.output_audio.delta")
    assert [tried for tried in failed if tried in HUMS] == []
    assert len(failed) <= 3, failed


def test_short_calls_are_no_murmurs(pair: Pair, whisper: hear._Whisper) -> None:
    calls = ("Stop it.", "Hold on.", "One moment.", "Never mind.", "Excuse me.", "No, no, no.", "Enough.")
    for text, voice in zip(calls, VOICES, strict=False):
        pcm = spoken(pair.url, text, 3, voice=voice)
        samples = InputStream(AudioFormat("pcm", OUT_RATE)).add(pcm)
        heard = words_in(whisper, pcm)
        assert heard.text, text
        assert not is_murmur(samples, heard), text
        assert not is_backchannel(heard.text), text


def recording(path: Path, *parts: bytes) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, OUT_RATE, 0, "NONE", ""))
        file.writeframes(b"".join(parts))
    return path


def test_the_clients_recording_is_answered_by_a_voice_whose_words_are_heard(
    talking: Host, pair: Pair, whisper: hear._Whisper, tmp_path: Path
) -> None:
    talking.script.thinker.answers = [[ANSWER]]
    recording(tmp_path / "q.wav", spoken(pair.url, QUESTION, 3, voice="leo"))
    words = [
        sys.executable,
        str(ROOT / "clients" / "realtime.py"),
        "q.wav",
        "--out",
        "a.wav",
        "--url",
        talking.url,
    ]
    done = subprocess.run(
        words, cwd=tmp_path, env=clean_environment(no_proxy="*"), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "France" in done.stdout
    assert f"Agent: {ANSWER}" in done.stdout
    assert re.search(r"first audio: \d+ ms from the end of speech", done.stdout)
    with wave.open(str(tmp_path / "a.wav")) as file:
        heard = words_in(whisper, file.readframes(file.getnframes()))
    assert words_wrong([ANSWER], [heard.text]) <= 0.25


def test_the_pages_microphone_is_answered_aloud_and_interrupts(
    talking: Host, pair: Pair, whisper: hear._Whisper, tmp_path: Path
) -> None:
    talking.script.thinker.answers = [STORY * 2, [ANSWER]]
    microphone = recording(
        tmp_path / "microphone.wav",
        silence(500),
        spoken(pair.url, "Please tell me a story about the sea.", 3, voice="leo"),
        silence(6000),
        spoken(pair.url, "Please stop and tell me the capital of France.", 3, voice="leo"),
        silence(1000),
    )
    with chromium(*with_microphone(microphone)) as browser:
        visit = Visit(browser, talking.url, permissions=["microphone"])
        visit.page.click("#tab-talk")
        visit.page.click("#converse")
        told, answers = visit.page.locator("#log .user .words"), visit.page.locator("#log .assistant .words")
        expect(told.nth(0)).to_contain_text(re.compile("story", re.IGNORECASE), timeout=20_000)
        expect(told.nth(1)).to_contain_text(re.compile("France", re.IGNORECASE), timeout=30_000)
        expect(answers.nth(1)).to_contain_text(ANSWER, timeout=30_000)
        expect(visit.page.locator("#status")).to_contain_text("Listening", timeout=30_000)
        heard: NDArray[np.int16] = visit.heard()
        visit.close()
        assert visit.errors == []
    text = words_in(whisper, heard.tobytes()).text
    assert "long story about the sea" in text.lower()
    assert "number four" not in text.replace("4", "four").lower(), "it was interrupted"
    assert text.rstrip(".").lower().endswith("old city")
    (story,) = [text for role, text in talking.script.thinker.last if role == "assistant"]
    assert "".join(STORY).startswith(story)
    assert len(story) < len("".join(STORY)), "the history is cut where it was interrupted"
