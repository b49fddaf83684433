"""Speak over unmute's protocol (pip install websockets msgpack): words in, audio and timed words out.

    python clients/unmute_tts.py "Some text." --voice tara --out hello.wav

The server is ORPHEUS_FASTAPI_URL (default http://127.0.0.1:5005), the API key ORPHEUS_API_KEY.

An unmodified kyutai-labs/unmute does not need this file: it speaks the same protocol, `WS /api/tts_streaming`. A fork
gains `wss://` URLs without a port, extra headers (for Modal's proxy), a second connection if the first breaks before
any audio, and playback that continues while nothing is received or after the connection breaks. To use it in a fork,
copy this file to `unmute/tts/orpheus.py` and replace `unmute/tts/text_to_speech.py` with:

    from unmute.exceptions import MissingServiceAtCapacity
    from unmute.kyutai_constants import TTS_SERVER
    from unmute.tts import orpheus
    from unmute.tts.orpheus import Audio as TTSAudioMessage
    from unmute.tts.orpheus import Eos as TTSClientEosMessage
    from unmute.tts.orpheus import Text as TTSTextMessage

    class TextToSpeech(orpheus.TextToSpeech):
        def __init__(self, tts_instance=TTS_SERVER, recorder=None, get_time=None, voice=None):
            super().__init__(tts_instance, voice)  # headers={"Modal-Key": …, "Modal-Secret": …} behind Modal's proxy

        async def start_up(self):
            try:
                await super().start_up()
            except orpheus.AtCapacity as error:
                raise MissingServiceAtCapacity("tts") from error
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import heapq
import logging
import os
import sys
import time
import wave
from array import array
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import msgpack
import websockets
from websockets.asyncio.client import ClientConnection, connect

SAMPLE_RATE = 24_000  # Hz, mono
LEAD_S = 0.32  # audio is released this much before it is due, to fill the player's buffer
START_S = 10.0  # timeout for Ready; unmute's service discovery has a shorter one of its own
CLOSE_S = 1.0  # timeout for the server's answer to our close, which holds up an interruption
UNSPOKEN = str.maketrans({"*": "", "_": "", "`": "", "“": '"', "”": '"', "‘": "'", "’": "'"})

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Audio:
    """24 kHz mono samples in -1…1; numpy can use the array as it is."""

    pcm: array[float]
    type: str = "Audio"


@dataclass(frozen=True)
class Text:
    """A word, released when its audio is due; times in seconds from the first sample."""

    text: str
    start_s: float
    stop_s: float
    type: str = "Text"


@dataclass(frozen=True)
class Error:
    """The server could not speak everything."""

    message: str
    type: str = "Error"


@dataclass(frozen=True)
class Eos:
    """The end of the turn, to be sent after the last word."""

    type: str = "Eos"


Message = Audio | Text | Error


class Refused(ConnectionError):
    """The server refused to speak; the message says why."""


class AtCapacity(Refused):
    """The server is at capacity: try again later, or another server."""


class TextToSpeech:
    """One turn: `start_up`, then `send` words and an Eos while another task iterates; `shutdown` at any time.

    If the connection breaks, everything received is still released. After that the iterator raises the cause:
    websockets.ConnectionClosed, or an error of `start_up` if reconnecting failed. `send` does not raise it.
    """

    def __init__(self, url: str, voice: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        """`url`: ws, wss, http or https, with or without a port and a path prefix.

        `headers` override the default one, `kyutai-api-key: public_token`.
        """
        self._url = f"{url.rstrip('/')}/api/tts_streaming?format=PcmMessagePack"
        if self._url.startswith("http"):
            self._url = "ws" + self._url.removeprefix("http")
        if voice and not voice.startswith("custom:"):  # cloned voices do not exist here
            self._url += f"&voice={quote(voice, safe='')}"
        self._headers = {"kyutai-api-key": "public_token", **(headers or {})}
        self.voice = voice
        self.received_samples = 0
        self.received_samples_yielded = 0
        self._socket: ClientConnection | None = None
        self._sending = asyncio.Lock()
        self._sent: list[bytes] = []  # before the first audio, to be repeated over a second connection
        self._eos_sent = False
        self._reading: asyncio.Task[None] | None = None
        self._held: list[tuple[float, int, Message]] = []  # heap of (due, count, message)
        self._count = 0  # keeps messages due at the same time in order
        self._first_audio_s: float | None = None  # when it was received, by the event loop's clock
        self._changed = asyncio.Event()
        self._stopped = False

    def state(self) -> str:
        """As unmute's debug view names it."""
        if self._socket is None:
            return "closed" if self._stopped else "not_created"
        return "connected" if self._socket.state.name == "OPEN" else self._socket.state.name.lower()

    async def start_up(self) -> None:
        """Connect and wait for Ready. Leaves no connection open if it fails or is cancelled.

        Raises AtCapacity, Refused, TimeoutError after START_S, or OSError if the server cannot be reached.
        """
        self._socket = await _open(self._url, self._headers)
        self._reading = asyncio.create_task(self._read())
        self._reading.add_done_callback(lambda _: self._changed.set())

    async def send(self, message: str | Eos) -> None:
        """Send one or more words, without the characters in UNSPOKEN, or the end of the turn."""
        if isinstance(message, str):
            if not (text := message.translate(UNSPOKEN).strip()):
                return
            packed = msgpack.packb({"type": "Text", "text": text})
        else:
            packed = msgpack.packb({"type": "Eos"})
        async with self._sending:
            if self._socket is None:
                log.warning("not sent: %s", "already shut down" if self._stopped else "call start_up first")
                return
            self._eos_sent = self._eos_sent or isinstance(message, Eos)
            if not self.received_samples:
                self._sent.append(packed)
            with contextlib.suppress(websockets.ConnectionClosed):  # the reader reconnects, or raises it
                await self._socket.send(packed)

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Yield audio LEAD_S before it is due and words when they are due, in real time from the first audio."""
        if self._reading is None:
            raise RuntimeError("call start_up first")
        loop = asyncio.get_running_loop()
        while not self._stopped and (self._held or not self._reading.done()):
            wait_s = None  # until the next message
            if self._held and self._first_audio_s is not None:
                wait_s = self._first_audio_s + self._held[0][0] - loop.time()
            elif self._held and self._reading.done():
                wait_s = 0  # no audio will come to start the clock
            if wait_s is not None and wait_s <= 0:
                message = heapq.heappop(self._held)[2]
                if isinstance(message, Audio):
                    self.received_samples_yielded += len(message.pcm)
                yield message
            else:
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), wait_s)
        if not self._stopped:
            try:
                await self._reading  # raises what broke the connection
            finally:
                await self.shutdown()

    async def shutdown(self) -> None:
        """Stop at once, here and at the server. May be called more than once."""
        self._stopped = True
        self._changed.set()
        if self._socket is not None:
            await (
                self._socket.close()
            )  # the reader must still be running: the answer follows all audio in flight
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()  # in case the reader reconnected meanwhile

    async def _read(self) -> None:
        """Read all messages of the turn, over a second connection if the first breaks before any audio."""
        try:
            await self._read_to_close()
        except websockets.ConnectionClosed as error:
            if self.received_samples or self._stopped:
                raise
            log.warning("the connection broke before the first audio (%s); reconnecting", error)
            async with self._sending:  # so that words sent meanwhile keep their order
                self._socket = await _open(self._url, self._headers)
                for packed in self._sent:
                    await self._socket.send(packed)
            await self._read_to_close()

    async def _read_to_close(self) -> None:
        """Return after a normal close; raise ConnectionClosed after any other, or if the turn had not begun."""
        assert self._socket is not None
        try:
            while True:
                message = _unpacked(await self._socket.recv(decode=False))
                if message["type"] == "Audio":
                    self._first_audio_s = self._first_audio_s or asyncio.get_running_loop().time()
                    self._hold(self.received_samples / SAMPLE_RATE - LEAD_S, Audio(message["pcm"]))
                    self.received_samples += len(message["pcm"])
                    self._sent.clear()
                elif message["type"] == "Text" and message["text"]:
                    word = Text(message["text"], message["start_s"], message["stop_s"])
                    self._hold(word.start_s, word)
                elif message["type"] == "Error":
                    self._hold(self.received_samples / SAMPLE_RATE, Error(message["message"]))
        except websockets.ConnectionClosedOK:
            if not (self._eos_sent or self.received_samples):
                raise

    def _hold(self, due_s: float, message: Message) -> None:
        heapq.heappush(self._held, (due_s, self._count, message))
        self._count += 1
        self._changed.set()


class _Dial(connect):
    """Follows a redirect within the same server only: to another one it would take our keys along."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        other = super().process_redirect(exc)
        elsewhere = isinstance(other, str) and urlsplit(other)[:2] != urlsplit(self.uri)[:2]
        return exc if elsewhere else other


