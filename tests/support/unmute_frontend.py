"""unmute's web page, as far as a server can tell, by the rules of its source (kyutai-labs/unmute, frontend/src/app).

It offers the subprotocol "realtime"; its recorder (opus-recorder: Ogg-Opus, 24 kHz, two frames of 20 ms a page) may start
before the socket is open, and what it recorded by then is sent first; then comes `session.update`. It parses every frame
as JSON, plays all audio in the order of its arrival through one decoder, which starts at the first page and cannot be
emptied, puts a space before each word, and shows every error that is no warning. What it would log as an unknown message is
a failure here, and so is a field that unmute's own events require.
"""

from __future__ import annotations

import base64
import io
import json
import time
from fractions import Fraction
from typing import Any

import av
import numpy as np
from websockets import Subprotocol
from websockets.sync.client import ClientConnection, connect

from tests.support.agent import OUT_RATE, Script, silence
from tests.support.audio import decode
from tests.support.sounds import Sound
from tests.support.waiting import come_within

# What the page knows → the fields that unmute's models of its events have, besides `type` and `event_id`.
KNOWN: dict[str, dict[str, type | tuple[type, ...]]] = {
    "session.updated": {"session": dict},
    "response.created": {"response": dict},
    "response.text.delta": {"delta": str},
    "response.text.done": {"text": str},
    "response.audio.delta": {"delta": str},
    "response.audio.done": {},
    "conversation.item.input_audio_transcription.delta": {"delta": str, "start_time": (int, float)},
    "input_audio_buffer.speech_started": {},
    "input_audio_buffer.speech_stopped": {},
    "unmute.interrupted_by_vad": {},
    "unmute.response.text.delta.ready": {"delta": str},
    "unmute.response.audio.delta.ready": {"number_of_samples": int},
    "unmute.additional_outputs": {"args": dict},
    "error": {"error": dict},
}


def recorded(pcm: bytes, container: str = "ogg") -> list[bytes]:
    """16-bit samples at 24 kHz as a recorder hands them on: pages of Ogg, or about 100 ms of WebM."""
    file = io.BytesIO()
    options = {"ogg": {"page_duration": "40000"}, "webm": {"cluster_time_limit": "100", "live": "1"}}[
        container
    ]
    with av.open(file, "w", format=container, options=options) as muxer:
        stream: Any = muxer.add_stream("libopus", rate=OUT_RATE, layout="mono")
        samples = np.frombuffer(pcm, "<i2").reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = OUT_RATE, 0, Fraction(1, OUT_RATE)
        for converted in av.AudioResampler(format="flt", layout="mono", rate=OUT_RATE).resample(frame):
            muxer.mux(stream.encode(converted))
        muxer.mux(stream.encode(None))
    data = file.getvalue()
    if container == "ogg":
        return [b"OggS" + page for page in data.split(b"OggS")[1:]]
    cluster = b"\x1f\x43\xb6\x75"
    head, *clusters = data.split(cluster)
    return [head, *(cluster + body for body in clusters)]


def dialled(url: str, path: str = "/v1/realtime") -> connect:
    """A socket as the page opens it."""
    return connect(url.replace("http", "ws", 1) + path, proxy=None, subprotocols=[Subprotocol("realtime")])


