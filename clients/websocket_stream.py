"""Speak text while it is being written (pip install websockets): an argument, or standard input, typed or piped.

    python clients/websocket_stream.py "Some text." --voice tara --out hello.wav
    your-llm | python clients/websocket_stream.py --play --words

The server is ORPHEUS_FASTAPI_URL (default http://127.0.0.1:5005), the API key ORPHEUS_API_KEY. Text is sent over
`WS /v1/audio/speech/stream` as it arrives, and the audio is played and written to --out as it arrives. Without --play,
--out defaults to hello.wav. Ctrl-C stops the server as well.
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
from dataclasses import dataclass
from urllib.parse import urlsplit

import websockets
from websockets.asyncio.client import ClientConnection, connect

SAMPLE_RATE = 24_000
BYTES_PER_S = 2 * SAMPLE_RATE
PLAYERS = {  # programs that play 16-bit little-endian mono at 24 kHz from standard input
    "ffplay": "-loglevel error -nodisp -autoexit -fflags nobuffer -probesize 32 -f s16le -sample_rate 24000 -i -",
    "aplay": "-q -t raw -f S16_LE -r 24000 -c 1 -",
}
# Used if none of them is installed. It reports on standard output that it can play, and its error as one line.
SOUNDDEVICE = """
import sys
try:
    import sounddevice
except (ImportError, OSError) as error:  # OSError: sounddevice without PortAudio
    sys.exit(f"nothing here can play audio: install ffplay (FFmpeg), aplay or sounddevice, or use --out ({error})")
try:
    with sounddevice.RawOutputStream(samplerate=24000, channels=1, dtype="int16") as stream:
        print("ready", flush=True)
        while samples := sys.stdin.buffer.read1(4096):
            stream.write(samples)
except (sounddevice.PortAudioError, ValueError) as error:
    sys.exit(f"no audio device can be used here; --out writes a file instead ({error})")
"""
CANCEL_S = 1.0  # timeout for the server's answer to Ctrl-C
SOUND_CARD_S = 0.02  # a sound card's own buffer bridges shorter gaps

HEADERS = {
    "x-api-key": "ORPHEUS_API_KEY",
    "Modal-Key": "ORPHEUS_PROXY_KEY",  # the proxy token for a server on Modal
    "Modal-Secret": "ORPHEUS_PROXY_SECRET",
}


class Failed(Exception):
    """One sentence for whoever started this program."""


@dataclass
class Figures:
    """What was sent and received, and when, in seconds on one clock."""

    first_text_s: float | None = None
    first_audio_s: float | None = None
    size: int = 0  # bytes of audio
    ends_s: float = 0.0  # when a player that started with the first audio will have played everything
    underruns: int = 0  # times it had nothing to play
    underrun_s: float = 0.0  # for how long, in total

    def audio(self, size: int, now_s: float) -> None:
        if self.first_audio_s is None:
            self.first_audio_s = self.ends_s = now_s
        if now_s > self.ends_s + SOUND_CARD_S:
            self.underruns += 1
            self.underrun_s += now_s - self.ends_s
        self.ends_s = max(self.ends_s, now_s) + size / BYTES_PER_S
        self.size += size

    def summary(self, now_s: float) -> str:
        if self.first_audio_s is None or self.first_text_s is None:
            return "no audio"
        audio_s, total_s = self.size / BYTES_PER_S, now_s - self.first_text_s
        return (
            f"{audio_s:.2f} s of audio, the first {(self.first_audio_s - self.first_text_s) * 1000:.0f} ms after the "
            f"first word, all after {total_s:.2f} s (real-time factor {total_s / audio_s:.2f}), "
            f"{self.underruns} underruns" + (f" of {self.underrun_s * 1000:.0f} ms" if self.underruns else "")
        )


async def standard_input() -> AsyncIterator[str]:
    """Text as it arrives, whatever boundaries the reads have."""
    loop = asyncio.get_running_loop()
    reads = asyncio.Queue[bytes](8)

    def read() -> None:
        data = b"x"
        while data:
            data = os.read(0, 4096)  # what is there, without waiting for more
            asyncio.run_coroutine_threadsafe(reads.put(data), loop).result()

    # A daemon thread, as reading from a terminal cannot be interrupted.
    threading.Thread(target=read, daemon=True).start()
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while data := await reads.get():
        if text := decoder.decode(data):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text


async def argument(text: str) -> AsyncIterator[str]:
    yield text


class Player:
    """A program that plays the samples it is sent. Its methods raise Failed with the program's own message."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stderr is not None
        self._name = name
        self._process = process
        self._stdin = process.stdin
        self._errors = asyncio.create_task(process.stderr.read())

    @classmethod
    async def start(cls) -> Player:
        name = next((name for name in PLAYERS if shutil.which(name)), "sounddevice")
        command = [name, *PLAYERS[name].split()] if name in PLAYERS else [sys.executable, "-c", SOUNDDEVICE]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE if name == "sounddevice" else None,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # so that Ctrl-C reaches only this process
        )
        player = cls(name, process)
        if process.stdout is not None and not await process.stdout.readline():
            raise await player._failure()
        return player

    async def write(self, samples: bytes) -> None:
        """Returns when the player can take more."""
        try:
            self._stdin.write(samples)
            await self._stdin.drain()
        except (BrokenPipeError, ConnectionResetError) as error:
            raise await self._failure() from error

    async def finish(self) -> None:
        """Wait until everything was played."""
        self._stdin.close()
        if await self._process.wait():
            raise await self._failure()

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await asyncio.gather(self._process.wait(), self._errors)

    async def _failure(self) -> Failed:
        code, errors = await asyncio.gather(self._process.wait(), self._errors)
        lines = errors.decode(errors="replace").strip().splitlines() or [f"it ended with exit code {code}"]
        return Failed(lines[-1] if self._name == "sounddevice" else f"{self._name} failed: {lines[-1]}")