async def _open(url: str, headers: Mapping[str, str]) -> ClientConnection:
    """Connect and wait for Ready."""
    try:
        async with asyncio.timeout(START_S):
            # No compression: audio would not shrink.
            socket = await _Dial(
                url, additional_headers=headers, compression=None, open_timeout=None, close_timeout=CLOSE_S
            )
            try:
                await _await_ready(socket)
            except BaseException:  # including cancellation: an abandoned socket would occupy the server
                socket.transport.abort()
                raise
            return socket
    except TimeoutError as error:
        raise TimeoutError(f"the server was not ready within {START_S:.0f} s") from error
    except websockets.InvalidStatus as error:
        status, body = error.response.status_code, (error.response.body or b"").decode(errors="replace")
        refused = AtCapacity if status in (429, 503) else Refused
        raise refused(f"the server answered {status}: {body.strip()[:300]}") from error
    except (websockets.ConnectionClosed, websockets.InvalidHandshake) as error:
        raise Refused(f"this is not a TTS server, or it is not ready: {error}") from error


async def _await_ready(socket: ClientConnection) -> None:
    while (message := _unpacked(await socket.recv(decode=False)))["type"] != "Ready":
        if message["type"] == "Error":
            raise AtCapacity(f"the server is at capacity: {message['message']}")


