"""Talk to the voice agent over OpenAI's Realtime protocol (pip install websockets): a recording, a microphone or text.

    python clients/realtime.py question.wav --voice tara --out answer.wav
    python clients/realtime.py --text "What is the capital of France?" --instructions "You are a pirate."
    python clients/realtime.py --microphone --play        (pip install sounddevice; use headphones)

The server is ORPHEUS_FASTAPI_URL (default http://127.0.0.1:5005), started with `orpheus talk`; the API key is
ORPHEUS_API_KEY. A recording is sent as fast as it was spoken, and may hold several turns and interruptions. What would
have been heard of the answers is written to --out (default answer.wav, unless they are played). For each turn both
texts are printed, and how long the answer took. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import array
import asyncio
import base64
import contextlib
import json
import os
import queue
import sys
import threading
import time
import wave
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

import websockets
from websockets.asyncio.client import ClientConnection, connect

RATE = 24_000  # Hz, both ways
FRAME_S = 0.04
FRAME_BYTES = int(RATE * FRAME_S) * 2
BYTES_PER_S = 2 * RATE
UNHEARD_S = 5.0  # after a recording, without a turn: the server heard no speech
SETTLED_S = 1.5  # after a recording and the answer to its last turn: nothing more comes
ANSWER_S = 60.0  # for an answer to begin, or go on

HEADERS = {
    "x-api-key": "ORPHEUS_API_KEY",
    "Modal-Key": "ORPHEUS_PROXY_KEY",  # the proxy token for a server on Modal
    "Modal-Secret": "ORPHEUS_PROXY_SECRET",
}
STAGES = {
    "vad_ms": "end of turn",
    "stt_ms": "transcript",
    "llm_first_token_ms": "LLM",
    "first_clause_ms": "first clause",
    "first_audio_ms": "voice",
}


class Failed(Exception):
    """One sentence for whoever started this program."""


def read_wav(path: str) -> bytes:
    """A WAV of 16-bit samples → its samples, mono at 24 kHz. Failed if it is another kind of file."""
    try:
        with wave.open(path, "rb") as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise Failed(f"{path} is not a WAV that can be read ({error}): convert it with ffmpeg.") from error
    if width != 2:
        raise Failed(f"{path} has samples of {8 * width} bits: convert it to 16 with ffmpeg -c:a pcm_s16le.")
    samples = array.array("h", data[: len(data) // (2 * channels) * 2 * channels])
    if sys.byteorder == "big":
        samples.byteswap()
    mono = [sum(samples[at : at + channels]) / channels for at in range(0, len(samples), channels)]
    return resample(mono, rate)


def resample(samples: list[float], rate: int) -> bytes:
    """To 24 kHz. Each new sample is the mean of those it spans, or lies on the line between two."""
    step = rate / RATE
    out = array.array("h")
    for number in range(int(len(samples) / step)):
        at = number * step
        first = int(at)
        if step > 1:
            span = samples[first : max(first + 1, int(at + step))]
            out.append(round(sum(span) / len(span)))
        else:
            last = min(first + 1, len(samples) - 1)
            out.append(round(samples[first] + (samples[last] - samples[first]) * (at - first)))
    if sys.byteorder == "big":
        out.byteswap()
    return out.tobytes()


class Speaker:
    """What a listener hears: a clock that runs while there is something to play, and where that goes.

    With a sound card that plays it; otherwise it is only reckoned, in real time.
    """

    def __init__(self, out: str | None, play: bool) -> None:
        self._out = out
        self._heard = bytearray()  # of answers that were heard to their end or cut
        self._items: list[Item] = []  # that are heard, or will be
        self._ends_s = 0.0  # when the last of them will have been heard
        self._card = Card() if play else None

    def add(self, item: Item, data: bytes) -> None:
        now_s = time.monotonic()
        if item not in self._items:
            self._items.append(item)
            item.starts_s = max(now_s, self._ends_s)
        item.audio += data
        self._ends_s = max(now_s, self._ends_s) + len(data) / BYTES_PER_S
        if self._card:
            self._card.write(data)

    @property
    def busy(self) -> bool:
        return time.monotonic() < self._ends_s

    def cut(self) -> list[tuple[Item, int]]:
        """Silence at once; what was being heard or waited, and how many milliseconds of each were heard."""
        now_s = time.monotonic()
        cut = []
        for item in self._items:
            heard_s = max(0.0, now_s - item.starts_s)
            if now_s < self._ends_s and heard_s < len(item.audio) / BYTES_PER_S:
                cut.append((item, int(heard_s * 1000)))
                del item.audio[int(heard_s * RATE) * 2 :]
        self._keep()
        self._ends_s = 0.0
        if self._card:
            self._card.clear()
        return cut

    def close(self) -> None:
        self._keep()
        if self._card:
            self._card.close()
        if self._out and self._heard:  # nothing heard overwrites no file
            # Not wave.open(path): if it cannot open the file, it also prints an error from its destructor.
            with open(self._out, "wb") as raw, wave.open(raw, "wb") as file:
                file.setparams((1, 2, RATE, 0, "NONE", ""))
                file.writeframes(bytes(self._heard))

    @property
    def heard_s(self) -> float:
        return len(self._heard) / BYTES_PER_S

    def _keep(self) -> None:
        for item in self._items:
            self._heard += item.audio
        self._items = []


def sound() -> Any:
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: without PortAudio
        raise Failed(
            f"The sound card cannot be used: pip install sounddevice, and PortAudio ({error})."
        ) from error
    return sounddevice


class Card:
    """Plays samples, and can forget what it has not played yet."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._lock = threading.Lock()  # the sound card calls from a thread of its own
        self._stream = opened(
            lambda card: card.RawOutputStream(samplerate=RATE, channels=1, dtype="int16", callback=self._fill)
        )

    def write(self, data: bytes) -> None:
        with self._lock:
            self._waiting += data

    def clear(self) -> None:
        with self._lock:
            self._waiting.clear()

    def close(self) -> None:
        self._stream.stop()
        self._stream.close()

    def _fill(self, out: Any, frames: int, *_: Any) -> None:
        with self._lock:
            data = bytes(self._waiting[: 2 * frames])
            del self._waiting[: len(data)]
        out[:] = data.ljust(2 * frames, b"\0")


