"""`clients/websocket_stream.py` as a program, against a scripted server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import textwrap
import wave
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection

from clients.websocket_stream import Figures
from tests.support.live import ROOT, clean_environment
from tests.support.scripted import Script, scripted
from tests.support.waiting import until

pytestmark = pytest.mark.anyio
CLIENT = str(ROOT / "clients" / "websocket_stream.py")
SECOND = b"\x01\x00" * 24_000


class Session:
    """A server's end of one connection: what it was sent, and how it answers once it has all of the text."""

    def __init__(self, answer: Script | None = None) -> None:
        self.events: list[dict[str, Any]] = []
        self._answer = answer or speech(0.5)
        self.close_code: int | None = None

    async def __call__(self, socket: ServerConnection) -> None:
        async for message in socket:
            self.events.append(json.loads(message))
            if self.events[-1]["type"] == "input.done":
                await self._answer(socket)
            if self.events[-1]["type"] == "input.cancel":
                await say(socket, "audio.cancelled", utterance_index=0, sent_s=1.0)
            if self.events[-1]["type"] == "session.close":
                break
        await socket.close()
        self.close_code = socket.close_code

    @property
    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]

    @property
    def text(self) -> str:
        return "".join(event["text"] for event in self.events if event["type"] == "input.text")


async def say(socket: ServerConnection, type_: str, **fields: Any) -> None:
    await socket.send(json.dumps({"type": type_, **fields}))


async def start(socket: ServerConnection, sample_rate: int = 24_000) -> None:
    await say(socket, "audio.start", utterance_index=0, sample_rate=sample_rate, format="pcm", channels=1)


def speech(seconds: float) -> Script:
    async def answer(socket: ServerConnection) -> None:
        await start(socket)
        await say(socket, "audio.word", utterance_index=0, text="Hello,", start_s=0.0, stop_s=0.2)
        await socket.send(SECOND[: int(seconds * 48_000)])
        await say(socket, "audio.word", utterance_index=0, text="you.", start_s=0.2, stop_s=0.4)
        await say(socket, "audio.done", utterance_index=0, total_bytes=1, duration_s=seconds, error=False)
        await say(socket, "session.done", utterance_index=0, total_sentences=1)

    return answer


async def begin(url: str, *arguments: str, **environment: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        CLIENT,
        *arguments,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env=clean_environment(
            **{"ORPHEUS_FASTAPI_URL": url.replace("ws", "http", 1), "no_proxy": "*"} | environment
        ),
        # As in a terminal; a test run in the background would pass on that it ignores Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


async def run(url: str, *arguments: str, text: bytes = b"", **environment: str) -> tuple[int, str, str]:
    """The exit code and what was printed on standard output and standard error."""
    process = await begin(url, *arguments, **environment)
    out, errors = await asyncio.wait_for(process.communicate(text), 20)
    return process.returncode or 0, out.decode(), errors.decode()


def frames(path: Path) -> int:
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24_000, 1, 2)
        return file.getnframes()


async def test_a_text_is_written_to_a_file_and_its_figures_are_printed(tmp_path: Path) -> None:
    session = Session()
    async with scripted(session) as url:
        code, out, errors = await run(url, "Hello, you.", "--voice", "leo", "--out", str(tmp_path / "x.wav"))
    assert (code, errors) == (0, "")
    assert frames(tmp_path / "x.wav") == 12_000
    assert "0.50 s of audio" in out
    assert "real-time factor" in out
    assert "0 underruns" in out
    assert session.kinds == ["session.config", "input.text", "input.done", "session.close"]
    config = session.events[0]
    assert (config["voice"], config["stream_audio"], config["response_format"], config["lead_s"]) == (
        "leo",
        True,
        "pcm",
        0,
    )
    assert session.close_code == 1000


async def test_piped_text_is_sent_as_it_is_written(tmp_path: Path) -> None:
    """Each write at once, except for half a character at its end."""
    session = Session()
    async with scripted(session) as url:
        process = await begin(url, "--out", str(tmp_path / "x.wav"))
        assert process.stdin is not None
        writes = [b"Hello", b", K\xc3", b"\xa4se", b" \xe2\x82\xac\xff", b"\xc3"]
        for count, data in enumerate(writes, 2):  # the first event is session.config
            process.stdin.write(data)
            if count < 6:  # the last write is half a character, sent only at the end
                await until(lambda count=count: len(session.events) == count, 5)
        process.stdin.close()
        await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0
    fragments = [event["text"] for event in session.events if event["type"] == "input.text"]
    assert fragments == ["Hello", ", K", "äse", " €\ufffd", "\ufffd"]


