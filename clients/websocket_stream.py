"""Speak a text while it is written (pip install websockets): from the argument, or as it is typed or piped.

    python clients/websocket_stream.py "Some text." --voice tara --out hello.wav
    your-llm | python clients/websocket_stream.py --play --words

ORPHEUS_FASTAPI_URL names the server (http://127.0.0.1:5005), ORPHEUS_API_KEY its key. Each fragment is sent as it comes
over `WS /v1/audio/speech/stream`; the samples are written to --out (hello.wav, unless only --play is asked for) and
played as they come. Ctrl-C stops the speech at the server too.
"""

from __future__ import annotations

import argparse
import asyncio
import codecs
import contextlib
import json
import os
import shutil
import sys
import threading
import time
import wave
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import websockets
from websockets.asyncio.client import ClientConnection, connect

SAMPLE_RATE = 24_000
BYTES_PER_S = 2 * SAMPLE_RATE
PLAYERS = {  # what is read from standard input: 16-bit little-endian mono at 24 kHz
    "ffplay": "-loglevel error -nodisp -autoexit -fflags nobuffer -probesize 32 -f s16le -sample_rate 24000 -i -",
    "aplay": "-q -t raw -f S16_LE -r 24000 -c 1 -",
}
SOUNDDEVICE = """
import sys, sounddevice
with sounddevice.RawOutputStream(samplerate=24000, channels=1, dtype="int16") as stream:
    while samples := sys.stdin.buffer.read1(4096):
        stream.write(samples)
"""
CANCEL_S = 1.0  # longest wait for the server's answer to Ctrl-C


HEADERS = {
    "x-api-key": "ORPHEUS_API_KEY",
    "Modal-Key": "ORPHEUS_PROXY_KEY",  # the proxy token of a server on Modal
    "Modal-Secret": "ORPHEUS_PROXY_SECRET",
}


class Failed(Exception):
    """One sentence for whoever started this."""


@dataclass
class Heard:
    """What came, and when: seconds of time.monotonic()."""

    first_text_s: float | None = None
    first_audio_s: float | None = None
    size: int = 0  # bytes
    ends_s: float = 0.0  # when a player that began at once will have played all
    holes: int = 0
    hole_s: float = 0.0

    def audio(self, size: int) -> None:
        now_s = time.monotonic()
        if self.first_audio_s is None:
            self.first_audio_s = self.ends_s = now_s
        if now_s > self.ends_s + 0.02:  # what a sound card's own buffer hides
            self.holes += 1
            self.hole_s += now_s - self.ends_s
        self.ends_s = max(self.ends_s, now_s) + size / BYTES_PER_S
        self.size += size

    def __str__(self) -> str:
        if self.first_audio_s is None or self.first_text_s is None:
            return "nothing was heard"
        audio_s, took_s = self.size / BYTES_PER_S, time.monotonic() - self.first_text_s
        return (
            f"{audio_s:.2f} s of audio, the first {(self.first_audio_s - self.first_text_s) * 1000:.0f} ms after the "
            f"first word, all after {took_s:.2f} s (real-time factor {took_s / audio_s:.2f}), {self.holes} holes"
            + (f" of {self.hole_s * 1000:.0f} ms" if self.holes else "")
        )


async def typed() -> AsyncIterator[str]:
    """Standard input as it comes, however its characters are cut."""
    loop = asyncio.get_running_loop()
    waiting = asyncio.Queue[bytes](8)

    def read() -> None:
        data = b"x"
        while data:
            data = os.read(0, 4096)  # what is there, without waiting for more
            asyncio.run_coroutine_threadsafe(waiting.put(data), loop).result()

    # A thread nobody waits for, as a read of a terminal cannot be interrupted.
    threading.Thread(target=read, daemon=True).start()
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while data := await waiting.get():
        if text := decoder.decode(data):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text


async def given(text: str) -> AsyncIterator[str]:
    yield text


@contextlib.asynccontextmanager
async def player() -> AsyncIterator[asyncio.StreamWriter]:
    """The standard input of whatever can play; all of it is heard at the end of the block."""
    for name, arguments in PLAYERS.items():
        if path := shutil.which(name):
            command = [path, *arguments.split()]
            break
    else:
        command = [sys.executable, "-c", SOUNDDEVICE]
        try:
            import sounddevice  # noqa: F401
        except (ImportError, OSError) as error:  # OSError: PortAudio, which it needs, is not there
            raise Failed(
                f"nothing can play here: install ffplay (FFmpeg), aplay or sounddevice ({error})"
            ) from error
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is ours to answer
    )
    assert process.stdin is not None
    try:
        yield process.stdin
        process.stdin.close()
        if await process.wait():
            raise Failed(f"{command[0]} failed")
    except (BrokenPipeError, ConnectionResetError) as error:
        raise Failed(f"{command[0]} ended before the speech") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def send(socket: ClientConnection, fragments: AsyncIterator[str], heard: Heard) -> None:
    async for text in fragments:
        await socket.send(json.dumps({"type": "input.text", "text": text}))
        if heard.first_text_s is None and text.strip():
            heard.first_text_s = time.monotonic()
    await socket.send(json.dumps({"type": "input.done"}))