def opened(make: Callable[[Any], Any]) -> Any:
    card = sound()
    try:
        stream = make(card)
        stream.start()
    except (card.PortAudioError, ValueError) as error:
        raise Failed(f"The sound card cannot be used ({error}): name a WAV instead.") from error
    return stream


async def microphone() -> AsyncGenerator[bytes]:
    """Frames as they are recorded."""
    frames: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    stream = opened(
        lambda card: card.RawInputStream(
            samplerate=RATE,
            channels=1,
            dtype="int16",
            blocksize=FRAME_BYTES // 2,
            callback=lambda data, *_: frames.put(bytes(data)),
        )
    )
    try:
        while True:
            while not frames.empty():
                yield frames.get()
            await asyncio.sleep(FRAME_S / 2)
    finally:
        stream.stop()
        stream.close()


async def recording(samples: bytes, over: asyncio.Event) -> AsyncGenerator[bytes]:
    """Frames at the pace they were spoken, then silence; `over` is set between the two."""
    due_s, at = time.monotonic(), 0
    while True:
        frame = samples[at : at + FRAME_BYTES]
        if not frame:
            over.set()
        yield frame.ljust(FRAME_BYTES, b"\0")
        at += FRAME_BYTES
        due_s += FRAME_S
        await asyncio.sleep(due_s - time.monotonic())


@dataclass(eq=False)
class Item:
    """One answer."""

    id: str
    content_index: int
    audio: bytearray = field(default_factory=bytearray)
    starts_s: float = 0.0


