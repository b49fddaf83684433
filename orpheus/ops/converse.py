"""`orpheus converse`: answer a recording with speech, and say what was heard, what was answered, and how long each took.

The answer comes from a running agent, or from all of it in this process.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from orpheus.agent import stages
from orpheus.errors import EngineError, NotReady
from orpheus.http.sse import read_events
from orpheus.ops.say import state_length, writing
from orpheus.settings import Settings
from orpheus.tts.encode import Format

PATH = "/v1/audio/speech-to-speech"
ANSWER_TIMEOUT_S = 120.0  # for the next event
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Question:
    """A recording, and how it is to be answered; None leaves a choice to the agent."""

    recording: bytes
    voice: str
    format: Format
    speed: float
    instructions: str | None
    language: str | None

    def fields(self) -> dict[str, Any]:
        fields = {
            "voice": self.voice,
            "response_format": self.format,
            "speed": self.speed,
            "instructions": self.instructions,
            "language": self.language,
        }
        return {name: value for name, value in fields.items() if value is not None}


async def converse(
    question: Question, *, out: Path, url: str | None, settings: Settings, console: Console, tell: Tell
) -> None:
    """Write the answer to `out`, or to standard output if that is `-`; `tell` gets a line as each stage ends.

    Raises OrpheusError, and then leaves no file behind.
    """
    if url:
        answer = _from_server(url, settings.client_headers, question, tell)
    else:
        answer = _in_process(settings, question, console, tell)
    size = sample_rate = 0
    with writing(out) as file:
        async with aclosing(answer) as chunks:
            async for rate, chunk in chunks:
                sample_rate = rate
                size += file.write(chunk)
                file.flush()
        if question.format == "wav":
            state_length(file, out, sample_rate, size)


async def _in_process(
    settings: Settings, question: Question, console: Console, tell: Tell
) -> AsyncGenerator[tuple[int, bytes]]:
    """The sample rate in Hz with each chunk."""
    # Imported here: asking a server needs neither torch nor llama.cpp, which take seconds to import.
    from orpheus.agent.hear import load_recognizer
    from orpheus.agent.speech_to_speech import Exchange, read_request
    from orpheus.agent.think import INSTRUCTIONS, Message, load_thinker
    from orpheus.server.service import SpeechService

    service = SpeechService.in_process(settings)
    async with service.running():
        with console.status("Loading the weights"):
            await service.loaded()
            recognizer = await asyncio.to_thread(load_recognizer, settings)
            thinker = load_thinker(settings)
        try:
            request = read_request(question.fields())
            exchange = Exchange(service, recognizer, thinker, request)
            with console.status("Warming up"):
                await thinker.warm_up([Message("system", question.instructions or INSTRUCTIONS)])
            await exchange.hear(question.recording)
            tell(stages.heard(exchange.transcript, exchange.heard_in_s))
            answered = False
            async with aclosing(exchange.speak()) as chunks:
                async for chunk in chunks:
                    if exchange.thought_in_s is not None and not answered:
                        answered = True
                        tell(stages.answered(exchange.answer.strip(), exchange.thought_in_s))
                    yield exchange.params.sample_rate, chunk
            assert exchange.thought_in_s is not None
            assert exchange.spoke_in_s is not None
            assert exchange.first_audio_s is not None
            if not answered:
                tell(stages.answered(exchange.answer.strip(), exchange.thought_in_s))
            tell(stages.spoke(exchange.spoke_in_s, exchange.first_audio_s))
        finally:
            await thinker.aclose()
            await recognizer.aclose()


async def _from_server(
    url: str, headers: dict[str, str], question: Question, tell: Tell
) -> AsyncGenerator[tuple[int, bytes]]:
    """The same, asked of an agent."""
    timeout = httpx.Timeout(ANSWER_TIMEOUT_S, connect=5)
    params = {**question.fields(), "stream_format": "sse"}
    try:
        async with (
            httpx.AsyncClient(base_url=url.rstrip("/"), timeout=timeout, headers=headers) as client,
            client.stream("POST", PATH, params=params, content=question.recording) as response,
        ):
            if response.status_code == 404:
                raise NotReady(f"No agent runs at {url}: start it with `orpheus talk`.")
            if response.status_code != 200:
                await response.aread()
                raise EngineError(f"{url} answered {response.status_code}: {response.text[:300]}")
            sample_rate = int(response.headers.get("x-sample-rate", 24000))
            async for data in read_events(response.aiter_raw()):
                event = json.loads(data)
                match event["type"]:
                    case "transcript.done":
                        tell(stages.heard(event["text"], event["asr_ms"] / 1000))
                    case "speech.audio.delta":
                        yield sample_rate, base64.b64decode(event["audio"])
                    case "error":
                        raise EngineError(f"{url}: {event['error']['message']}")
                    case "speech.audio.done":
                        timings = event["timings"]
                        tell(stages.answered(event["answer"], timings["llm_ms"] / 1000))
                        tell(stages.spoke(timings["tts_ms"] / 1000, timings["first_audio_ms"] / 1000))
                        return
            raise EngineError(f"{url} broke off: its log says why.")
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise NotReady(
            f"Nothing answers at {url}: start an agent with `orpheus talk`, or leave --url and "
            "ORPHEUS_FASTAPI_URL out to converse without one."
        ) from error
    except httpx.HTTPError as error:
        raise EngineError(f"{url} broke off ({type(error).__name__}): its log says why.") from error
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise EngineError(f"{url} answered with something that is no speech: is it an agent?") from error
