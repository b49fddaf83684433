"""`clients/websocket_stream.py` as a program, against a scripted server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
import wave
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection

from tests.support.live import ROOT, clean_environment
from tests.support.scripted import Script, scripted, until

pytestmark = pytest.mark.anyio
CLIENT = str(ROOT / "clients" / "websocket_stream.py")
SECOND = b"\x01\x00" * 24_000


class Session:
    """What the server was sent, and how it answers once it has all of the text."""

    def __init__(self, answer: Script | None = None) -> None:
        self.events: list[dict[str, Any]] = []
        self.at_s: list[float] = []
        self._answer = answer or spoken(0.5)
        self.close_code: int | None = None

    async def __call__(self, socket: ServerConnection) -> None:
        async for message in socket:
            self.events.append(json.loads(message))
            self.at_s.append(time.monotonic())
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


def spoken(seconds: float) -> Script:
    async def answer(socket: ServerConnection) -> None:
        await start(socket)
        await say(socket, "audio.word", utterance_index=0, text="Hello,", start_s=0.0, stop_s=0.2)
        await socket.send(SECOND[: int(seconds * 48_000)])
        await say(socket, "audio.word", utterance_index=0, text="you.", start_s=0.2, stop_s=0.4)
        await say(socket, "audio.done", utterance_index=0, total_bytes=1, duration_s=seconds, error=False)
        await say(socket, "session.done", utterance_index=0, total_sentences=1)

    return answer


async def begin(url: str, *arguments: str, path: str | None = None) -> Process:
    environment = clean_environment(ORPHEUS_FASTAPI_URL=url.replace("ws", "http", 1), no_proxy="*")
    if path is not None:
        environment["PATH"] = path
    return await asyncio.create_subprocess_exec(
        sys.executable,
        CLIENT,
        *arguments,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env=environment,
        # As from a terminal: what runs in the background has Ctrl-C ignored, and hands that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


async def run(url: str, *arguments: str, text: bytes = b"", path: str | None = None) -> tuple[int, str, str]:
    process = await begin(url, *arguments, path=path)
    out, said = await asyncio.wait_for(process.communicate(text), 20)
    return process.returncode or 0, out.decode(), said.decode()


def frames(path: Path) -> int:
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24_000, 1, 2)
        return file.getnframes()


async def test_a_text_is_spoken_into_a_file_with_its_figures(tmp_path: Path) -> None:
    session = Session()
    async with scripted(session) as url:
        code, out, said = await run(url, "Hello, you.", "--voice", "leo", "--out", str(tmp_path / "x.wav"))
    assert (code, said) == (0, "")
    assert frames(tmp_path / "x.wav") == 12_000
    assert "0.50 s of audio" in out
    assert "real-time factor" in out
    assert "0 holes" in out
    assert session.kinds == ["session.config", "input.text", "input.done", "session.close"]
    config = session.events[0]
    assert (config["voice"], config["stream_audio"], config["response_format"], config["lead_s"]) == (
        "leo",
        True,
        "pcm",
        0,
    )
    assert session.close_code == 1000


async def test_a_pipe_is_sent_as_it_is_written(tmp_path: Path) -> None:
    """Each write at once, and a character that two writes share whole."""
    session = Session()
    async with scripted(session) as url:
        process = await begin(url, "--out", str(tmp_path / "x.wav"))
        assert process.stdin is not None
        writes = [b"Hello", b", K\xc3", b"\xa4se", b" \xe2\x82\xac\xff", b"\xc3"]
        for count, data in enumerate(writes, 2):  # the first event is session.config
            process.stdin.write(data)
            if count < 6:  # half a character alone says nothing yet
                await until(lambda count=count: len(session.events) == count, 5)
        process.stdin.close()
        await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0
    fragments = [event["text"] for event in session.events if event["type"] == "input.text"]
    assert fragments == ["Hello", ", K", "äse", " €\ufffd", "\ufffd"]


async def test_a_long_pipe_loses_nothing(tmp_path: Path) -> None:
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


async def test_holes_are_counted(tmp_path: Path) -> None:
    async def answer(socket: ServerConnection) -> None:
        await start(socket)
        await socket.send(SECOND[:4800])
        await asyncio.sleep(0.5)
        await socket.send(SECOND[:4800])
        await say(socket, "session.done", utterance_index=0, total_sentences=1)

    async with scripted(Session(answer)) as url:
        _, out, _ = await run(url, "Hello.", "--out", str(tmp_path / "x.wav"))
    assert "1 holes of" in out


async def endless(socket: ServerConnection) -> None:
    await start(socket)
    for _ in range(3):
        await socket.send(SECOND)


async def test_ctrl_c_cancels_at_the_server_and_keeps_what_was_heard(tmp_path: Path) -> None:
    session = Session(endless)
    out = tmp_path / "x.wav"
    async with scripted(session) as url:
        process = await begin(url, "Hello.", "--out", str(out))
        await until(lambda: out.exists() and out.stat().st_size >= 3 * 48_000, 10)
        process.send_signal(signal.SIGINT)
        stdout, said = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 130
    assert "Traceback" not in said.decode()
    assert session.kinds[-1] == "input.cancel"
    assert frames(out) == 72_000
    assert b"3.00 s of audio" in stdout


async def test_ctrl_c_while_waiting_for_text_leaves_at_once() -> None:
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
    """A program of that name, which keeps what it is given."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "ffplay"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\nexec /bin/cat > {tmp_path}/played\n')
    program.chmod(0o755)
    return folder