class Conversation:
    """One connection: what the server sends → what is heard and printed."""

    def __init__(self, socket: ClientConnection, speaker: Speaker) -> None:
        self._socket = socket
        self._speaker = speaker
        self._items: dict[str, Item] = {}
        self._cut: set[str] = set()  # responses of which nothing more is heard
        self._active: str | None = None  # the response in progress
        self._stopped_s: float | None = None  # when the last turn ended, as the server told it
        self._waiting = 0  # turns that are not answered yet
        self._speaking = False  # the user
        self._first_s: float | None = None  # from the end of the turn to the first audio
        self.turns = 0
        self.changed_s = time.monotonic()
        self.problem: str | None = None
        self.configured = asyncio.Event()

    @property
    def idle(self) -> bool:
        return not (self._waiting or self._active or self._speaking or self._speaker.busy)

    async def send(self, type_: str, **fields: Any) -> None:
        await self._socket.send(json.dumps({"type": type_, **fields}))

    async def ask(self, text: str) -> None:
        """A turn that is typed."""
        content = [{"type": "input_text", "text": text}]
        self._begin_waiting()
        print(f"You: {text}", flush=True)
        await self.send(
            "conversation.item.create", item={"type": "message", "role": "user", "content": content}
        )
        await self.send("response.create")

    async def receive(self) -> None:
        """Until the connection is closed. Failed with the server's error if it is none of a turn."""
        async for message in self._socket:
            await self._event(json.loads(message))
        raise Failed("The server closed the connection.")

    def _begin_waiting(self) -> None:
        self.turns += 1
        self._waiting += 1
        self._stopped_s, self._first_s = time.monotonic(), None

    def _forget_turn(self) -> None:
        """It was no speech, or was not understood: no answer comes."""
        self.turns -= 1
        self._waiting = max(0, self._waiting - 1)

    async def _event(self, event: dict[str, Any]) -> None:
        if event["type"] != "rate_limits.updated":  # it only keeps the connection open
            self.changed_s = time.monotonic()
        match event["type"]:
            case "session.updated":
                self.configured.set()
            case "input_audio_buffer.speech_started":
                self._speaking = True
                await self._silence()
            case "input_audio_buffer.speech_stopped":
                self._speaking = False
                self._begin_waiting()
            case "conversation.item.input_audio_transcription.completed":
                if event["transcript"].strip():
                    print(f"You: {event['transcript'].strip()}", flush=True)
                else:
                    self._forget_turn()
            case "input_audio_buffer.cleared":
                self._forget_turn()
            case "conversation.item.input_audio_transcription.failed":
                self._forget_turn()
                self._tell(event["error"])
            case "response.created":
                self._active = event["response"]["id"]
            case "response.output_audio.delta" if event["response_id"] not in self._cut:
                if self._first_s is None and self._stopped_s is not None:
                    self._first_s = time.monotonic() - self._stopped_s
                item = self._items.setdefault(
                    event["item_id"], Item(event["item_id"], event["content_index"])
                )
                self._speaker.add(item, base64.b64decode(event["delta"]))
            case "response.done":
                self._done(event["response"])
            case "error" if not self.configured.is_set():
                raise Failed(event["error"]["message"])
            case "error":
                self._tell(event["error"])

    async def _silence(self) -> None:
        """Whoever talks interrupts: nothing more of the answer is heard, and the server is told what was."""
        if self._active:
            self._cut.add(self._active)
        for item, heard_ms in self._speaker.cut():
            await self.send(
                "conversation.item.truncate",
                item_id=item.id,
                content_index=item.content_index,
                audio_end_ms=heard_ms,
            )

    def _done(self, response: dict[str, Any]) -> None:
        if self._active == response["id"]:
            self._active = None
        self._waiting = 0  # it answers all that was said before it
        said = " ".join(
            part.get("transcript") or part.get("text") or ""
            for item in response["output"]
            for part in item.get("content", ())
        )
        cut = " (interrupted)" if response["status"] == "cancelled" else ""
        print(f"Agent: {said.strip()}{cut}", flush=True)
        if response["status"] == "failed":
            self._tell((response.get("status_details") or {}).get("error") or {})
        stages = response.get("orpheus") or {}
        parts = [f"{name} {stages[key]:.0f}" for key, name in STAGES.items() if stages.get(key) is not None]
        if self._first_s is not None:
            whole_ms = stages.get("end_to_audio_ms")
            took = f"{whole_ms:.0f} ms from the end of speech" if whole_ms is not None else ""
            here = f"{self._first_s * 1000:.0f} ms here from the end of the turn"
            print(f"  first audio: {', '.join(filter(None, (took, here, *parts)))}", flush=True)

    def _tell(self, error: dict[str, Any]) -> None:
        self.problem = error.get("message") or "The server failed on a turn; its log has the reason."
        print(self.problem, file=sys.stderr, flush=True)