def _unpacked(data: bytes) -> dict[str, Any]:
    try:
        message = dict(msgpack.unpackb(data))
        if message["type"] == "Audio":
            message["pcm"] = array("f", message["pcm"])
        elif message["type"] == "Text":
            message |= {name: float(message[name]) for name in ("start_s", "stop_s")}
        elif message["type"] == "Error":
            message["message"] = str(message["message"])
        return message
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise Refused(f"this is not a TTS server: it sent {data[:40]!r}") from error


@contextlib.contextmanager
def wav(path: str) -> Iterator[wave.Wave_write]:
    # Not wave.open(path): if it cannot open the file, it also prints an error from its destructor.
    with open(path, "wb") as raw, wave.open(raw, "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        yield file


async def speak(url: str, text: str, voice: str, out: str, headers: Mapping[str, str]) -> None:
    """Send `text` as an LLM would write it, 20 words per second, and write the audio to `out` as it is released."""
    tts = TextToSpeech(url, voice, headers)
    await tts.start_up()
    started_s, first_s = time.monotonic(), None
    words: list[str] = []

    async def send() -> None:
        for word in text.split():
            await tts.send(word)
            await asyncio.sleep(0.05)
        await tts.send(Eos())

    sending = asyncio.create_task(send())
    try:
        with wav(out) as file:
            async for message in tts:
                if isinstance(message, Audio):
                    first_s = first_s or time.monotonic() - started_s
                    samples = (round(max(-1.0, min(1.0, sample)) * 32767) for sample in message.pcm)
                    file.writeframes(array("h", samples).tobytes())
                elif isinstance(message, Text):
                    words.append(message.text)
                else:
                    raise Refused(f"the server could not speak everything: {message.message}")
    finally:
        sending.cancel()
        await tts.shutdown()
    if first_s is None:
        raise Refused("the server sent no audio")
    print(" ".join(words))
    print(
        f"{out}: {tts.received_samples / SAMPLE_RATE:.2f} s of audio, the first {first_s * 1000:.0f} ms after "
        "the first word, the rest in real time"
    )


def header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not (name.strip() and colon):
        raise argparse.ArgumentTypeError(f"{line!r} is not of the form 'Name: value'")
    return name.strip(), value.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", nargs="?", default="Hello, this is Orpheus, speaking over unmute's protocol.")
    parser.add_argument(
        "--voice",
        default="tara",
        help="an Orpheus, OpenAI or unmute voice; unknown ones fall back to the default",
    )
    parser.add_argument("--out", default="hello.wav")
    parser.add_argument("--url", default=os.environ.get("ORPHEUS_FASTAPI_URL", "http://127.0.0.1:5005"))
    parser.add_argument(
        "--header",
        type=header,
        action="append",
        default=[],
        help="an extra header, as 'Name: value'; may be repeated",
    )
    options = parser.parse_args()
    key = os.environ.get("ORPHEUS_API_KEY") or "public_token"
    headers = {"kyutai-api-key": key, **dict(options.header)}
    try:
        asyncio.run(speak(options.url, options.text, options.voice, options.out, headers))
    except (OSError, websockets.ConnectionClosed, websockets.InvalidURI) as error:
        sys.exit(f"{options.url}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
