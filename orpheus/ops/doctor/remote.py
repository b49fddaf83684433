"""Checks of a running pair: it answers at its URL, streams speech as it generates it, and accepts WebSockets.

Everything is checked as a client sees it, through any proxies in between.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from typing import Any

import httpx
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import connect

from orpheus.errors import NotReady
from orpheus.http.cold_start import ASLEEP, SEE_OTHER, send_when_awake
from orpheus.ops.bench.listening import CHAPTER, RATE, SENTENCE, PlaybackReport, client, is_here, listen
from orpheus.ops.doctor.check import Finding, Waiting, failed, passed, warning

LIMIT_S = 30.0
COLD_S = 150.0  # for what sleeps elsewhere, as on Modal: two containers start, each with its weights
LATE = 0.8  # of the whole time until the first byte: what comes so late was held back
LEAST_AUDIO_S = 0.5  # of a sentence
NGINX = (
    "let the proxy pass them (nginx: proxy_http_version 1.1, proxy_set_header Upgrade $http_upgrade, "
    'proxy_set_header Connection "upgrade", proxy_set_header Host $http_host)'
)
PLAIN, SESSION = "/v1/audio/speech/stream/ws", "/v1/audio/speech/stream"
SESSION_MESSAGES = (
    {"type": "session.config", "voice": "tara", "response_format": "pcm", "stream_audio": True},
    {"type": "input.text", "text": SENTENCE},
    {"type": "input.done"},
)


def wait_until_ready(
    url: str, headers: dict[str, str], cold_wait_s: float, progress: Callable[[str], None]
) -> None:
    """Return once `server` finds nothing wrong; NotReady with what it finds."""
    for found in server(url, headers, cold_wait_s):
        if isinstance(found, Waiting):
            progress(found.for_what)
        elif found.status == "failed":
            raise NotReady(f"{url} cannot be measured: {found.text}")


def server(url: str, headers: dict[str, str], cold_wait_s: float = 0) -> Iterator[Finding | Waiting]:
    """Something answers, perhaps after it has woken; it is an Orpheus; it is ready; the key fits.

    What is asleep elsewhere is waited for, COLD_S. On this machine, and where connections are refused, only
    `cold_wait_s` makes it wait.
    """
    started_s = time.monotonic()
    try:
        wait_s = cold_wait_s or (0 if is_here(url) else COLD_S)
        asleep = asyncio.run(_asleep(url, headers, patient=cold_wait_s > 0)) if wait_s else None
        if asleep:
            yield Waiting(f"{asleep} from {url}, perhaps asleep: waiting for it")
        ready = _ready(asyncio.run(_health(url, headers, wait_s if asleep else 0)), url)
        if asleep and ready.status == "passed":
            ready = passed(f"{ready.text}; before that, {time.monotonic() - started_s:.0f} s of {asleep}")
        yield ready
        if ready.status == "passed":
            yield _key(url, headers)
    except httpx.ConnectError as error:
        yield failed(f"nothing answers at {url} ({error}): is it running, and is the address right?")
    except httpx.TimeoutException:
        took_s = time.monotonic() - started_s
        yield failed(f"{url} does not answer within {took_s:.0f} s: is a firewall in between?")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = str(error).rstrip(".") or type(error).__name__
        yield failed(f"{url} cannot be asked: {reason}. Give http(s)://HOST:PORT.")


async def _asleep(url: str, headers: dict[str, str], *, patient: bool) -> str | None:
    """What a service that has to start first answers with; None if it answers properly."""
    try:
        answer = await _health(url, headers, 0)
    except httpx.ReadTimeout:
        return "silence"
    except httpx.ConnectError:
        if patient:
            return "refused connections"
        raise
    if answer.status_code not in (*ASLEEP, SEE_OTHER) or _object(answer).get("status") == "failed":
        return None
    return str(answer.status_code)


async def _health(url: str, headers: dict[str, str], wait_s: float) -> httpx.Response:
    """The answer to /health, waited for as tier 2 waits for a tier 1 that is asleep."""
    async with client(url, headers) as asking:
        asking.timeout = httpx.Timeout(max(wait_s, LIMIT_S / 2), connect=LIMIT_S / 2)
        request = asking.build_request("GET", "/health")
        async with aclosing(await send_when_awake(asking, request, wait_s)) as answer:
            await answer.aread()
        return answer


def _ready(response: httpx.Response, url: str) -> Finding:
    if response.is_redirect:
        return failed(f"{url} redirects to {response.headers.get('location')}: use that address.")
    body, status = _object(response), response.status_code
    if "status" in body and "codec" in body:
        if status == 200:
            took_ms = response.elapsed.total_seconds() * 1000
            return passed(f"{url} is ready, and answered in {took_ms:.0f} ms")
        return failed(f"{url} is {body['status']}: {body.get('reason')}")
    if "streams" in body:
        return failed(f"{url} is tier 1: give the URL of tier 2, where speech comes from.")
    if status == 401:
        return failed(
            f"{url} answers 401 to /health, which needs no key of ours: what stands in between wants one. For Modal set "
            "ORPHEUS_PROXY_KEY and ORPHEUS_PROXY_SECRET."
        )
    if status in ASLEEP:
        return failed(
            f"{url} answers {status} to /health: nothing runs behind what answers there, or it is still starting. See "
            "its log; ORPHEUS_COLD_WAIT_S waits longer."
        )
    return failed(f"{url} answers {status} to /health, and is no Orpheus: check host, port and path.")


def _key(url: str, headers: dict[str, str]) -> Finding:
    timeout_s, trust_env = LIMIT_S / 2, not is_here(url)
    answer = httpx.get(f"{url}/v1/audio/voices", headers=headers, timeout=timeout_s, trust_env=trust_env)
    if answer.status_code == 401:
        return failed("it wants a key: give one of its ORPHEUS_API_KEYS with --key.")
    if answer.status_code == 200 and "voices" in _object(answer):
        return passed(f"{len(_object(answer)['voices'])} voices")
    return failed(f"/v1/audio/voices answers {answer.status_code}: does the proxy pass all paths?")


def speech(url: str, headers: dict[str, str]) -> Iterator[Finding]:
    """Speech over HTTP, and whether it comes as it is generated."""
    short, long = asyncio.run(_spoken(url, headers))
    yield passed(
        f"first byte after {short.first_byte_s * 1000:.0f} ms, first sound {short.first_sound_s * 1000:.0f}"
    )
    times = long.audio_s / long.wall_s
    summary = f"{long.audio_s:.1f} s of speech in {long.wall_s:.1f} s, {times:.1f} times real time"
    if long.first_byte_s > LATE * long.wall_s:
        yield failed(
            f"{summary}, but the first byte only after {long.first_byte_s:.1f} s: something in between holds the answer "
            "back. Turn buffering off (nginx: proxy_buffering off)."
        )
    elif times < 1:
        yield failed(f"{summary}: slower than it is heard. See `orpheus doctor` on that machine.")
    elif long.playout.underruns:
        yield warning(
            f"{summary}, with {long.playout.underruns} underruns of a player in real time: the network is slow, or the "
            "server busy."
        )
    else:
        yield passed(f"{summary}, without an underrun")


async def _spoken(url: str, headers: dict[str, str]) -> tuple[PlaybackReport, PlaybackReport]:
    async with client(url, headers) as asking:
        return await listen(asking, SENTENCE, 1), await listen(asking, CHAPTER, 2)


def sockets(url: str, headers: dict[str, str]) -> Iterator[Finding]:
    """Both protocols, from the handshake to the close after the last sample."""
    for path, query, messages in (
        (PLAIN, "?voice=tara", (SENTENCE,)),
        (SESSION, "", tuple(map(json.dumps, SESSION_MESSAGES))),
    ):
        address = httpx.URL(url).join(path + query)
        address = address.copy_with(scheme="wss" if url.startswith("https") else "ws")
        yield _socket(str(address), path, headers, messages)


def _socket(address: str, path: str, headers: dict[str, str], messages: tuple[str, ...]) -> Finding:
    try:
        audio_s = _bytes_of_audio(address, headers, messages) / 2 / RATE
    except InvalidStatus as error:
        status = error.response.status_code
        if status in (401, 403):
            return failed(
                f"{path} answers {status}: give one of the server's ORPHEUS_API_KEYS with --key; or where the key fits, "
                f"{NGINX}."
            )
        return failed(f"{path} answers {status} instead of a WebSocket: {NGINX}.")
    except InvalidHandshake as error:
        return failed(f"{path} is answered by no WebSocket ({error}): {NGINX}.")
    except ConnectionClosed as error:
        reason = error.rcvd.reason or error.rcvd.code if error.rcvd else "no reason given"
        return failed(
            f"{path} was closed before the speech was complete ({reason}): the server's log says why."
        )
    except TimeoutError:
        return failed(f"{path}: nothing came for {LIMIT_S / 2:g} s: {NGINX}, and look for a firewall.")
    except OSError as error:
        return failed(f"{path} cannot be used: {error}.")
    if audio_s < LEAST_AUDIO_S:
        return failed(f"{path} sent {audio_s:.2f} s of audio for a sentence: see the server's log.")
    return passed(f"{path}: {audio_s:.1f} s of speech, closed as it should be")


def _bytes_of_audio(address: str, headers: dict[str, str], messages: tuple[str, ...]) -> int:
    """Bytes of audio until the server closes in good order, or says that the session is done."""
    proxy = None if is_here(address) else True
    options: Any = {"open_timeout": LIMIT_S / 2, "close_timeout": 5, "max_size": None, "proxy": proxy}
    size = 0
    with connect(address, additional_headers=headers, **options) as socket:
        for message in messages:
            socket.send(message)
        while True:
            try:
                received = socket.recv(timeout=LIMIT_S / 2)
            except ConnectionClosed as closed:
                if closed.rcvd and closed.rcvd.code == 1000 and len(messages) == 1:
                    return size
                raise
            if isinstance(received, bytes):
                size += len(received)
                continue
            event = json.loads(received)
            if event.get("type") == "session.done":
                return size
            if event.get("type") == "error":
                raise OSError(event.get("message"))


def _object(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