class Dial(connect):
    """Follows a redirect within the same server only: to another one it would take our keys along."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        other = super().process_redirect(exc)
        elsewhere = isinstance(other, str) and urlsplit(other)[:2] != urlsplit(self.uri)[:2]
        return exc if elsewhere else other


def session(options: argparse.Namespace) -> dict[str, Any]:
    pcm = {"type": "audio/pcm", "rate": RATE}
    turns = {"type": options.turns, "create_response": True, "interrupt_response": True}
    hearing = {"model": "whisper-1", **({"language": options.language} if options.language else {})}
    return {
        "type": "realtime",
        "output_modalities": ["audio"],
        **({"instructions": options.instructions} if options.instructions else {}),
        "audio": {
            "input": {"format": pcm, "transcription": hearing, "turn_detection": turns},
            "output": {"format": pcm, "voice": options.voice},
        },
    }


async def talk(options: argparse.Namespace, speaker: Speaker) -> None:
    samples = read_wav(options.recording) if options.recording else b""
    base = options.url.rstrip("/").replace("http", "ws", 1)
    headers = {header: value for header, name in HEADERS.items() if (value := os.environ.get(name))}
    async with Dial(
        f"{base}/v1/realtime?{urlencode({'model': 'orpheus'})}", additional_headers=headers, compression=None
    ) as socket:
        conversation = Conversation(socket, speaker)
        await conversation.send("session.update", session=session(options))
        work = [conversation.receive(), drive(conversation, options, samples)]
        tasks = [asyncio.create_task(one) for one in work]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # raises what went wrong
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    if conversation.problem:
        raise Failed("")  # it was told


async def drive(conversation: Conversation, options: argparse.Namespace, samples: bytes) -> None:
    """Say what there is to say; returns once everything was answered and heard."""
    async with asyncio.timeout(ANSWER_S):
        await conversation.configured.wait()
    over = asyncio.Event()
    for text in options.text:
        await conversation.ask(text)
        await settled(conversation)
    if options.microphone:
        print("Talk. Ctrl-C ends.", file=sys.stderr)
        await record(conversation, microphone())
    elif samples:
        sending = asyncio.create_task(record(conversation, recording(samples, over)))
        try:
            await over.wait()
            await settled(conversation)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


async def record(conversation: Conversation, frames: AsyncGenerator[bytes]) -> None:
    async with contextlib.aclosing(frames):
        async for frame in frames:
            await conversation.send("input_audio_buffer.append", audio=base64.b64encode(frame).decode())


async def settled(conversation: Conversation) -> None:
    """Wait until every turn is answered and heard. Failed if there is none, or no answer comes."""
    began_s = quiet_s = time.monotonic()
    while True:
        now_s = time.monotonic()
        quiet_s = quiet_s if conversation.idle else now_s
        if conversation.turns and now_s - quiet_s > SETTLED_S:
            return
        if not conversation.turns and conversation.idle and now_s - began_s > UNHEARD_S:
            raise Failed("The server heard no speech in the recording.")
        if now_s - conversation.changed_s > ANSWER_S:
            raise Failed(f"The server has said nothing for {ANSWER_S:.0f} s; its log may say why.")
        await asyncio.sleep(0.05)


def refusal(url: str, response: websockets.Response) -> str:
    """What a server that refused the connection says, and what to do."""
    status, body = response.status_code, (response.body or b"").decode(errors="replace")
    if status in (403, 404):
        return f"{url} answered {status}: {body[:300]} Is the agent running? Start it with `orpheus talk`."
    if status == 429 and (wait := response.headers.get("Retry-After")):
        return f"{url} is full: try again in {wait} s."
    return f"{url} answered {status}: {body[:300]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recording", nargs="?", help="a WAV of 16-bit samples")
    parser.add_argument(
        "--text", action="append", default=[], help="a turn that is typed; may be given several times"
    )
    parser.add_argument(
        "--microphone", action="store_true", help="talk into the microphone (needs sounddevice)"
    )
    parser.add_argument("--play", action="store_true", help="play the answers (needs sounddevice)")
    parser.add_argument("--out", help="WAV file for the answers (default without --play: answer.wav)")
    parser.add_argument("--voice", default="tara")
    parser.add_argument("--instructions", help="who the agent is, and how it answers")
    parser.add_argument("--language", help="of what is said, such as en; unset, the server finds out")
    parser.add_argument("--turns", choices=("server_vad", "semantic_vad"), default="server_vad")
    parser.add_argument("--url", default=os.environ.get("ORPHEUS_FASTAPI_URL", "http://127.0.0.1:5005"))
    options = parser.parse_args()
    if not (options.recording or options.text or options.microphone):
        parser.error("name a WAV, or give --text or --microphone")
    if not (options.out or options.play):
        options.out = "answer.wav"
    problem, speaker = None, None
    try:
        speaker = Speaker(options.out, options.play)
        asyncio.run(talk(options, speaker))
    except KeyboardInterrupt:
        problem = None if options.microphone else "stopped"
    except websockets.InvalidStatus as error:
        problem = refusal(options.url, error.response)
    except websockets.ConnectionClosed as error:
        problem = f"The connection broke: {error.rcvd.reason or error if error.rcvd else error}"
    except TimeoutError:
        problem = f"{options.url} does not answer in time."
    except (Failed, OSError, ValueError, websockets.WebSocketException) as error:
        problem = str(error)
    try:
        if speaker:
            speaker.close()
            if speaker.heard_s:
                print(f"{options.out or 'played'}: {speaker.heard_s:.2f} s of answers")
            elif problem is None and not options.microphone:
                problem = "The server sent no audio."
    except OSError as error:
        problem = f"{options.out} cannot be written: {error.strerror}"
    if problem:
        print(problem, file=sys.stderr)
    if problem is not None:
        sys.exit(130 if problem == "stopped" else 1)


if __name__ == "__main__":
    main()