class Page:
    """One open page, connected."""

    def __init__(self, socket: ClientConnection, script: Script, left_over: bytes = b"") -> None:
        """`left_over`: 16-bit samples that the recorder had before, without the pages they began with."""
        self.socket = socket
        assert socket.subprotocol == "realtime"
        self.script = script
        self.events: list[dict[str, Any]] = []
        self.shown_errors: list[str] = []
        self.chat: list[tuple[str, str]] = []  # role and text, as the page puts them together
        self.played = b""  # what went to the decoder
        self._arrivals: list[
            tuple[float, int]
        ] = []  # of audio: when, and how many samples were decoded by then
        for page in recorded(left_over)[4:] if left_over else []:
            self.send_audio(page)

    def send(self, type: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": type, **fields}))

    def send_audio(self, data: bytes) -> None:
        self.send("input_audio_buffer.append", audio=base64.b64encode(data).decode())

    def begin(self, instructions: Any = None, voice: str = "tara") -> dict[str, Any]:
        """The page says who the user talks to, as soon as its socket is open."""
        session = {
            "instructions": instructions or {"type": "smalltalk", "language": "en/fr"},
            "voice": voice,
            "allow_recording": False,
        }
        self.send("session.update", session=session)
        updated = self.until("session.updated")[-1]["session"]
        assert updated == session
        return session

    def answer(self) -> list[dict[str, Any]]:
        """The events up to the end of an answer, once it was heard."""
        events = self.until("response.audio.done")
        time.sleep(self.unheard_ms / 1000)
        return events

    def hear(self, pcm: bytes, container: str = "ogg") -> None:
        """A new recording of this; the next is a stream of its own again, as after a reconnect."""
        for piece in recorded(pcm, container):
            self.send_audio(piece)

    def say(self, text: str, ms: int = 960, after_ms: int = 700, container: str = "ogg") -> None:
        self.hear(self.script.speech.say(text, ms) + silence(after_ms), container)

    def next(self, timeout_s: float = 15) -> dict[str, Any]:
        raw = self.socket.recv(timeout_s)
        assert isinstance(raw, str), "the page parses every frame as JSON"
        assert len(raw) < 1_000_000
        event: dict[str, Any] = json.loads(raw)
        self._take(event)
        self.events.append(event)
        return event

    def _take(self, event: dict[str, Any]) -> None:
        type = event["type"]
        assert type in KNOWN, f"the page does not know {type}"
        assert isinstance(event["event_id"], str)
        for name, kind in KNOWN[type].items():
            assert isinstance(event[name], kind), event
        match type:
            case "response.audio.delta":
                pages = base64.b64decode(event["delta"], validate=True)
                assert self.played or pages[28:36] == b"OpusHead", "the decoder starts at the first page"
                self.played += pages
                self._arrivals.append((time.monotonic(), 20 * (self.played.count(b"OggS") - 2)))
            case "response.text.delta":
                assert event["delta"] == event["delta"].strip() != ""
                self._say("assistant", " " + event["delta"])
            case "conversation.item.input_audio_transcription.delta":
                self._say("user", event["delta"])
            case "error":
                assert isinstance(event["error"]["message"], str)
                if event["error"]["type"] != "warning":
                    self.shown_errors.append(event["error"]["message"])
            case "unmute.additional_outputs":
                assert isinstance(event["args"]["debug_dict"], dict)
            case "response.created":
                assert event["response"]["object"] == "realtime.response"
                assert event["response"]["status"] == "in_progress"
                assert isinstance(event["response"]["voice"], str)
                assert isinstance(event["response"]["chat_history"], list)

    def _say(self, role: str, text: str) -> None:
        if self.chat and self.chat[-1][0] == role:
            text = self.chat.pop()[1] + text
        self.chat.append((role, text))

    def until(self, type: str, timeout_s: float = 15) -> list[dict[str, Any]]:
        """The events up to the next of this type."""
        events: list[dict[str, Any]] = []
        ends_s = time.monotonic() + timeout_s
        while not events or events[-1]["type"] != type:
            assert time.monotonic() < ends_s, f"no {type} after {[event['type'] for event in events][-20:]}"
            events.append(self.next(timeout_s))
        return events

    def quiet(self, seconds: float) -> list[dict[str, Any]]:
        """What comes within that time."""
        return come_within(seconds, self.next)

    @property
    def sound(self) -> Sound:
        """What was played, at 48 kHz."""
        samples, _ = decode(self.played)
        return samples

    @property
    def unheard_ms(self) -> float:
        """Milliseconds of audio that the page has and has not played yet, if it plays as it gets."""
        ends_s, had_ms = 0.0, 0
        for at_s, total_ms in self._arrivals:
            ends_s = max(ends_s, at_s) + (total_ms - had_ms) / 1000
            had_ms = total_ms
        return max(0.0, ends_s - time.monotonic()) * 1000

    def close(self) -> None:
        self.socket.close()
