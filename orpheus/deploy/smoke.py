"""Send requests to a deployed app from this machine, cold and warm, and print how long each took.

Every failure is a SmokeFailed that quotes the answer.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import threading
import time
import wave
from array import array
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from orpheus.agent import stages
from orpheus.deploy.errors import SmokeFailed
from orpheus.deploy.llama import one_frame
from orpheus.deploy.settings import container_environment, load_deployment
from orpheus.errors import OrpheusError
from orpheus.http.cold_start import MAX_REDIRECTS, same_origin
from orpheus.http.sse import iter_events
from orpheus.settings import load_settings

SENTENCE = "Hello, I am Orpheus, and I speak from far away."
QUESTION = "What is the capital of France?"
WAIT_S = 600  # a cold start loads everything
POLL_S = 0.25
SILENCE = 300  # of 32767: a recording whose loudest sample is below this is silent
SHORTEST_S = 0.5
RATE = 24_000
MOST_EVENT_BYTES = 1 << 24
PIECE_S = 0.1  # of a recording, in one message, as a microphone sends it
QUIET_S = 1.5  # after it: what ends a turn
TURN_S = 180.0  # for all of one; the LLM may have to start


def try_llama(url: str | None) -> None:
    """Wait until tier 1 is up, then ask for one frame, twice."""
    # The deployed model, not the one this machine would choose: it may have neither torch nor llama.cpp.
    model = container_environment(load_deployment())["ORPHEUS_MODEL"]
    settings = load_settings(model=model, llama_endpoint=url, cold_wait_s=WAIT_S)
    print(f"Asking {url} for one frame, twice; it may have to start first.", flush=True)
    print(f"start: {_start(f'{url}/health')}", flush=True)
    for name in ("cold", "warm"):
        try:
            took_s = asyncio.run(one_frame(settings))
        except OrpheusError as error:
            raise SmokeFailed(f"Tier 1 makes no tokens: {error}") from error
        print(f"{name}: one frame after {took_s:.2f} s")


def try_speech(url: str | None, text: str = SENTENCE, out: str = "hello.wav") -> None:
    """Speak twice, the second time into a WAV file, and print the time to the first audio."""
    print(f"Asking {url} to speak, twice; it may have to start first.", flush=True)
    print(f"start: {_start(f'{url}/ready')}", flush=True)
    cold_s, _ = _speak(f"{url}/v1/audio/speech", text)
    warm_s, samples = _speak(f"{url}/v1/audio/speech", text)
    with wave.open(out, "wb") as file:
        file.setparams((1, 2, RATE, len(samples), "NONE", ""))
        file.writeframes(samples.tobytes())
    print(f"cold: first audio after {cold_s:.2f} s")
    print(
        f"warm: first audio after {warm_s:.2f} s; {len(samples) / RATE:.1f} s of audio in {Path(out).resolve()}"
    )


def try_agent(url: str) -> None:
    """Hold one turn, with a question in the agent's own voice, and print its stages."""
    print(f"Asking {url} a question, aloud; it may have to start first.", flush=True)
    print(f"start: {_start(f'{url}/ready')}", flush=True)
    _, question = _speak(f"{url}/v1/audio/speech", QUESTION)
    recording = question.tobytes() + bytes(2 * int(RATE * QUIET_S))
    options: dict[str, Any] = {"additional_headers": load_settings().client_headers, "open_timeout": WAIT_S}
    socket_url = url.replace("http", "ws", 1) + "/v1/realtime"
    try:
        with connect(socket_url, max_size=MOST_EVENT_BYTES, **options) as socket:
            # Beside the reading, as a microphone does.
            sending = threading.Thread(target=_send, args=[socket, recording], daemon=True)
            sending.start()
            lines, audio = _turn(socket, url)
    except (OSError, WebSocketException, TimeoutError, ValueError, KeyError) as error:
        raise SmokeFailed(f"{url} holds no conversation: {type(error).__name__}: {error}") from error
    _check_loud(audio, url)
    print("\n".join(lines))


def _send(socket: ClientConnection, recording: bytes) -> None:
    """At the pace of speech."""
    step = 2 * int(RATE * PIECE_S)
    with contextlib.suppress(WebSocketException):  # the reading side tells
        for start in range(0, len(recording), step):
            piece = base64.b64encode(recording[start : start + step]).decode()
            socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": piece}))
            time.sleep(PIECE_S)