async def test_no_text_of_a_long_pipe_is_lost(tmp_path: Path) -> None:
    session = Session()
    text = "käse " * 40_000
    async with scripted(session) as url:
        code, _, _ = await run(url, "--out", str(tmp_path / "x.wav"), text=text.encode())
    assert code == 0
    assert session.text == text


async def test_words_are_printed(tmp_path: Path) -> None:
    async with scripted(Session()) as url:
        _, out, _ = await run(url, "Hello, you.", "--words", "--out", str(tmp_path / "x.wav"))
    assert out.splitlines()[0].strip() == "Hello, you."


def test_underruns_are_counted() -> None:
    figures = Figures(first_text_s=9.0)
    figures.audio(4800, now_s=10.0)
    figures.audio(4800, now_s=10.11)  # 10 ms late: a sound card bridges that
    assert figures.underruns == 0
    figures.audio(4800, now_s=10.5)
    assert "0.30 s of audio, the first 1000 ms after" in figures.summary(now_s=10.5)
    assert "1 underruns of 290 ms" in figures.summary(now_s=10.5)


async def endless(socket: ServerConnection) -> None:
    await start(socket)
    for _ in range(3):
        await socket.send(SECOND)


async def test_ctrl_c_cancels_at_the_server_and_keeps_what_was_received(tmp_path: Path) -> None:
    session = Session(endless)
    out = tmp_path / "x.wav"
    async with scripted(session) as url:
        process = await begin(url, "Hello.", "--out", str(out))
        await until(lambda: out.exists() and out.stat().st_size >= 3 * 48_000, 10)
        process.send_signal(signal.SIGINT)
        stdout, errors = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 130
    assert "Traceback" not in errors.decode()
    assert session.kinds[-1] == "input.cancel"
    assert frames(out) == 72_000
    assert b"3.00 s of audio" in stdout


