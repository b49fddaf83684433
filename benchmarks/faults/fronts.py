"""The seven ways in which a client can ask tier 2 to speak, and what it makes of the answer."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
import msgpack
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from orpheus.http.sse import iter_events

TEXT = "Hello there, this is a sentence."
WITHIN_S = 60.0  # twice what tier 2 waits for a silent tier 1


@dataclass
class Heard:
    """What a client of one front got."""

    complete: bool  # by the rules of its protocol this is all of the speech
    status: int | None = None  # of HTTP, or the close code
    message: str = ""  # why not
    audio: bytes = b""
    headers: dict[str, str] | None = None


def _posted(client: httpx.Client, text: str, path: str, **fields: Any) -> Heard:
    heard = Heard(False)
    body = {"input": text, "voice": "tara", "response_format": "pcm", **fields}
    try:
        with client.stream("POST", path, json=body, timeout=WITHIN_S) as response:
            heard.status, heard.headers = response.status_code, dict(response.headers)
            if response.status_code != 200:
                heard.message = json.loads(response.read())["error"]["message"]
                return heard
            if fields.get("stream_format") == "sse":
                _read_events(response, heard)
            else:
                for chunk in response.iter_raw():
                    heard.audio += chunk
                heard.complete = bool(heard.audio)
    except httpx.RemoteProtocolError as error:
        heard.complete, heard.message = False, heard.message or str(error)
    return heard


def _read_events(response: httpx.Response, heard: Heard) -> None:
    done = failed = False
    for data in iter_events(response.iter_raw()):
        event = json.loads(data)
        heard.audio += base64.b64decode(event.get("audio", ""))
        done = done or event["type"] == "speech.audio.done"
        if event["type"] == "error":
            failed, heard.message = True, event["error"]["message"]
    heard.complete = done and not failed


def _dialled(
    client: httpx.Client, path: str, talk: Callable[[ClientConnection, Heard], None], **options: Any
) -> Heard:
    heard = Heard(False)
    url = str(client.base_url.join(path)).replace("http", "ws", 1)
    try:
        with connect(url, proxy=None, max_size=None, **options) as socket:
            try:
                talk(socket, heard)
            except ConnectionClosed as closed:
                heard.status = closed.rcvd.code if closed.rcvd else None
                heard.message = heard.message or (closed.rcvd.reason if closed.rcvd else "no close")
    except InvalidStatus as refused:
        heard.status = refused.response.status_code
        heard.message = (refused.response.body or b"").decode()
    return heard


def _plain(client: httpx.Client, text: str = TEXT) -> Heard:
    def talk(socket: ClientConnection, heard: Heard) -> None:
        socket.send(text)
        while True:
            data = socket.recv(WITHIN_S)
            assert isinstance(data, bytes)
            heard.audio += data

    heard = _dialled(client, "/ws?voice=tara", talk)
    heard.complete = heard.status == 1000
    return heard


def _session(client: httpx.Client, text: str = TEXT) -> Heard:
    def talk(socket: ClientConnection, heard: Heard) -> None:
        config = {"type": "session.config", "voice": "tara", "response_format": "pcm", "stream_audio": True}
        for message in (config, {"type": "input.text", "text": text}, {"type": "input.done"}):
            socket.send(json.dumps(message))
        while True:
            data = socket.recv(WITHIN_S)
            if isinstance(data, bytes):
                heard.audio += data
                continue
            event = json.loads(data)
            if event["type"] == "error":
                heard.message = event["message"]
            if event["type"] == "session.done":
                heard.complete = not heard.message
                return

    return _dialled(client, "/v1/audio/speech/stream", talk)


def _unmute(client: httpx.Client, text: str = TEXT) -> Heard:
    def talk(socket: ClientConnection, heard: Heard) -> None:
        for word in text.split():
            socket.send(msgpack.packb({"type": "Text", "text": word}))
        socket.send(msgpack.packb({"type": "Eos"}))
        while True:
            data = socket.recv(WITHIN_S)
            assert isinstance(data, bytes)
            message = msgpack.unpackb(data)
            if message["type"] == "Audio":
                heard.audio += bytes(len(message["pcm"]) * 2)
            if message["type"] == "Error":
                heard.message = message["message"]

    heard = _dialled(client, "/api/tts_streaming?voice=tara&format=PcmMessagePack", talk)
    heard.complete = heard.status == 1000 and heard.message == ""
    return heard


class Front(Protocol):
    def __call__(self, client: httpx.Client, text: str = TEXT) -> Heard: ...


def _http(path: str, **fields: Any) -> Front:
    return lambda client, text=TEXT: _posted(client, text, path, **fields)


FRONTS: dict[str, Front] = {
    "audio": _http("/v1/audio/speech"),
    "events": _http("/v1/audio/speech", stream_format="sse"),
    "stream": _http("/v1/audio/speech/stream"),
    "whole file": _http("/v1/audio/speech", response_format="wav", stream=False),
    "plain socket": _plain,
    "session socket": _session,
    "unmute socket": _unmute,
}
HTTP_FRONTS = ("audio", "events", "stream", "whole file")
