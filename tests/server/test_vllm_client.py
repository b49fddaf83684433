"""The session protocol as vLLM-Omni's client speaks it: one session.config, texts, a file for each audio.start."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import websockets
from websockets.sync.client import ClientConnection, connect

from tests.support.audio import decode
from tests.support.upstream import SPEECH_FRAMES, Upstream, whole

Start = Callable[..., httpx.Client]
SEGMENT = SPEECH_FRAMES * 2048  # samples
FIRST, SECOND = "This is the first sentence of them.", "And this one is the second which is longer."


class VllmClient:
    """Saves each part as a file under its utterance and its sentence, until the utterance is done."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.errors: list[str] = []
        self.files: dict[tuple[int, int], bytes] = {}
        self.texts: dict[tuple[int, int], str] = {}

    def send(self, type: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": type, **fields}))

    def speak(self, *texts: str) -> int:
        """Send the texts as one utterance and save its files; how many sentences the server says it had."""
        for text in texts:
            self.send("input.text", text=text)
        self.send("input.done")
        return self.receive()

    def receive(self) -> int:
        chunks: list[bytes] = []
        while True:
            message = self.socket.recv(15)
            if isinstance(message, bytes):
                chunks.append(message)
                continue
            event = json.loads(message)
            match event["type"]:
                case "audio.start":
                    chunks = []
                    key = event["utterance_index"], event["sentence_index"]
                    self.texts[key] = event["sentence_text"]
                case "audio.done":
                    self.files[event["utterance_index"], event["sentence_index"]] = b"".join(chunks)
                    assert event["total_bytes"] == len(b"".join(chunks))
                case "session.done":
                    return int(event["total_sentences"])
                case "error":
                    self.errors.append(event["message"])

    def error(self) -> str:
        """The next message, which is an error."""
        event = json.loads(self.socket.recv(15))
        assert event["type"] == "error"
        return str(event["message"])


@contextmanager
def vllm_client(client: httpx.Client) -> Iterator[VllmClient]:
    url = str(client.base_url).replace("http", "ws", 1).rstrip("/")
    with connect(f"{url}/v1/audio/speech/stream", proxy=None, max_size=None) as socket:
        yield VllmClient(socket)


CONFIG = {  # what that client sends without options, its voice apart
    "task_type": "CustomVoice",
    "language": "Auto",
    "instructions": None,
    "response_format": "wav",
    "speed": 1.0,
}


@pytest.mark.parametrize("config", [CONFIG, {}, {"split_granularity": "sentence"}, {"stream_audio": False}])
@pytest.mark.parametrize("pieces", ["whole", "words", "characters"])
def test_each_sentence_is_a_file_of_its_own(speech: Start, config: dict[str, Any], pieces: str) -> None:
    text = f"{FIRST} {SECOND}"
    with vllm_client(speech()) as one:
        one.send("session.config", **config)
        words = [word + " " for word in text.split()]
        assert one.speak(*([text] if pieces == "whole" else words if pieces == "words" else text)) == 2
    assert list(one.texts.values()) == [FIRST, SECOND]
    assert list(one.files) == [(0, 0), (0, 1)]
    assert [len(decode(file)[0]) for file in one.files.values()] == [SEGMENT] * 2


def test_a_client_that_sends_no_config_gets_a_file_a_sentence_too(speech: Start) -> None:
    with vllm_client(speech()) as one:
        assert one.speak(f"{FIRST} {SECOND}") == 2
        assert one.speak(FIRST) == 1
    assert list(one.files) == [(0, 0), (0, 1), (1, 0)]


def test_the_clauses_of_a_sentence_share_its_file(speech: Start, upstream: Upstream) -> None:
    """However early the first of them is spoken, and however long the sentence is."""
    long = "Well, my dear friend, " + "this goes on and on for a very long time, " * 8 + "and then it ends."
    with vllm_client(speech()) as one:
        one.send("session.config", response_format="flac")
        assert one.speak(*(word + " " for word in long.split()), SECOND) == 2
    assert len(upstream.requests) > 3
    files = [len(decode(file)[0]) for file in one.files.values()]
    assert files == [SEGMENT * (len(upstream.requests) - 1), SEGMENT]
    assert one.texts[0, 1] == SECOND


def test_sentences_that_would_share_a_segment_are_files_of_their_own(speech: Start) -> None:
    sentences = [f"This is the sentence number {number}." for number in range(6)]
    with vllm_client(speech()) as one:
        assert one.speak(" ".join(sentences)) == 6
        assert one.speak(*(f"{sentence} " for sentence in sentences)) == 6
    assert list(one.texts.values()) == sentences * 2


def test_lines_of_a_list_are_files_of_their_own(speech: Start) -> None:
    with vllm_client(speech()) as one:
        assert (
            one.speak("- The first thing of all\n- The second thing of all\n\nAnd then there is a paragraph.")
            == 3
        )


def test_none_makes_one_file_of_all(speech: Start) -> None:
    with vllm_client(speech()) as one:
        one.send("session.config", split_granularity="none")
        assert one.speak(f"{FIRST} {SECOND}") == 1
    assert [len(decode(file)[0]) for file in one.files.values()] == [2 * SEGMENT]


def test_streamed_audio_is_one_stream_unless_it_is_split(speech: Start) -> None:
    stream = {"response_format": "pcm", "stream_audio": True, "lead_s": 0}
    with vllm_client(speech()) as one:
        one.send("session.config", **stream)
        assert one.speak(f"{FIRST} {SECOND}") == 1
        one.send("session.config", **stream, split_granularity="sentence")
        assert one.speak(f"Well, my dear friend, {FIRST.lower()} {SECOND}") == 2
        one.send("session.config", **stream, split_granularity="clause")
        assert (
            one.speak("Well, my dear friend, ", "that is how it is, and it is not how it was. ", SECOND) >= 2
        )
    assert sum(map(len, one.files.values())) % (2 * SEGMENT) == 0


@pytest.mark.parametrize(
    "config", [{"voice": "Vivian"}, {"response_format": "mp4"}, {"speed": 9}, {"voice": ["tara"]}], ids=str
)
def test_text_after_a_first_config_that_was_refused_is_passed_over(
    speech: Start, upstream: Upstream, config: dict[str, Any]
) -> None:
    with vllm_client(speech()) as one:
        one.send("session.config", **CONFIG | config)
        for word in FIRST.split():  # all of it before the error is read, as that client does
            one.send("input.text", text=word + " ")
        one.send("input.done")
        assert next(iter(config)) in one.error()
        assert upstream.requests == []
        one.send("session.config", **CONFIG)
        assert one.speak(SECOND) == 1
        assert one.errors == []
    assert list(one.texts.items()) == [((0, 0), SECOND)]
    assert len(upstream.requests) == 1


def test_text_is_passed_over_only_to_its_end(speech: Start, upstream: Upstream) -> None:
    for end in ("input.done", "input.cancel"):
        with vllm_client(speech()) as one:
            one.send("session.config", voice="Vivian")
            one.send("input.text", text=FIRST)
            one.send(end)
            assert one.speak(SECOND) == 1
        assert list(one.texts.values()) == [SECOND]


def test_a_config_that_mends_a_refused_one_is_in_time_for_its_text(speech: Start) -> None:
    with vllm_client(speech()) as one:
        one.send("session.config", voice="Vivian")
        assert "Vivian" in one.error()
        one.send("session.config", voice="leo")
        assert one.speak(FIRST) == 1
    assert list(one.texts.values()) == [FIRST]


def test_a_config_amid_text_that_is_passed_over_does_not_begin_it_in_its_middle(
    speech: Start, upstream: Upstream
) -> None:
    with vllm_client(speech()) as one:
        one.send("session.config", voice="Vivian")
        one.send("input.text", text="This is the beginning ")
        one.send("session.config", voice="leo")
        one.send("input.text", text="and this is the middle.")
        one.send("input.done")
        assert one.speak(SECOND) == 1
    assert list(one.texts.values()) == [SECOND]
    assert "leo: " in upstream.requests[0]["prompt"]


def test_after_an_accepted_config_a_refused_one_changes_nothing(speech: Start, upstream: Upstream) -> None:
    with vllm_client(speech()) as one:
        one.send("session.config", voice="leo")
        one.send("session.config", voice="Vivian")
        assert one.speak(FIRST) == 1
        assert len(one.errors) == 1
    assert "leo: " in upstream.requests[0]["prompt"]


def test_a_config_that_comes_too_early_leaves_no_text_to_the_settings_before_it(
    speech: Start, upstream: Upstream
) -> None:
    upstream.events, upstream.pause_s = whole(), 0.05
    with vllm_client(speech()) as one:
        one.send("input.text", text=FIRST)
        one.send("input.done")
        one.send("session.config", voice="leo")
        one.send("input.text", text=SECOND)
        one.send("input.done")
        assert one.receive() == 1
        assert "between utterances" in one.errors[0]
        one.send("session.close")
        with pytest.raises(websockets.ConnectionClosedOK):
            one.receive()
    assert list(one.texts.values()) == [FIRST]
