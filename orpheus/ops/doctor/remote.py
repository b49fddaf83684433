"""The URL of a running pair → whether it answers, speaks as it goes, and whether WebSockets reach it.

Knows nothing of the machine it runs on: all is seen as a client sees it, through whatever stands in between.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import httpx
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from orpheus.http.cold_start import ASLEEP, SEE_OTHER, send_when_awake
from orpheus.ops.bench.listening import CHAPTER, SENTENCE, Heard, client, is_here, listen
from orpheus.ops.doctor.check import Finding, Waiting, failed, passed, warning

LIMIT_S = 30.0
COLD_S = 150.0  # for what sleeps elsewhere, as on Modal: two containers start, each with its weights
LATE = 0.8  # of the whole time until the first byte: what comes so late was held back
NGINX = (
    "let the proxy pass them (nginx: proxy_http_version 1.1, proxy_set_header Upgrade $http_upgrade, "
    'proxy_set_header Connection "upgrade")'
)


def server(url: str, headers: dict[str, str], cold_wait_s: float = 0) -> Iterator[Finding | Waiting]:
    """Something answers, perhaps after it has woken; it is an Orpheus; it is ready; the key fits.

    One that sleeps elsewhere is waited for, COLD_S. On this machine, or where connections are refused, nothing is
    waited for unless `cold_wait_s` says so.
    """
    began = time.monotonic()
    try:
        wait_s = cold_wait_s or (0 if is_here(url) else COLD_S)
        asleep = asyncio.run(_asleep(url, headers, patient=cold_wait_s > 0)) if wait_s else None
        if asleep:
            yield Waiting(f"{asleep} from {url}, perhaps asleep: waiting for it")
        ready = _ready(asyncio.run(_answer(url, headers, wait_s if asleep else 0)), url)
        if asleep and ready.status == "passed":
            ready = passed(f"{ready.said}; before that, {time.monotonic() - began:.0f} s of {asleep}")
        yield ready
        if ready.status == "failed":
            return
        yield _key(url, headers)
    except httpx.ConnectError as error:
        yield failed(f"nothing answers at {url} ({error}): is it running, and is the address right?")
    except httpx.TimeoutException:
        took_s = time.monotonic() - began
        yield failed(f"{url} does not answer within {took_s:.0f} s: is a firewall in between?")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        yield failed(
            f"{url} cannot be asked: {str(error).rstrip('.') or type(error).__name__}. Give http(s)://HOST:PORT."
        )


async def _asleep(url: str, headers: dict[str, str], *, patient: bool) -> str | None:
    """What comes instead of an answer, where that may be a service that has to start; None where one comes."""
    try:
        answer = await _answer(url, headers, 0)
    except httpx.ReadTimeout:
        return "silence"
    except httpx.ConnectError:
        if patient:
            return "refused connections"
        raise
    if answer.status_code not in (*ASLEEP, SEE_OTHER) or _object(answer).get("status") == "failed":
        return None
    return str(answer.status_code)


async def _answer(url: str, headers: dict[str, str], wait_s: float) -> httpx.Response:
    """To /health, waited for as tier 2 waits for a tier 1 that sleeps."""
    async with client(url, headers) as asking:
        asking.timeout = httpx.Timeout(max(wait_s, LIMIT_S / 2), connect=LIMIT_S / 2)
        async with aclosing(
            await send_when_awake(asking, asking.build_request("GET", "/health"), wait_s)
        ) as answer:
            await answer.aread()
        return answer


def _key(url: str, headers: dict[str, str]) -> Finding:
    with httpx.Client(
        base_url=url, headers=headers, timeout=LIMIT_S / 2, trust_env=not is_here(url)
    ) as asking:
        listed = asking.get("/v1/audio/voices")
    if listed.status_code == 401:
        return failed("it wants a key: give one of its ORPHEUS_API_KEYS with --key.")
    if listed.status_code == 200 and "voices" in _object(listed):
        return passed(f"{len(_object(listed)['voices'])} voices")
    return failed(f"/v1/audio/voices answers {listed.status_code}: does the proxy pass all paths?")


def _ready(response: httpx.Response, url: str) -> Finding:
    if response.is_redirect:
        return failed(f"{url} redirects to {response.headers.get('location')}: use that address.")
    body = _object(response)
    if "status" in body and "codec" in body:
        took_ms = response.elapsed.total_seconds() * 1000
        if response.status_code == 200:
            return passed(f"{url} is ready, and answered in {took_ms:.0f} ms")
        return failed(f"{url} is {body['status']}: {body.get('reason')}")
    if "streams" in body:
        return failed(f"{url} is tier 1: give the URL of tier 2, where speech comes from.")
    if response.status_code == 401:
        return failed(
            f"{url} answers 401 to /health, which needs none of our keys: what stands in between wants one. For Modal "
            "set ORPHEUS_PROXY_KEY and ORPHEUS_PROXY_SECRET."
        )
    if response.status_code in ASLEEP:
        return failed(
            f"{url} answers {response.status_code} to /health: nothing runs behind what answers there, or it is still "
            "starting. See its log; ORPHEUS_COLD_WAIT_S waits longer."
        )
    return failed(
        f"{url} answers {response.status_code} to /health, and is no Orpheus: check host, port and path."
    )


def speech(url: str, headers: dict[str, str]) -> Iterator[Finding]:
    """Speech over HTTP, and whether it comes as it is made."""
    short, long = asyncio.run(_spoken(url, headers))
    yield passed(
        f"first byte after {short.first_byte_s * 1000:.0f} ms, first sound {short.first_sound_s * 1000:.0f}"
    )
    times = long.audio_s / long.wall_s
    told = f"{long.audio_s:.1f} s of speech in {long.wall_s:.1f} s, {times:.1f} times real time"
    if long.first_byte_s > LATE * long.wall_s:
        yield failed(
            f"{told}, but the first byte only after {long.first_byte_s:.1f} s: something in between holds the answer "
            "back. Turn buffering off (nginx: proxy_buffering off)."
        )
    elif times < 1:
        yield failed(f"{told}: slower than it is heard. See `orpheus doctor` on that machine.")
    elif long.player.underruns:
        yield warning(
            f"{told}, with {long.player.underruns} breaks for a player in real time: the line or load."
        )
    else:
        yield passed(f"{told}, without a break")


async def _spoken(url: str, headers: dict[str, str]) -> tuple[Heard, Heard]:
    async with client(url, headers) as asking:
        return await listen(asking, SENTENCE, 1), await listen(asking, CHAPTER, 2)


def sockets(url: str, headers: dict[str, str]) -> Iterator[Finding]:
    """Both protocols, from the handshake to the close after the last sample."""
    for path, talk in (
        ("/v1/audio/speech/stream/ws?voice=tara", _plain),
        ("/v1/audio/speech/stream", _session),
    ):
        address = httpx.URL(url).join(path).copy_with(scheme="wss" if url.startswith("https") else "ws")
        yield _said(str(address), path.split("?")[0], headers, talk)


def _said(address: str, path: str, headers: dict[str, str], talk: Any) -> Finding:
    try:
        with connect(
            address,
            additional_headers=headers,
            open_timeout=LIMIT_S / 2,
            close_timeout=5,
            max_size=None,
            proxy=None if is_here(address) else True,
        ) as socket:
            size: int = talk(socket)
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
        told = error.rcvd.reason or error.rcvd.code if error.rcvd else "without a word"
        return failed(f"{path} was closed before the speech was complete: {told}.")
    except TimeoutError:
        return failed(f"{path}: nothing came for {LIMIT_S / 2:g} s: {NGINX}, and look for a firewall.")
    except OSError as error:
        return failed(f"{path} cannot be reached: {error}.")
    if size < 24000:
        return failed(f"{path} sent {size} bytes of audio for a sentence: see the server's log.")
    return passed(f"{path}: {size / 48000:.1f} s of speech, closed as it should be")


def _plain(socket: ClientConnection) -> int:
    """One text frame in; samples out until it is closed."""
    socket.send(SENTENCE)
    size = 0
    while True:
        try:
            message = socket.recv(timeout=LIMIT_S / 2)
        except ConnectionClosed as closed:
            if closed.rcvd and closed.rcvd.code == 1000:
                return size
            raise
        size += len(message) if isinstance(message, bytes) else 0


def _session(socket: ClientConnection) -> int:
    """One utterance of a session, until the server says it is done."""
    for asked in (
        {"type": "session.config", "voice": "tara", "response_format": "pcm", "stream_audio": True},
        {"type": "input.text", "text": SENTENCE},
        {"type": "input.done"},
    ):
        socket.send(json.dumps(asked))
    size = 0
    while True:
        message = socket.recv(timeout=LIMIT_S / 2)
        if isinstance(message, bytes):
            size += len(message)
            continue
        event = json.loads(message)
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