async def send(socket: ClientConnection, fragments: AsyncIterator[str], figures: Figures) -> None:
    async for text in fragments:
        await socket.send(json.dumps({"type": "input.text", "text": text}))
        if figures.first_text_s is None and text.strip():
            figures.first_text_s = time.monotonic()
    await socket.send(json.dumps({"type": "input.done"}))


@contextlib.contextmanager
def wav(path: str) -> Iterator[wave.Wave_write]:
    # Not wave.open(path): if it cannot open the file, it also prints an error from its destructor.
    with open(path, "wb") as raw, wave.open(raw, "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        yield file


class Sinks:
    """Where the samples go: a file, a player, both, or nowhere. With a file, the player may fail."""

    def __init__(self, out: str | None = None) -> None:
        self.player: Player | None = None
        self._out = out
        self._problem: Failed | None = None
        self._opened = contextlib.ExitStack()
        self._file: wave.Wave_write | None = None

    async def play(self) -> None:
        with self._or_file_only():
            self.player = await Player.start()

    async def write(self, samples: bytes) -> None:
        if self._out and self._file is None:  # not before, so that a failure without audio overwrites no file
            self._file = self._opened.enter_context(wav(self._out))
        if self._file:
            self._file.writeframes(samples)
        if self.player:
            with self._or_file_only():
                await self.player.write(samples)  # waiting for it holds the server back

    async def finish(self) -> None:
        """Raises Failed if the player did, now or earlier."""
        if self.player:
            await self.player.finish()
        if self._problem:
            raise self._problem

    async def close(self) -> None:
        self._opened.close()
        if self.player:
            await self.player.kill()

    @contextlib.contextmanager
    def _or_file_only(self) -> Iterator[None]:
        try:
            yield
        except Failed as problem:
            if self._out is None:
                raise
            self.player, self._problem = None, problem


async def receive(socket: ClientConnection, figures: Figures, sinks: Sinks) -> None:
    """Pass on audio and words until the utterance is over. Raises Failed with the server's error."""
    async for message in socket:
        if isinstance(message, bytes):
            figures.audio(len(message), time.monotonic())
            await sinks.write(message)
            continue
        event = json.loads(message)
        match event["type"]:
            case "audio.start" if event["sample_rate"] != SAMPLE_RATE:
                raise Failed(
                    f"the server speaks at {event['sample_rate']} Hz, this client plays {SAMPLE_RATE} Hz"
                )
            case "audio.word":
                now_s = time.monotonic()
                due_s = now_s if sinks.player is None else (figures.first_audio_s or now_s) + event["start_s"]
                asyncio.get_running_loop().call_later(max(0, due_s - now_s), show, event["text"])
            case "error":
                raise Failed(event["message"])
            case "session.done" | "audio.cancelled":
                return
    raise Failed("the server closed the connection before the end")


def show(word: str) -> None:
    print(word, end=" ", flush=True)


class Dial(connect):
    """Follows a redirect within the same server only: to another one it would take our keys along."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        other = super().process_redirect(exc)
        elsewhere = isinstance(other, str) and urlsplit(other)[:2] != urlsplit(self.uri)[:2]
        return exc if elsewhere else other


async def speak(options: argparse.Namespace, figures: Figures) -> None:
    config = {
        "type": "session.config",
        "voice": options.voice,
        "response_format": "pcm",
        "stream_audio": True,
        "word_timestamps": options.words,
    }
    base = options.url.rstrip("/").replace("http", "ws", 1)
    headers = {header: value for header, name in HEADERS.items() if (value := os.environ.get(name))}
    async with contextlib.AsyncExitStack() as stack:
        socket = await stack.enter_async_context(
            Dial(f"{base}/v1/audio/speech/stream", additional_headers=headers, compression=None)
        )
        sinks = Sinks(options.out)
        stack.push_async_callback(sinks.close)
        if options.play:
            await sinks.play()
        if sinks.player is None:
            config["lead_s"] = 0  # into a file as fast as it is generated
        await socket.send(json.dumps(config))
        fragments = standard_input() if options.text is None else argument(options.text)
        sending = asyncio.create_task(send(socket, fragments, figures))
        try:
            await receive(socket, figures, sinks)
            await socket.send(json.dumps({"type": "session.close"}))
        except asyncio.CancelledError:
            if figures.first_text_s is not None:
                await cancel(socket)
            raise
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        await sinks.finish()


async def cancel(socket: ClientConnection) -> None:
    """Stop the speech at the server, and drop the audio that is still in flight."""
    with contextlib.suppress(Failed, TimeoutError, websockets.ConnectionClosed):
        async with asyncio.timeout(CANCEL_S):
            await socket.send(json.dumps({"type": "input.cancel"}))
            await receive(socket, Figures(), Sinks())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", nargs="?", help="what to speak (default: standard input)")
    parser.add_argument("--voice", default="tara")
    parser.add_argument("--out", help="WAV file to write (default without --play: hello.wav)")
    parser.add_argument("--play", action="store_true", help="play with ffplay, aplay or sounddevice")
    parser.add_argument("--words", action="store_true", help="print the words as they are spoken")
    parser.add_argument("--url", default=os.environ.get("ORPHEUS_FASTAPI_URL", "http://127.0.0.1:5005"))
    options = parser.parse_args()
    if not (options.out or options.play):
        options.out = "hello.wav"
    if options.text is None and sys.stdin.isatty():
        print(
            "Type some text: each line is spoken once you finish it. Ctrl-D ends, Ctrl-C stops.",
            file=sys.stderr,
        )
    figures, problem = Figures(), None
    try:
        asyncio.run(speak(options, figures))
    except KeyboardInterrupt:
        problem = "stopped"
    except websockets.InvalidStatus as error:
        body = (error.response.body or b"").decode(errors="replace")
        problem = f"{options.url} answered {error.response.status_code}: {body[:300]}"
    except websockets.ConnectionClosed as error:
        problem = f"the connection broke: {error.rcvd.reason or error if error.rcvd else error}"
    except (Failed, OSError, ValueError, websockets.WebSocketException) as error:
        problem = str(error)
    if options.words and figures.size:
        print()
    if figures.size:
        print(f"{options.out or 'played'}: {figures.summary(time.monotonic())}")
    elif problem is None:
        problem = "the server sent no audio"
    if problem:
        print(problem, file=sys.stderr)
        sys.exit(130 if problem == "stopped" else 1)


if __name__ == "__main__":
    main()