def _turn(socket: ClientConnection, url: str) -> tuple[list[str], array[int]]:
    """Its stages, a line each, and the samples of the answer."""
    deadline_s = time.monotonic() + TURN_S
    transcript, audio = "", bytearray()
    while True:
        event = json.loads(socket.recv(max(0.0, deadline_s - time.monotonic())))
        match event["type"]:
            case "conversation.item.input_audio_transcription.completed":
                transcript = event["transcript"]
            case "response.output_audio.delta":
                audio += base64.b64decode(event["delta"])
            case "error":
                raise SmokeFailed(f"{url} failed in the middle: {event['error']['message']}")
            case "response.done":
                response = event["response"]
                if response["status"] == "cancelled":  # the question went on after a pause
                    audio.clear()
                    continue
                if response["status"] != "completed":
                    raise SmokeFailed(f"{url} did not answer: {response['status_details']}")
                said = " ".join(
                    part.get("transcript") or "" for item in response["output"] for part in item["content"]
                )
                return stages.turn(transcript, said.strip(), response["orpheus"]), array(
                    "h", bytes(audio[: len(audio) // 2 * 2])
                )


def _start(url: str) -> str:
    """How long the stages of a start take, seen from outside: until the server itself answers, and until it is ready.

    Waits for both. A server that does not start is reported by the requests that follow.
    """
    headers = load_settings().client_headers
    began_s = time.perf_counter()
    answers_s = 0.0
    with httpx.Client(timeout=httpx.Timeout(WAIT_S, connect=20), headers=headers) as client:
        while (now_s := time.perf_counter() - began_s) < WAIT_S:
            try:
                with closing(_answer(client, client.build_request("GET", url))) as answer:
                    answer.read()
                    told = answer.json() if answer.status_code in (200, 503) else None
            except httpx.ConnectError:
                return "nothing answers there"  # Modal's proxy takes connections before there is a container
            except (httpx.HTTPError, ValueError):
                told = {}  # nothing yet, or a proxy's own page
            if not isinstance(told, dict):
                return "it does not tell"
            now_s = time.perf_counter() - began_s
            if "status" in told and not answers_s:
                answers_s = now_s
            if told and answer.status_code == 200:
                loaded = f", {told['load_s']:.1f} s of it to load the model" if "load_s" in told else ""
                return f"answers after {answers_s or now_s:.1f} s, ready after {now_s:.1f} s{loaded}"
            time.sleep(POLL_S)
    return f"not ready after {WAIT_S} s"


def _speak(url: str, text: str) -> tuple[float, array[int]]:
    """Seconds until the first audio, and all of its samples."""
    # As events: Modal promises to stream those, and no other body.
    body = {
        "input": text,
        "voice": "alloy",
        "response_format": "pcm",
        "sample_rate": RATE,
        "stream_format": "sse",
        "seed": 1,
    }
    headers = load_settings().client_headers
    started = time.perf_counter()
    first_s = 0.0
    audio = bytearray()
    try:
        with (
            httpx.Client(timeout=httpx.Timeout(WAIT_S, connect=20)) as client,
            closing(_answer(client, client.build_request("POST", url, json=body, headers=headers))) as answer,
        ):
            if answer.status_code == 401:
                raise SmokeFailed(
                    f"{url} wants credentials (401): set ORPHEUS_PROXY_KEY and ORPHEUS_PROXY_SECRET to the proxy "
                    "token, and ORPHEUS_API_KEY if the Secret has API keys."
                )
            if answer.status_code != 200:
                raise SmokeFailed(f"{url} answered {answer.status_code}: {answer.read().decode()[:300]}")
            for data in iter_events(answer.iter_bytes(), MOST_EVENT_BYTES):
                event = json.loads(data)
                if event["type"] == "error":
                    raise SmokeFailed(f"{url} failed in the middle: {event['error']['message']}")
                audio += base64.b64decode(event.get("audio", ""))
                first_s = first_s or time.perf_counter() - started
    except (httpx.HTTPError, ValueError) as error:
        raise SmokeFailed(f"{url} does not speak: {type(error).__name__}: {error}") from error
    samples = array("h", bytes(audio[: len(audio) // 2 * 2]))
    _check_loud(samples, url)
    return first_s, samples


def _check_loud(samples: array[int], url: str) -> None:
    if len(samples) < SHORTEST_S * RATE or max(map(abs, samples)) < SILENCE:
        raise SmokeFailed(f"{url} answered with {len(samples) / RATE:.2f} s of audio, or with silence.")


def _answer(client: httpx.Client, request: httpx.Request) -> httpx.Response:
    """The answer, unread. A start of more than 150 s is answered with redirects; our keys go to no other server."""
    for _ in range(MAX_REDIRECTS):
        answer = client.send(request, stream=True)
        other = answer.next_request
        if other is None or not same_origin(other.url, request.url):
            return answer
        answer.close()
        request = other
    raise httpx.TooManyRedirects(f"more than {MAX_REDIRECTS} redirects", request=request)
