"""`clients/realtime.py` as a program, against a scripted agent."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import textwrap
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from starlette.applications import Starlette
from websockets.asyncio.client import ClientConnection

from clients.realtime import RATE, Conversation, Speaker, resample
from tests.support.audio import decode
from tests.support.live import ROOT, clean_environment, free_port, served
from tests.support.realtime_server import Answer, ScriptedRealtime
from tests.support.waiting import eventually

CLIENT = str(ROOT / "clients" / "realtime.py")
LONG = Answer("A long answer that is cut off before it ends because they talk", value=3000, word_s=0.4)


@pytest.fixture
def agent() -> ScriptedRealtime:
    return ScriptedRealtime()


@pytest.fixture
def url(agent: ScriptedRealtime) -> Iterator[str]:
    with served(Starlette(routes=agent.routes)) as url:
        yield url


def begin(url: str, *arguments: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, CLIENT, *arguments, "--url", url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=clean_environment(no_proxy="*", **environment),
        # As in a terminal; a test run in the background would pass on that it ignores Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def run(url: str, *arguments: str, cwd: Path, **environment: str) -> tuple[int, str, str]:
    """The exit code and what was printed on standard output and standard error."""
    with begin(url, *arguments, cwd=cwd, **environment) as process:
        out, errors = process.communicate(timeout=40)
    return process.returncode, out, errors


def sound(*parts: float, rate: int = RATE, channels: int = 1) -> bytes:
    """A WAV of silence, a hum, silence, … each so many seconds long."""
    pieces = []
    for index, seconds in enumerate(parts):
        time_s = np.arange(round(seconds * rate)) / rate
        pieces.append(np.sin(2 * np.pi * 200 * time_s) * 8000 * (index % 2))
    samples = np.repeat(np.concatenate(pieces).astype("<i2"), channels)
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setparams((channels, 2, rate, 0, "NONE", ""))
        wav.writeframes(samples.tobytes())
    return file.getvalue()


def test_a_recorded_question_is_answered_into_a_file_with_the_time_of_each_stage(
    agent: ScriptedRealtime, url: str, tmp_path: Path
) -> None:
    agent.heard, agent.answers = ["What is it?"], [Answer("It is Paris.", 3000, 0.2)]
    (tmp_path / "q.wav").write_bytes(sound(0.2, 0.6, 0.1))
    options = ("--voice", "leo", "--instructions", "Be brief.", "--language", "en", "--turns", "semantic_vad")
    code, out, errors = run(url, "q.wav", "--out", "a.wav", *options, cwd=tmp_path, ORPHEUS_API_KEY="")
    assert (code, errors) == (0, "")
    lines = out.splitlines()
    assert lines[:2] == ["You: What is it?", "Agent: It is Paris."]
    assert lines[2].startswith("  first audio: 780 ms from the end of speech, ")
    assert lines[2].endswith("end of turn 500, transcript 140, LLM 90, first clause 60, voice 70")
    assert lines[3] == "a.wav: 0.60 s of answers"
    samples, rate = decode((tmp_path / "a.wav").read_bytes())
    assert rate == RATE
    assert np.array_equal(np.rint(samples * 32768), np.full(round(0.6 * RATE), 3000))
    session = agent.received[0]["session"]
    assert session["instructions"] == "Be brief."
    assert session["audio"]["output"]["voice"] == "leo"
    assert session["audio"]["input"]["transcription"]["language"] == "en"
    assert session["audio"]["input"]["turn_detection"]["type"] == "semantic_vad"


def test_a_recording_is_sent_as_fast_as_it_was_spoken(
    agent: ScriptedRealtime, url: str, tmp_path: Path
) -> None:
    (tmp_path / "q.wav").write_bytes(sound(3.0))
    with begin(url, "q.wav", cwd=tmp_path) as process:
        eventually(lambda: len(agent.audio) > 0.2 * RATE * 2)
        assert len(agent.audio) < 2.5 * RATE * 2
        process.kill()
        process.communicate()


def test_a_recording_that_interrupts_hears_only_the_beginning_of_the_answer(
    agent: ScriptedRealtime, url: str, tmp_path: Path
) -> None:
    agent.heard, agent.answers = ["Talk.", "Stop."], [LONG, Answer("Fine.", 5000, 0.3)]
    (tmp_path / "q.wav").write_bytes(sound(0.2, 0.5, 2.0, 0.5, 0.1))
    code, out, _ = run(url, "q.wav", "--out", "a.wav", cwd=tmp_path)
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith("You")] == ["You: Talk.", "You: Stop."]
    assert "(interrupted)" in out
    (truncated,) = [event for event in agent.received if event["type"] == "conversation.item.truncate"]
    samples = np.rint(decode((tmp_path / "a.wav").read_bytes())[0] * 32768)
    first = int(np.count_nonzero(samples == 3000))
    assert first / RATE * 1000 == pytest.approx(truncated["audio_end_ms"], abs=2)
    assert 0.5 < first / RATE < 3.0
    assert np.array_equal(samples[first:], np.full(round(0.3 * RATE), 5000))


def test_a_noise_before_the_question_is_not_waited_for(
    agent: ScriptedRealtime, url: str, tmp_path: Path
) -> None:
    agent.heard, agent.answers = [None, "What is it?"], [Answer("It is Paris.", 3000, 0.2)]
    (tmp_path / "q.wav").write_bytes(sound(0.2, 0.3, 0.7, 0.5, 0.1))
    code, out, errors = run(url, "q.wav", cwd=tmp_path)
    assert (code, errors) == (0, "")
    said = [line for line in out.splitlines() if line.startswith(("You", "Agent"))]
    assert said == ["You: What is it?", "Agent: It is Paris."]


def test_typed_turns_are_answered_one_after_another(
    agent: ScriptedRealtime, url: str, tmp_path: Path
) -> None:
    agent.answers = [Answer("One.", 3000, 0.2), Answer("Two.", 5000, 0.2)]
    code, out, errors = run(url, "--text", "First?", "--text", "Second?", cwd=tmp_path)
    assert (code, errors) == (0, "")
    said = [line for line in out.splitlines() if line.startswith(("You", "Agent"))]
    assert said == ["You: First?", "Agent: One.", "You: Second?", "Agent: Two."]
    samples = np.rint(decode((tmp_path / "answer.wav").read_bytes())[0] * 32768)
    assert list(np.unique(samples)) == [3000, 5000]


@pytest.mark.anyio
async def test_two_turns_that_are_answered_together_are_not_waited_for_twice() -> None:
    conversation = Conversation(cast(ClientConnection, None), Speaker(None, play=False))
    for event in (
        {"type": "input_audio_buffer.speech_started"},
        {"type": "input_audio_buffer.speech_stopped"},
        {"type": "input_audio_buffer.speech_started"},
        {"type": "input_audio_buffer.speech_stopped"},
        {"type": "response.created", "response": {"id": "r"}},
    ):
        await conversation._event(event)
        assert not conversation.idle
    await conversation._event(
        {"type": "response.done", "response": {"id": "r", "status": "completed", "output": []}}
    )
    assert conversation.idle


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16_000, 2), (44_100, 1), (48_000, 2)])
def test_a_wav_of_another_rate_is_the_same_sound(
    agent: ScriptedRealtime, url: str, tmp_path: Path, rate: int, channels: int
) -> None:
    (tmp_path / "q.wav").write_bytes(sound(0.1, 1.0, rate=rate, channels=channels))
    code, _, errors = run(url, "q.wav", cwd=tmp_path)
    assert (code, errors) == (0, "")
    heard = np.frombuffer(bytes(agent.audio), "<i2").astype(float)[round(0.1 * RATE) : round(1.1 * RATE)]
    spectrum = np.abs(np.fft.rfft(heard))
    assert np.argmax(spectrum) == pytest.approx(200, abs=1)  # Hz, of one second
    assert spectrum[190:211].sum() > 0.8 * spectrum.sum()


def test_resampling_keeps_the_length() -> None:
    for rate in (8000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000):
        assert len(resample([0.0] * rate, rate)) == pytest.approx(2 * RATE, abs=4)
    assert resample([], 8000) == b""


def refused(agent: ScriptedRealtime) -> None:
    agent.refusal = (1013, "All of its conversations are taken.")


def needs_a_key(agent: ScriptedRealtime) -> None:
    agent.keys = {"mine"}


def deaf(agent: ScriptedRealtime) -> None:
    agent.heard = [""]


def unmoved(agent: ScriptedRealtime) -> None:
    agent.heard = [None]


def full(agent: ScriptedRealtime) -> None:
    agent.full_s = 17


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (refused, "All of its conversations are taken."),
        (needs_a_key, "answered 403"),
        (full, "is full: try again in 17 s."),
        (deaf, "The server heard no speech in the recording."),
        (unmoved, "The server heard no speech in the recording."),
    ],
)
def test_a_failure_is_a_sentence_and_an_exit_code(
    agent: ScriptedRealtime, url: str, tmp_path: Path, script: object, message: str
) -> None:
    script(agent)  # type: ignore[operator]
    (tmp_path / "q.wav").write_bytes(sound(0.1, 0.5))
    (tmp_path / "answer.wav").write_bytes(b"mine")
    code, _, errors = run(url, "q.wav", cwd=tmp_path)
    assert code == 1
    (line,) = errors.splitlines()
    assert message in line
    assert (tmp_path / "answer.wav").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["no.wav"], "No such file", 1),
        (["text.wav"], "not a WAV that can be read", 1),
        (["--text", "Hi.", "--out", "no/such/a.wav"], "no/such/a.wav cannot be written", 1),
        ([], "name a WAV", 2),
    ],
)
def test_what_is_wrong_with_the_files_is_told(
    url: str, tmp_path: Path, arguments: list[str], message: str, code: int
) -> None:
    (tmp_path / "text.wav").write_text("This is no sound.")
    found, _, errors = run(url, *arguments, cwd=tmp_path)
    assert found == code
    assert message in errors
    assert "Traceback" not in errors


def test_a_server_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    code, _, errors = run(f"http://127.0.0.1:{free_port()}", "--text", "Hi.", cwd=tmp_path)
    assert code == 1
    assert len(errors.splitlines()) == 1


def test_a_server_without_an_agent_says_how_to_start_it(tmp_path: Path) -> None:
    with served(Starlette()) as url:
        code, _, errors = run(url, "--text", "Hi.", cwd=tmp_path)
    assert code == 1
    assert "orpheus talk" in errors


def test_ctrl_c_keeps_what_was_heard(agent: ScriptedRealtime, url: str, tmp_path: Path) -> None:
    agent.answers = [LONG]
    with begin(url, "--text", "Talk.", cwd=tmp_path) as process:
        eventually(lambda: sum(e["type"] == "response.output_audio.delta" for e in agent.sent) > 12)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "s of answers" in out
    assert len(decode((tmp_path / "answer.wav").read_bytes())[0]) > RATE
    eventually(lambda: not agent.sessions)


SOUND_CARD = """
import threading, time
class PortAudioError(Exception): pass
class RawInputStream:
    def __init__(self, samplerate, channels, dtype, blocksize, callback):
        self.blocksize, self.callback = blocksize, callback
    def start(self): threading.Thread(target=self.run, daemon=True).start()
    def run(self):
        for number in range(1000):
            loud = 10 <= number < 25
            self.callback((b"\\0\\x20" if loud else b"\\0\\0") * self.blocksize, self.blocksize, None, None)
            time.sleep(0.04)
    def stop(self): pass
    def close(self): pass