async def test_a_player_gets_every_sample(tmp_path: Path, ffplay: Path) -> None:
    session = Session(spoken(0.5))
    async with scripted(session) as url:
        code, out, said = await run(url, "Hello, you.", "--play", "--words", path=str(ffplay))
    assert (code, said) == (0, "")
    assert (tmp_path / "played").read_bytes() == SECOND[:24_000]
    assert "-f s16le -sample_rate 24000" in (tmp_path / "arguments").read_text()
    assert "played: 0.50 s" in out
    assert "lead_s" not in session.events[0]
    assert "hello.wav" not in os.listdir()


async def test_a_player_that_ends_early_is_told(tmp_path: Path, ffplay: Path) -> None:
    (ffplay / "ffplay").write_text("#!/bin/sh\nexit 3\n")

    async def answer(socket: ServerConnection) -> None:
        await start(socket)
        for _ in range(100):
            await socket.send(SECOND)
            await asyncio.sleep(0.02)

    async with scripted(Session(answer)) as url:
        code, _, said = await run(url, "Hello.", "--play", path=str(ffplay))
    assert code == 1
    assert "ffplay" in said
    assert "Traceback" not in said


async def test_no_player_is_told(tmp_path: Path) -> None:
    async with scripted(Session()) as url:
        code, _, said = await run(url, "Hello.", "--play", path=str(tmp_path))
    assert code == 1
    assert "install ffplay" in said
    assert "Traceback" not in said


async def failing(socket: ServerConnection) -> None:
    await say(socket, "error", message="There is no voice 'bob'.", code="x", partial_audio=False)


async def broken(socket: ServerConnection) -> None:
    await start(socket)
    await socket.send(SECOND)
    socket.transport.abort()


async def refused(socket: ServerConnection) -> None:
    await socket.close(1013, "All places are taken.")


async def silent(socket: ServerConnection) -> None:
    await say(socket, "session.done", utterance_index=0, total_sentences=0)


async def ended(socket: ServerConnection) -> None:
    await socket.close(1000)


async def other_rate(socket: ServerConnection) -> None:
    await start(socket, 16_000)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (failing, "no voice 'bob'"),
        (broken, "connection ended"),
        (refused, "All places are taken."),
        (silent, "no audio"),
        (ended, "closed before the end"),
        (other_rate, "16000 Hz"),
    ],
)
async def test_what_goes_wrong_is_told_and_an_exit_code(answer: Script, says: str, tmp_path: Path) -> None:
    out = tmp_path / "x.wav"
    async with scripted(Session(answer)) as url:
        code, _, said = await run(url, "Hello.", "--out", str(out))
    assert code == 1
    assert says in said
    assert "Traceback" not in said
    assert out.exists() == (answer is broken), "what was heard is kept"


async def test_a_failure_overwrites_no_file(tmp_path: Path) -> None:
    out = tmp_path / "x.wav"
    out.write_bytes(b"mine")
    async with scripted(Session(failing)) as url:
        await run(url, "Hello.", "--out", str(out))
    assert out.read_bytes() == b"mine"


async def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    async with scripted(Session()) as url:
        code, _, said = await run(url, "Hello.", "--out", os.path.join(tmp_path, "no", "x.wav"))
    assert code == 1
    assert "No such file" in said
    assert "Traceback" not in said
