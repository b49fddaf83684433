"""`orpheus say`: speak a text into an audio file, and measure how long that took.

The speech comes from a running server, or from both tiers in this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import httpx
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from orpheus.errors import AtCapacity, BadRequest, EngineError, NotReady
from orpheus.settings import Settings
from orpheus.text.segmenter import PARAGRAPH_PAUSE_MS, pause_ms
from orpheus.text.sentences import split_long, split_sentences
from orpheus.tts.encode import FORMATS, Format, open_encoder, wav_header

WAV_HEADER_BYTES = 44
STDOUT = Path("-")
# A longer text goes to a server in parts: by default it takes 4,096 characters, as OpenAI's does.
MAX_PART_CHARS = 3_000
REPORT_EVERY = 0.1  # of a long text, without a terminal
FULL_S = 300.0  # how long to wait in the middle of a text for a server that is full
NOTHING_TO_SAY = (
    "empty_input",
    "unspeakable_language",
)  # errors of a text in which the voice can speak nothing


@dataclass(frozen=True)
class SpeechTiming:
    """How long a request took, in seconds, as its client saw it."""

    first_audio_s: float
    audio_s: float
    took_s: float

    def __str__(self) -> str:
        return (
            f"first audio after {self.first_audio_s * 1000:.0f} ms, {self.audio_s:.2f} s of audio in "
            f"{self.took_s:.2f} s: {self.audio_s / self.took_s:.1f} times real time"
        )


def format_called(name: str | None, out: Path) -> Format:
    """The format with this name, or else the one that the file's name asks for: WAV without an ending."""
    ending = (name or out.suffix.removeprefix(".") or "wav").lower()
    for format in FORMATS:
        if ending in (format, {"opus": "ogg", "pcm": "raw"}.get(format)):
            return format
    if name:
        raise BadRequest(f"There is no format {name!r}: use one of {', '.join(FORMATS)}.")
    raise BadRequest(f"{out.name}: use a name ending in one of {', '.join('.' + f for f in FORMATS)}.")


async def say(
    text: str,
    *,
    voice: str,
    out: Path,
    format: Format,
    speed: float,
    url: str | None,
    settings: Settings,
    console: Console,
) -> SpeechTiming:
    """Write the speech of a text of any length to `out`, or to standard output if that is `-`.

    Raises OrpheusError, and then leaves no file behind.
    """
    source = (
        _from_server(url, settings.client_headers, text, voice, format, speed)
        if url
        else _in_process(settings, text, voice, format, speed, console)
    )
    first_audio_s, size = None, 0
    with writing(out) as file, _progress(console) as report:
        async with source as speech:
            async for chunk in speech.chunks:
                first_audio_s = first_audio_s or time.perf_counter() - speech.requested_s
                size += file.write(chunk)
                file.flush()
                report(speech.spoken(), size)
            took_s = time.perf_counter() - speech.requested_s
        if format == "wav":
            state_length(file, out, speech.sample_rate, size)
    return SpeechTiming(first_audio_s or took_s, speech.audio_s(), took_s)