class RawOutputStream:
    def __init__(self, samplerate, channels, dtype, callback):
        self.callback, self.file = callback, open("played", "wb")
    def start(self): threading.Thread(target=self.run, daemon=True).start()
    def run(self):
        while True:
            out = bytearray(960)
            self.callback(out, 480, None, None)
            self.file.write(out)
            self.file.flush()
            time.sleep(0.02)
    def stop(self): pass
    def close(self): pass
"""


def test_the_microphone_is_sent_and_answers_are_played(
    agent: ScriptedRealtime, url: str, tmp_path: Path
) -> None:
    agent.answers = [Answer("Yes.", 3000, 0.2)]
    (tmp_path / "sounddevice.py").write_text(textwrap.dedent(SOUND_CARD))
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    played = tmp_path / "played"

    def answered() -> bool:
        return played.exists() and np.count_nonzero(np.frombuffer(played.read_bytes()[:-960], "<i2")) >= 4800

    with begin(url, "--microphone", "--play", cwd=tmp_path, PYTHONPATH=path) as process:
        eventually(answered)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Agent: Yes." in out
    assert "Traceback" not in errors
    samples = np.frombuffer(played.read_bytes(), "<i2")
    assert np.count_nonzero(samples == 3000) == 4800


def test_without_a_sound_card_one_sentence_says_what_to_do(url: str, tmp_path: Path) -> None:
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    code, _, errors = run(url, "--text", "Hi.", "--play", cwd=tmp_path, PYTHONPATH=path)
    assert code == 1
    (line,) = errors.splitlines()
    assert "pip install sounddevice" in line
