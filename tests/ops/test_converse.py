"""`orpheus converse`: as a program with the embedded agent, and against a scripted one."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from orpheus.http.body_limit import MAX_RECORDING_BYTES
from orpheus.tts.encode import wav_header
from tests.support.audio import decode
from tests.support.command import orpheus
from tests.support.live import clean_environment, free_port, served

PATH = "/v1/audio/speech-to-speech"
SECOND = b"\1\0" * 24_000


class Agent:
    """A server of the route, which answers with one second of audio."""

    def __init__(self) -> None:
        self.recordings: list[bytes] = []
        self.fields: list[dict[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.refusal: Response | None = None
        self.failure: str | None = None  # after half of the audio
        self.breaks = False  # at that place
        self.app = Starlette(routes=[Route(PATH, self._answer, methods=["POST"])])

    async def _answer(self, request: Request) -> Response:
        self.recordings.append(await request.body())
        self.fields.append(dict(request.query_params))
        self.headers.append(dict(request.headers))
        headers = {"x-sample-rate": "24000"}
        return self.refusal or StreamingResponse(
            self._events(), media_type="text/event-stream", headers=headers
        )

    async def _events(self) -> AsyncIterator[str]:
        yield event("transcript.done", text='Say "hi".', asr_ms=210.0)
        yield event("answer.delta", delta="Hi.")
        header = wav_header(24_000) if self.fields[-1]["response_format"] == "wav" else b""
        yield event("speech.audio.delta", audio=base64.b64encode(header + SECOND[:24_000]).decode())
        if self.failure:
            yield event("error", error={"message": self.failure})
        if self.breaks or self.failure:
            raise ConnectionResetError
        yield event("speech.audio.delta", audio=base64.b64encode(SECOND[24_000:]).decode())
        timings = {"asr_ms": 210.0, "llm_ms": 350.0, "tts_ms": 1200.0, "first_audio_ms": 80.0}
        yield event("speech.audio.done", transcript='Say "hi".', answer="Hi.", timings=timings, usage={})


def event(type: str, **fields: Any) -> str:
    return f"data: {json.dumps({'type': type, **fields})}\n\n"


@pytest.fixture
def question(tmp_path: Path) -> Path:
    path = tmp_path / "question.wav"
    path.write_bytes(wav_header(24_000, len(SECOND)) + SECOND)
    return path


def converse(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return orpheus("converse", *arguments, "--url", url, NO_PROXY="127.0.0.1")


def test_an_agent_is_asked_and_each_stage_is_told(question: Path, tmp_path: Path) -> None:
    agent, out = Agent(), tmp_path / "answer.wav"
    options = ["--voice", "leo", "--speed", "1.5", "--instructions", "Be brief.", "--language", "en"]
    with served(agent.app) as url:
        done = converse(url, str(question), str(out), *options, "--key", "mine")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        '[ASR] transcribed in 0.21 s: "Say "hi"."',
        '[LLM] answered in 0.35 s: "Hi."',
        "[TTS] spoke in 1.20 s, the first audio after 0.08 s",
        str(out),
    ]
    assert out.read_bytes() == wav_header(24_000, len(SECOND)) + SECOND, "with its length"
    assert agent.recordings == [question.read_bytes()]
    assert agent.headers[0]["x-api-key"] == "mine"
    assert agent.fields[0] == {
        "voice": "leo",
        "response_format": "wav",
        "speed": "1.5",
        "instructions": "Be brief.",
        "language": "en",
        "stream_format": "sse",
    }


def test_a_dash_is_standard_input_and_output(question: Path) -> None:
    agent = Agent()
    with served(agent.app) as url:
        command = [sys.executable, "-m", "orpheus", "converse", "-", "-", "--format", "pcm", "--url", url]
        done = subprocess.run(
            command,
            input=question.read_bytes(),
            capture_output=True,
            env=clean_environment(NO_PROXY="127.0.0.1"),
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout == SECOND
    assert agent.recordings == [question.read_bytes()]
    assert [line[:5] for line in done.stderr.decode().splitlines()] == ["[ASR]", "[LLM]", "[TTS]"]


def refuses(agent: Agent) -> None:
    body = {"error": {"message": "Nobody was heard to speak.", "code": "no_speech"}}
    agent.refusal = JSONResponse(body, 400)


def is_none(agent: Agent) -> None:
    agent.refusal = Response("Not found", 404)


def fails(agent: Agent) -> None:
    agent.failure = "The LLM broke off."


def breaks(agent: Agent) -> None:
    agent.breaks = True


def babbles(agent: Agent) -> None:
    agent.refusal = Response("data: [1, 2]\n\n", media_type="text/event-stream")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (refuses, "answered 400: .*Nobody was heard to speak"),
        (is_none, "start it with `orpheus talk`"),
        (fails, "The LLM broke off."),
        (breaks, "broke off"),
        (babbles, "is it an agent?"),
    ],
)
def test_a_failure_is_a_sentence_and_leaves_no_file(
    question: Path, tmp_path: Path, script: Any, message: str
) -> None:
    agent, out = Agent(), tmp_path / "answer.mp3"
    out.write_bytes(b"mine")
    script(agent)
    with served(agent.app) as url:
        done = converse(url, str(question), str(out))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert re.search(message, line)
    assert out.read_bytes() == b"mine"
    assert {path.name for path in tmp_path.iterdir()} == {"question.wav", "answer.mp3"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.wav", "a.wav"], "no.wav cannot be read: No such file"),
        (["question.wav", "a.docx"], "use a name ending in one of"),
        (["question.wav", "no/such/a.wav"], "There is no folder"),
        (["question.wav", "a.wav", "--format", "midi"], "There is no format"),
        (["long.wav", "a.wav"], "compress it"),
    ],
)
def test_what_is_wrong_with_the_files_is_told_before_anything_is_asked(
    question: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "long.wav").open("wb") as file:
        file.truncate(MAX_RECORDING_BYTES + 1)
    done = converse(f"http://127.0.0.1:{free_port()}", *arguments)
    assert done.returncode == 1
    assert message in done.stderr


def test_nothing_that_answers_is_told(question: Path, tmp_path: Path) -> None:
    done = converse(f"http://127.0.0.1:{free_port()}", str(question), str(tmp_path / "a.wav"))
    assert done.returncode == 1
    assert "Nothing answers" in done.stderr
    assert "orpheus talk" in done.stderr


@pytest.mark.slow
def test_a_spoken_question_is_answered_without_a_server(tmp_path: Path) -> None:
    question, out = tmp_path / "question.wav", tmp_path / "answer.flac"
    assert orpheus("say", "What is the capital of France?", "--out", str(question)).returncode == 0
    done = orpheus("converse", str(question), str(out), "--language", "en")
    assert done.returncode == 0, done.stderr
    heard, answered, spoke, named = done.stdout.splitlines()
    assert re.fullmatch(r'\[ASR\] transcribed in [\d.]+ s: "What is the capital of France\?"', heard)
    assert re.fullmatch(r'\[LLM\] answered in [\d.]+ s: ".+"', answered)
    assert re.fullmatch(r"\[TTS\] spoke in [\d.]+ s, the first audio after [\d.]+ s", spoke)
    assert named == str(out)
    assert len(decode(out.read_bytes())[0]) > 12_000


@pytest.mark.slow
def test_without_a_server_a_recording_of_nothing_is_told(tmp_path: Path) -> None:
    question = tmp_path / "silence.wav"
    question.write_bytes(wav_header(24_000, 48_000) + bytes(48_000))
    done = orpheus("converse", str(question), str(tmp_path / "a.wav"))
    assert done.returncode == 1
    assert "Nobody was heard to speak" in done.stderr
    wrong = orpheus("converse", str(question), str(tmp_path / "a.wav"), "--language", "English")
    assert (wrong.returncode, "language" in wrong.stderr, "Traceback" in wrong.stderr) == (1, True, False)