@contextlib.contextmanager
def writing(out: Path) -> Iterator[BinaryIO]:
    """Where the audio goes. A file gets its name once it is complete."""
    if out == STDOUT:
        yield sys.stdout.buffer
        return
    out = out.resolve()  # a link stays one
    partial = out.with_name(out.name + ".part")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(out)
    except OSError as error:
        raise BadRequest(
            f"{out} cannot be written: {error.strerror}. Name another file with --out."
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def state_length(file: BinaryIO, out: Path, sample_rate: int, size: int) -> None:
    """Write the length into the header of a WAV of `size` bytes, now that it is known; not to standard output."""
    if out != STDOUT and size >= WAV_HEADER_BYTES:
        file.seek(0)
        file.write(wav_header(sample_rate, size - WAV_HEADER_BYTES))


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[Callable[[float, int], None]]:
    """Shows how much of the text is spoken, from 0 to 1, and how many bytes that are."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    reported = 0.0
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Speaking", total=1.0)

        def report(spoken: float, size: int) -> None:
            nonlocal reported
            bar.update(task, completed=spoken, description=f"Speaking, {size // 1024} KiB")
            if not console.is_terminal and reported + REPORT_EVERY <= spoken < 1:
                console.print(f"Speaking: {spoken:.0%}, {size // 1024} KiB", highlight=False)
                reported = spoken

        yield report


@dataclass(frozen=True)
class _Speech:
    sample_rate: int  # Hz
    requested_s: float  # of time.perf_counter
    chunks: AsyncIterator[bytes]  # encoded
    spoken: Callable[[], float]  # of the text, from 0 to 1
    audio_s: Callable[[], float]  # in the chunks so far


@asynccontextmanager
async def _in_process(
    settings: Settings, text: str, voice: str, format: Format, speed: float, console: Console
) -> AsyncIterator[_Speech]:
    # Imported here: asking a server needs neither torch nor llama.cpp, which take seconds to import.
    from orpheus.server.schema import SpeechRequest
    from orpheus.server.service import SpeechService
    from orpheus.tts.usage import Usage

    service = SpeechService.in_process(settings)
    async with service.running():
        with console.status("Loading the weights"):
            await service.loaded()
        requested_s = time.perf_counter()
        params = service.params(SpeechRequest(input=text, voice=voice, response_format=format, speed=speed))
        segmented = service.pipeline.segment(text, params)  # of any length, which service.segment would limit
        chars = sum(len(segment.text) for segment in segmented.segments)
        usage = Usage()
        async with aclosing(service.encoded(segmented.source(), params, usage)) as chunks:
            yield _Speech(
                params.sample_rate,
                requested_s,
                chunks,
                lambda: sum(len(segment.text) for segment in usage.segments if segment.complete) / chars,
                lambda: usage.samples / service.pipeline.playout_rate(params),
            )


@asynccontextmanager
async def _from_server(
    url: str, headers: dict[str, str], text: str, voice: str, format: Format, speed: float
) -> AsyncIterator[_Speech]:
    """Samples are fetched and encoded here, so that the parts of a long text become one stream."""
    parts = split_text(text, MAX_PART_CHARS)
    timeout = httpx.Timeout(120, connect=5)
    async with httpx.AsyncClient(base_url=url.rstrip("/"), timeout=timeout, headers=headers) as client:
        remote = _RemoteSpeech(client, parts, {"voice": voice, "response_format": "pcm", "speed": speed})
        requested_s = time.perf_counter()
        async with aclosing(remote.samples()) as samples:
            first = await anext(samples, b"")  # raises what is wrong with the request
            encoder = open_encoder(format, source_rate=remote.sample_rate)

            async def encoded() -> AsyncGenerator[bytes]:
                yield encoder.write(_floats(first))
                async for chunk in samples:
                    yield encoder.write(_floats(chunk))
                yield encoder.flush()

            async with aclosing(encoded()) as chunks:
                yield _Speech(
                    remote.sample_rate,
                    requested_s,
                    (chunk async for chunk in chunks if chunk),
                    lambda: remote.spoken_chars / max(1, len(text)),
                    lambda: remote.bytes / 2 / remote.sample_rate,
                )


class Part(NamedTuple):
    text: str
    pause_ms: int  # after it


def split_text(text: str, max_chars: int) -> list[Part]:
    """`text` in parts of at most `max_chars`, each as many whole paragraphs as fit, else sentences, else words."""
    if len(text) <= max_chars:
        return [Part(text, 0)]
    pieces: list[tuple[str, bool]] = []  # text, and whether a paragraph ends with it
    for empty, lines in groupby(text.splitlines(keepends=True), lambda line: not line.strip()):
        paragraph = "".join(lines)
        if empty or len(paragraph) <= max_chars:
            pieces.append((paragraph, True))
            continue
        sentences = split_sentences(paragraph, "en")
        cut = [part for sentence in sentences for part in split_long(sentence, max_chars, "en")]
        pieces += [(part, part is cut[-1]) for part in cut]
    joined: list[tuple[str, bool]] = []
    for piece, ends in pieces:
        if joined and len(joined[-1][0]) + len(piece) <= max_chars:
            joined[-1] = (joined[-1][0] + piece, ends)
        else:
            joined.append((piece, ends))
    parts = [
        Part(part, PARAGRAPH_PAUSE_MS if ends else pause_ms(part, "", "en"))
        for part, ends in joined
        if part.strip()
    ]
    return [*parts[:-1], parts[-1]._replace(pause_ms=0)] if parts else [Part(text, 0)]


class _NothingToSay(EngineError):
    """A server cannot speak anything of a text."""


class _RemoteSpeech:
    """The parts of a text, spoken by a server one after another."""

    def __init__(self, client: httpx.AsyncClient, parts: Sequence[Part], request: dict[str, Any]) -> None:
        self.sample_rate = 0  # Hz, once there are samples
        self.bytes = 0  # of samples
        self.spoken_chars = 0
        self._client = client
        self._parts = parts
        self._request = request

    async def samples(self) -> AsyncGenerator[bytes]:
        """Whole 16-bit samples, as they come."""
        unspoken: _NothingToSay | None = None
        for part in self._parts:
            try:
                async with aclosing(self._speak(part)) as chunks:
                    async for chunk in chunks:
                        self.bytes += len(chunk)
                        yield chunk
            except (
                _NothingToSay
            ) as error:  # a line of stars, a page in another script: no reason to lose the rest
                unspoken = error
            self.spoken_chars += len(part.text)
        if unspoken and not self.bytes:
            raise unspoken

    async def _speak(self, part: Part) -> AsyncGenerator[bytes]:
        """A part's samples. In the middle of a text, a server that is full is asked again when it says."""
        gives_up_s = time.monotonic() + FULL_S
        while True:
            try:
                async with aclosing(self._ask(part)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            except AtCapacity as error:  # raised before any sample
                if not self.bytes or time.monotonic() + error.retry_after_s > gives_up_s:
                    raise
                await asyncio.sleep(error.retry_after_s)

    async def _ask(self, part: Part) -> AsyncGenerator[bytes]:
        url = self._client.base_url
        try:
            async with self._client.stream(
                "POST", "/v1/audio/speech", json={**self._request, "input": part.text}
            ) as response:
                if response.status_code != 200:
                    await response.aread()
                    answer = f"{url} answered {response.status_code}: {response.text[:300]}"
                    if response.status_code == 429:
                        from orpheus.http.responses import retry_after_s  # loads FastAPI

                        raise AtCapacity(answer, retry_after_s=retry_after_s(response.headers))
                    code = _code_of(response)
                    raise _NothingToSay(answer) if code in NOTHING_TO_SAY else EngineError(answer)
                self.sample_rate = int(response.headers.get("x-sample-rate", 24000))
                rest = b""
                async for chunk in response.aiter_raw():
                    whole = len(rest + chunk) // 2 * 2
                    samples, rest = (rest + chunk)[:whole], (rest + chunk)[whole:]
                    yield samples
                yield bytes(2 * (self.sample_rate * part.pause_ms // 1000))
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise NotReady(
                f"Nothing answers at {url}: start a server with `orpheus serve`, or leave --url and "
                "ORPHEUS_FASTAPI_URL out to speak without one."
            ) from error
        except httpx.HTTPError as error:
            raise EngineError(f"{url} broke off ({type(error).__name__}): its log says why.") from error


def _code_of(response: httpx.Response) -> object:
    """The code of an error, if it has one."""
    with suppress(ValueError, LookupError, TypeError):
        return response.json()["error"]["code"]
    return None


def _floats(samples: bytes) -> Any:
    return np.frombuffer(samples, "<i2").astype(np.float32) / 32768