async def test_ctrl_c_while_waiting_for_text_ends_the_program() -> None:
    session = Session()
    async with scripted(session) as url:
        process = await begin(url)
        await until(lambda: bool(session.events), 10)
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(5):
            assert await process.wait() == 130
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def ffplay(tmp_path: Path) -> Path:
    """A folder with a program of that name, which records its arguments and its input."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "ffplay"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\nexec /bin/cat > {tmp_path}/played\n')
    program.chmod(0o755)
    return folder


async def test_a_player_gets_every_sample(tmp_path: Path, ffplay: Path) -> None:
    session = Session(speech(0.5))
    async with scripted(session) as url:
        code, out, errors = await run(url, "Hello, you.", "--play", "--words", PATH=str(ffplay))
    assert (code, errors) == (0, "")
    assert (tmp_path / "played").read_bytes() == SECOND[:24_000]
    assert "-f s16le -sample_rate 24000" in (tmp_path / "arguments").read_text()
    assert "played: 0.50 s" in out
    assert "lead_s" not in session.events[0]
    assert "hello.wav" not in os.listdir()


SOUNDDEVICES = {  # fakes: what is installed on this machine does not matter
    "plays": """
        class PortAudioError(Exception): pass
        class RawOutputStream:
            def __init__(self, samplerate, channels, dtype): self.file = open("played", "wb")
            def __enter__(self): return self
            def __exit__(self, *_): self.file.close()
            def write(self, samples): self.file.write(samples)
        """,
    "no PortAudio": "raise OSError('PortAudio library not found')",
    "no device": """
        class PortAudioError(Exception): pass
        def RawOutputStream(**_): raise PortAudioError("Error querying device -1")
        """,
}


def sounddevice(kind: str, tmp_path: Path) -> dict[str, str]:
    """The environment of a machine with no player but this kind of sounddevice."""
    (tmp_path / "sounddevice.py").write_text(textwrap.dedent(SOUNDDEVICES[kind]))
    return {"PATH": str(tmp_path), "PYTHONPATH": f"{tmp_path}:{ROOT}"}


async def test_sounddevice_plays_if_no_player_is_installed(tmp_path: Path) -> None:
    async with scripted(Session(speech(0.5))) as url:
        code, out, errors = await run(url, "Hello, you.", "--play", **sounddevice("plays", tmp_path))
    assert (code, errors) == (0, "")
    assert "played: 0.50 s" in out
    assert (tmp_path / "played").read_bytes() == SECOND[:24_000]


@pytest.mark.parametrize("to_file", [False, True])
@pytest.mark.parametrize(
    ("kind", "message"),
    [("no PortAudio", "install ffplay"), ("no device", "no audio device can be used here")],
)
async def test_if_nothing_can_play_the_audio_goes_to_the_file_and_one_sentence_says_why(
    kind: str, message: str, to_file: bool, tmp_path: Path
) -> None:
    out = ("--out", str(tmp_path / "x.wav")) if to_file else ()
    session = Session()
    async with scripted(session) as url:
        code, printed, errors = await run(url, "Hello.", "--play", *out, **sounddevice(kind, tmp_path))
    assert code == 1
    (line,) = errors.splitlines()
    assert message in line
    assert (tmp_path / "x.wav").exists() == ("0.50 s of audio" in printed) == to_file
    if to_file:
        assert frames(tmp_path / "x.wav") == 12_000
        assert session.events[0]["lead_s"] == 0
    else:
        assert session.events == [], "no text is sent"


@pytest.mark.parametrize("to_file", [False, True])
@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("echo 'ALSA lib pcm.c' >&2; echo 'no such device' >&2; exit 3", "ffplay failed: no such device"),
        ("exit 3", "ffplay failed: it ended with exit code 3"),
    ],
)
async def test_a_player_that_fails_does_not_stop_the_file(
    program: str, message: str, to_file: bool, tmp_path: Path, ffplay: Path
) -> None:
    (ffplay / "ffplay").write_text(f"#!/bin/sh\n{program}\n")

    async def answer(socket: ServerConnection) -> None:
        await start(socket)
        for _ in range(10):
            await socket.send(SECOND)
            await asyncio.sleep(0.02)
        await say(socket, "session.done", utterance_index=0, total_sentences=1)

    out = ("--out", str(tmp_path / "x.wav")) if to_file else ()
    async with scripted(Session(answer)) as url:
        code, _, errors = await run(url, "Hello.", "--play", *out, PATH=str(ffplay))
    assert (code, errors) == (1, f"{message}\n")
    assert not to_file or frames(tmp_path / "x.wav") == 240_000


async def failing(socket: ServerConnection) -> None:
    await say(socket, "error", message="There is no voice 'bob'.", code="x", partial_audio=False)


async def breaking(socket: ServerConnection) -> None:
    await start(socket)
    await socket.send(SECOND)
    socket.transport.abort()


async def refused(socket: ServerConnection) -> None:
    await socket.close(1013, "The server is at capacity.")


async def silent(socket: ServerConnection) -> None:
    await say(socket, "session.done", utterance_index=0, total_sentences=0)


async def closing(socket: ServerConnection) -> None:
    await socket.close(1000)


async def other_rate(socket: ServerConnection) -> None:
    await start(socket, 16_000)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (failing, "no voice 'bob'"),
        (breaking, "the connection broke"),
        (refused, "The server is at capacity."),
        (silent, "no audio"),
        (closing, "closed the connection before the end"),
        (other_rate, "16000 Hz"),
    ],
)
async def test_a_failure_is_a_sentence_and_an_exit_code(answer: Script, message: str, tmp_path: Path) -> None:
    out = tmp_path / "x.wav"
    async with scripted(Session(answer)) as url:
        code, _, errors = await run(url, "Hello.", "--out", str(out))
    assert code == 1
    (line,) = errors.splitlines()
    assert message in line
    assert out.exists() == (answer is breaking), "audio that was received is kept"


async def test_a_failure_before_any_audio_overwrites_no_file(tmp_path: Path) -> None:
    out = tmp_path / "x.wav"
    out.write_bytes(b"mine")
    async with scripted(Session(failing)) as url:
        await run(url, "Hello.", "--out", str(out))
    assert out.read_bytes() == b"mine"


async def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    async with scripted(Session()) as url:
        code, _, errors = await run(url, "Hello.", "--out", str(tmp_path / "no" / "x.wav"))
    assert code == 1
    (line,) = errors.splitlines()
    assert "No such file" in line
