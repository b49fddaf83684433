"""`orpheus say`: a text → an audio file, with what it took.

Knows nothing of the stages; it asks a running server, or runs both tiers in this process.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from orpheus.errors import BadRequest, EngineError, NotReady
from orpheus.settings import Settings
from orpheus.tts.encode import FORMATS, Format, wav_header


@dataclass(frozen=True)
class Spoken:
    """How a request went, as its listener saw it."""

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
) -> Spoken:
    """Write the speech of `text` to `out`. Raises OrpheusError; a failure leaves no file behind."""
    format = format_of(out)
    source = (
        _from_server(url, settings.client_headers, text, voice, format, speed)
        if url
        else _in_process(settings, text, voice, format, speed, console)
    )
    partial = out.with_name(out.name + ".part")
    rate, started, first, size = settings.sample_rate, 0.0, None, 0
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    try:
        with (
            partial.open("wb") as file,
            Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
        ):
            task = bar.add_task("Speaking")
            async with aclosing(source) as chunks:
                async for chunk in chunks:
                    if isinstance(chunk, _Started):
                        rate, started = chunk.sample_rate, time.perf_counter()
                        continue
                    first = first or time.perf_counter() - started
                    size += file.write(chunk)
                    bar.update(task, description=f"Speaking, {size // 1024} KiB")
            took = time.perf_counter() - started
            if format == "wav":  # the length is known now: a true header, for every reader
                file.seek(0)
                file.write(wav_header(rate, size - 44))
        partial.replace(out)
    except OSError as error:
        raise BadRequest(f"{out} cannot be written: {error.strerror}.") from error
    finally:
        with suppress(OSError):
            partial.unlink()
    return Spoken(first or took, _duration_s(out, format, rate), took)


@dataclass(frozen=True)
class _Started:
    sample_rate: int


async def _in_process(
    settings: Settings, text: str, voice: str, format: Format, speed: float, console: Console
) -> AsyncGenerator[bytes | _Started]:
    # Here, not above: asking a server needs neither torch nor llama.cpp, whose import takes seconds.
    from orpheus.server.schema import SpeechRequest
    from orpheus.server.service import SpeechService
    from orpheus.tts.usage import Usage

    service = SpeechService.in_process(settings)
    async with service.running():
        with console.status("Loading the weights"):
            await service.loaded()
        params = service.params(SpeechRequest(input=text, voice=voice, response_format=format, speed=speed))
        segments = service.segment(text, params)
        yield _Started(params.sample_rate)
        async with aclosing(service.encoded(segments, params, Usage())) as chunks:
            async for chunk in chunks:
                yield chunk


async def _from_server(
    url: str, headers: dict[str, str], text: str, voice: str, format: Format, speed: float
) -> AsyncGenerator[bytes | _Started]:
    body = {"input": text, "voice": voice, "response_format": format, "speed": speed}
    try:
        async with (
            httpx.AsyncClient(timeout=httpx.Timeout(120, connect=5), headers=headers) as client,
            client.stream("POST", f"{url.rstrip('/')}/v1/audio/speech", json=body) as response,
        ):
            if response.status_code != 200:
                await response.aread()
                raise EngineError(f"{url} answered {response.status_code}: {response.text[:300]}")
            yield _Started(int(response.headers.get("x-sample-rate", 24000)))
            async for chunk in response.aiter_raw():
                yield chunk
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise NotReady(f"Nothing answers at {url}: start it with `make serve`.") from error
    except httpx.HTTPError as error:
        raise EngineError(f"{url} broke off: {type(error).__name__}.") from error


def _duration_s(path: Path, format: Format, rate: int) -> float:
    if format in ("wav", "pcm"):
        return (path.stat().st_size - (44 if format == "wav" else 0)) / 2 / rate
    import av

    with av.open(str(path)) as container:
        return sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))
