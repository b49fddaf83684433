"""`orpheus say`: speak a text into an audio file, and measure how long that took.

The speech comes from a running server, or from both tiers in this process.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from orpheus.errors import BadRequest, EngineError, NotReady
from orpheus.settings import Settings
from orpheus.tts.encode import FORMATS, Format, wav_header

WAV_HEADER_BYTES = 44


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


def format_of(out: Path) -> Format:
    """The format a file's name asks for."""
    ending = out.suffix.lower().removeprefix(".") or "wav"
    for format in FORMATS:
        if ending in (format, {"opus": "ogg", "pcm": "raw"}.get(format)):
            return format
    raise BadRequest(f"{out.name}: use a name ending in one of {', '.join('.' + f for f in FORMATS)}.")


async def say(
    text: str, *, voice: str, out: Path, speed: float, url: str | None, settings: Settings, console: Console
) -> SpeechTiming:
    """Write the speech of `text` to `out`. Raises OrpheusError, and then leaves no file behind."""
    format = format_of(out)
    source = (
        _from_server(url, settings.client_headers, text, voice, format, speed)
        if url
        else _in_process(settings, text, voice, format, speed, console)
    )
    partial = out.with_name(out.name + ".part")
    first_audio_s, size = None, 0
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    try:
        with (
            partial.open("wb") as file,
            Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
        ):
            task = bar.add_task("Speaking")
            async with source as speech:
                async for chunk in speech.chunks:
                    first_audio_s = first_audio_s or time.perf_counter() - speech.requested_s
                    size += file.write(chunk)
                    bar.update(task, description=f"Speaking, {size // 1024} KiB")
                took_s = time.perf_counter() - speech.requested_s
            if format == "wav":  # the length is known now
                file.seek(0)
                file.write(wav_header(speech.sample_rate, size - WAV_HEADER_BYTES))
        partial.replace(out)
    except OSError as error:
        raise BadRequest(
            f"{out} cannot be written: {error.strerror}. Name another file with --out."
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink()
    return SpeechTiming(first_audio_s or took_s, _duration_s(out, format, speech.sample_rate), took_s)


@dataclass(frozen=True)
class _Speech:
    sample_rate: int  # Hz
    requested_s: float  # of time.perf_counter
    chunks: AsyncIterator[bytes]  # encoded


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
        segments = service.segment(text, params)
        async with aclosing(service.encoded(segments, params, Usage())) as chunks:
            yield _Speech(params.sample_rate, requested_s, chunks)


@asynccontextmanager
async def _from_server(
    url: str, headers: dict[str, str], text: str, voice: str, format: Format, speed: float
) -> AsyncIterator[_Speech]:
    body = {"input": text, "voice": voice, "response_format": format, "speed": speed}
    requested_s = time.perf_counter()
    try:
        async with (
            httpx.AsyncClient(timeout=httpx.Timeout(120, connect=5), headers=headers) as client,
            client.stream("POST", f"{url.rstrip('/')}/v1/audio/speech", json=body) as response,
        ):
            if response.status_code != 200:
                await response.aread()
                raise EngineError(f"{url} answered {response.status_code}: {response.text[:300]}")
            sample_rate = int(response.headers.get("x-sample-rate", 24000))
            yield _Speech(sample_rate, requested_s, response.aiter_raw())
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise NotReady(
            f"Nothing answers at {url}: start a server with `orpheus serve`, or leave --url and "
            "ORPHEUS_FASTAPI_URL out to speak without one."
        ) from error
    except httpx.HTTPError as error:
        raise EngineError(f"{url} broke off ({type(error).__name__}): its log says why.") from error


def _duration_s(path: Path, format: Format, sample_rate: int) -> float:
    if format in ("wav", "pcm"):
        header_bytes = WAV_HEADER_BYTES if format == "wav" else 0
        return (path.stat().st_size - header_bytes) / 2 / sample_rate
    import av

    with av.open(str(path)) as container:
        return sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))
