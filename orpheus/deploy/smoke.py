"""The URL of a tier → whether it does what it is for, tried from here and timed.

Knows nothing of how it was deployed. Every failure is a SmokeFailed with the answer in it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
import wave
from array import array
from dataclasses import dataclass
from pathlib import Path

import httpx

from orpheus.deploy.errors import SmokeFailed
from orpheus.deploy.llama import one_frame
from orpheus.deploy.settings import container_environment, load_deployment
from orpheus.errors import OrpheusError
from orpheus.settings import Settings, load_settings

SENTENCE = "Hello, I am Orpheus, and I speak from far away."
WAIT_S = 600  # a first start has to build nothing, but to load everything
SILENCE = 300  # of 32767: a recording whose loudest sample is below has nothing on it
SHORTEST_S = 0.5
RATE = 24_000


@dataclass(frozen=True)
class Heard:
    first_s: float  # from the request to the first audio
    audio_s: float


def try_llama(url: str | None) -> None:
    """Wait until tier 1 is up, then ask for one frame. Prints both times."""
    # The model that is deployed, not the one this machine would choose: it has neither torch nor llama.cpp.
    model = container_environment(load_deployment())["ORPHEUS_MODEL"]
    settings = load_settings(model=model, llama_endpoint=url, cold_wait_s=WAIT_S)
    print(f"Asking {url} for one frame, twice; it may have to start first.", flush=True)
    for name in ("cold", "warm"):
        try:
            took_s = asyncio.run(one_frame(settings))
        except OrpheusError as error:
            raise SmokeFailed(f"Tier 1 makes no tokens: {error}") from error
        print(f"{name}: one frame after {took_s:.2f} s")


def try_speech(url: str | None, text: str = SENTENCE, out: str = "hello.wav") -> Heard:
    """Speak twice, the second time into a file, and print the time to first audio, cold and warm."""
    settings = load_settings()
    print(f"Asking {url} to speak, twice; it may have to start first.", flush=True)
    cold = _speak(settings, str(url), text)[0]
    heard, samples = _speak(settings, str(url), text)
    with wave.open(out, "wb") as file:
        file.setparams((1, 2, RATE, len(samples), "NONE", ""))
        file.writeframes(samples.tobytes())
    print(f"cold: first audio after {cold.first_s:.2f} s")
    print(
        f"warm: first audio after {heard.first_s:.2f} s; {heard.audio_s:.1f} s of it in {Path(out).resolve()}"
    )
    return heard


def _speak(settings: Settings, url: str, text: str) -> tuple[Heard, array[int]]:
    """As events: Modal promises to pass those on at once, and no other body."""
    body = {
        "input": text,
        "voice": "alloy",
        "response_format": "pcm",
        "sample_rate": RATE,
        "stream_format": "sse",
        "seed": 1,
    }
    started = time.perf_counter()
    first_s = 0.0
    sound = bytearray()
    try:
        with (
            # A start of more than 150 s is answered with redirects.
            httpx.Client(timeout=httpx.Timeout(WAIT_S, connect=20), follow_redirects=True) as client,
            client.stream(
                "POST", f"{url}/v1/audio/speech", json=body, headers=settings.client_headers
            ) as answer,
        ):
            if answer.status_code != 200:
                answer.read()
                raise SmokeFailed(_refusal(url, answer))
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    event = json.loads(line[5:])
                    if event["type"] == "error":
                        raise SmokeFailed(f"{url} failed in the middle: {event['error']['message']}")
                    sound += base64.b64decode(event.get("audio", ""))
                    first_s = first_s or time.perf_counter() - started
    except (httpx.HTTPError, ValueError) as error:
        raise SmokeFailed(f"{url} does not speak: {type(error).__name__}: {error}") from error
    samples = array("h", bytes(sound[: len(sound) // 2 * 2]))
    heard = Heard(first_s, len(samples) / RATE)
    if heard.audio_s < SHORTEST_S or max(map(abs, samples)) < SILENCE:
        raise SmokeFailed(f"{url} answered with {heard.audio_s:.2f} s of sound, or with silence.")
    return heard, samples


def _refusal(url: str, answer: httpx.Response) -> str:
    if answer.status_code == 401:
        return (
            f"{url} wants to know who asks (401): set ORPHEUS_PROXY_KEY and ORPHEUS_PROXY_SECRET to the proxy token, and "
            "ORPHEUS_API_KEYS where the Secret has keys."
        )
    return f"{url} answered {answer.status_code}: {answer.text[:300]}"