@contextlib.contextmanager
def wav(path: str) -> Iterator[wave.Wave_write]:
    # Opened here: wave alone, where it cannot open a file, complains twice.
    with open(path, "wb") as raw, wave.open(raw, "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        yield file


@dataclass
class Sinks:
    """Where samples go."""

    out: str | None = None
    play: asyncio.StreamWriter | None = None
    opened: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    file: wave.Wave_write | None = None

    async def write(self, samples: bytes) -> None:
        if self.out and self.file is None:  # now, so that a failure before any sound overwrites nothing
            self.file = self.opened.enter_context(wav(self.out))
        if self.file:
            self.file.writeframes(samples)
        if self.play:
            self.play.write(samples)
            await self.play.drain()  # a player that is full holds the server back


async def receive(socket: ClientConnection, heard: Heard, sinks: Sinks) -> None:
    """Pass on what comes until the utterance is over. Raises Failed with the server's own words."""
    async for message in socket:
        if isinstance(message, bytes):
            heard.audio(len(message))
            await sinks.write(message)
            continue
        event = json.loads(message)
        match event["type"]:
            case "audio.start" if event["sample_rate"] != SAMPLE_RATE:
                raise Failed(f"the server speaks at {event['sample_rate']} Hz, this client at {SAMPLE_RATE}")
            case "audio.word":
                now_s = time.monotonic()
                due_s = now_s if sinks.play is None else (heard.first_audio_s or now_s) + event["start_s"]
                asyncio.get_running_loop().call_later(max(0, due_s - now_s), show, event["text"])
            case "error":
                raise Failed(event["message"])
            case "session.done" | "audio.cancelled":
                return
    raise Failed("the server closed before the end")


def show(word: str) -> None:
    print(word, end=" ", flush=True)


async def speak(options: argparse.Namespace, heard: Heard) -> None:
    config = {
        "type": "session.config",
        "voice": options.voice,
        "response_format": "pcm",
        "stream_audio": True,
        "word_timestamps": options.words,
    }
    if not options.play:
        config["lead_s"] = 0  # into a file as fast as it is made
    base = options.url.rstrip("/").replace("http", "ws", 1)
    headers = {header: value for header, name in HEADERS.items() if (value := os.environ.get(name))}
    async with contextlib.AsyncExitStack() as stack:
        socket = await stack.enter_async_context(
            connect(f"{base}/v1/audio/speech/stream", additional_headers=headers, compression=None)
        )
        sinks = Sinks(options.out)
        stack.enter_context(sinks.opened)
        if options.play:
            sinks.play = await stack.enter_async_context(player())
        await socket.send(json.dumps(config))
        fragments = typed() if options.text is None else given(options.text)
        sending = asyncio.create_task(send(socket, fragments, heard))
        try:
            await receive(socket, heard, sinks)
            await socket.send(json.dumps({"type": "session.close"}))
        except asyncio.CancelledError:
            if heard.first_text_s is not None:
                await cancel(socket)
            raise
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


async def cancel(socket: ClientConnection) -> None:
    """Stop the speech at the server, and take what was on its way."""
    with contextlib.suppress(Failed, TimeoutError, websockets.ConnectionClosed):
        async with asyncio.timeout(CANCEL_S):
            await socket.send(json.dumps({"type": "input.cancel"}))
            await receive(socket, Heard(), Sinks())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", nargs="?", help="what to speak; without it, standard input")
    parser.add_argument("--voice", default="tara")
    parser.add_argument("--out", help="WAV file to write; hello.wav where nothing is played")
    parser.add_argument("--play", action="store_true", help="play by ffplay, aplay or sounddevice")
    parser.add_argument("--words", action="store_true", help="print the words as they are spoken")
    parser.add_argument("--url", default=os.environ.get("ORPHEUS_FASTAPI_URL", "http://127.0.0.1:5005"))
    options = parser.parse_args()
    if not (options.out or options.play):
        options.out = "hello.wav"
    if options.text is None and sys.stdin.isatty():
        print("Write; each line is spoken as it comes. Ctrl-D ends, Ctrl-C stops.", file=sys.stderr)
    heard, problem = Heard(), None
    try:
        asyncio.run(speak(options, heard))
    except KeyboardInterrupt:
        problem = "stopped"
    except websockets.InvalidStatus as error:
        said = (error.response.body or b"").decode(errors="replace")
        problem = f"{options.url} answered {error.response.status_code}: {said[:300]}"
    except websockets.ConnectionClosed as error:
        problem = f"the connection ended: {error.rcvd.reason or error if error.rcvd else error}"
    except (Failed, OSError, ValueError, websockets.WebSocketException) as error:
        problem = str(error)
    if options.words and heard.size:
        print()
    if heard.size:
        print(f"{options.out or 'played'}: {heard}")
    elif problem is None:
        problem = "the server sent no audio"
    if problem:
        print(problem, file=sys.stderr)
        sys.exit(130 if problem == "stopped" else 1)


if __name__ == "__main__":
    main()
