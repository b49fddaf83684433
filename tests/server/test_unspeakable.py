"""Text in letters that the voice cannot speak: refused if it is all of the text; left out, counted and told if not."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable
from typing import Any

import httpx
import msgpack
import openai
import pytest
import websockets
from websockets.sync.client import ClientConnection, connect

from tests.support.speech import PATH, ask, error_of
from tests.support.upstream import Upstream
from tests.support.waiting import eventually

Start = Callable[..., httpx.Client]
CODE = "unspeakable_language"
MIXED = "Hello there.\n\n你好，世界。\n\nGood bye now."
FOREIGN = {
    "你好，世界。": "lex-au/Orpheus-3b-Chinese-FT-Q8_0.gguf",
    "안녕하세요, 여러분.": "lex-au/Orpheus-3b-Korean-FT-Q8_0.gguf",
    "नमस्ते दुनिया।": "lex-au/Orpheus-3b-Hindi-FT-Q8_0.gguf",
    "こんにちは世界。": "Japanese",
    "Привет, как дела?": "Cyrillic",
    "Γειά σου Κόσμε.": "Greek",
    "مرحبا، كيف حالك؟": "Arabic",
    "שלום עולם": "Hebrew",
    "สวัสดีชาวโลก": "Thai",
    "&#20320;&#22909;": "Chinese",
    "# 你好\n\n- **世界** 🙂 (2023年)": "Chinese",
}


def dial(client: httpx.Client, path: str) -> ClientConnection:
    return connect(str(client.base_url).replace("http", "ws", 1).rstrip("/") + path, proxy=None)


@pytest.mark.parametrize(("text", "named"), FOREIGN.items())
def test_rest_refuses_a_text_that_is_all_of_it_and_names_what_to_set(
    speech: Start, upstream: Upstream, text: str, named: str
) -> None:
    response = speech().post(PATH, json=ask(input=text))
    error = error_of(response)
    assert (response.status_code, error["code"], error["param"]) == (400, CODE, "input")
    assert named in error["message"]
    assert "the English voice" in error["message"]
    assert "ORPHEUS_MODEL" in error["message"]
    assert upstream.requests == []


def test_the_sdk_does_not_try_it_again(speech: Start) -> None:
    client = speech()
    tries: list[httpx.Request] = []
    http = httpx.Client(trust_env=False, event_hooks={"request": [tries.append]})
    sdk = openai.OpenAI(base_url=f"{str(client.base_url).rstrip('/')}/v1", api_key="none", http_client=http)
    with http, pytest.raises(openai.BadRequestError, match="Chinese"):
        sdk.audio.speech.create(model="tts-1", voice="alloy", input="你好，世界。")
    assert len(tries) == 1


def test_a_paragraph_between_two_others_is_left_out_counted_and_told(
    speech: Start, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="orpheus")
    client = speech(max_requests=8)
    response = client.post(PATH, json=ask(input=MIXED))
    assert response.status_code == 200
    assert response.headers["x-left-out-chars"] == "4"
    assert not any("你" in request["prompt"] for request in upstream.requests)
    assert "Good bye now." in upstream.requests[-1]["prompt"]
    assert "orpheus_speech_left_out_chars_total 4.0" in client.get("/metrics").text

    def logged() -> list[Any]:
        lines = [vars(record).get("fields", {}) for record in list(caplog.records)]
        return [line["left_out_chars"] for line in lines if line.get("left_out_chars")]

    eventually(lambda: logged() == [4])


@pytest.mark.parametrize("seed", [None, 3])
def test_the_usage_of_events_tells_it_from_the_cache_too(speech: Start, seed: int | None) -> None:
    client = speech(keep=True, cache="memory:")
    body = ask(input=MIXED, stream_format="sse", seed=seed)
    for _ in range(2):
        content = client.post(PATH, json=body).text
        done = json.loads(content.strip().split("\n\n")[-1].removeprefix("data: "))
        assert done["usage"]["left_out_chars"] == 4
        assert base64.b64decode(json.loads(content.split("\n\n")[0].removeprefix("data: "))["audio"])


def test_nothing_is_told_where_nothing_was_left_out(speech: Start) -> None:
    response = speech().post(PATH, json=ask(input="Łukasz knows that π is 3."))
    assert response.status_code == 200
    assert "x-left-out-chars" not in response.headers


def test_a_session_reports_the_error_and_stays_open(speech: Start, upstream: Upstream) -> None:
    with dial(speech(), "/v1/audio/speech/stream") as socket:
        config = {"response_format": "pcm", "stream_audio": True, "lead_s": 0}
        socket.send(json.dumps({"type": "session.config"} | config))

        def say(text: str) -> list[dict[str, Any]]:
            for character in text:
                socket.send(json.dumps({"type": "input.text", "text": character}))
            socket.send('{"type": "input.done"}')
            events: list[dict[str, Any]] = []
            while not events or events[-1]["type"] != "session.done":
                if isinstance(message := socket.recv(10), str):
                    events.append(json.loads(message))
            return events

        error, done = say("Привет, как дела? Хорошо.")
        assert (error["type"], error["code"]) == ("error", CODE)
        assert "the English voice" in error["message"]
        assert done["total_sentences"] == 0
        assert done["left_out_chars"] == 19
        events = say(MIXED)
        assert [event["type"] for event in events] == ["audio.start", "audio.done", "session.done"]
        assert events[-1]["left_out_chars"] == 4
    assert not any("你" in request["prompt"] for request in upstream.requests)


def test_the_plain_socket_closes_with_1008_and_the_whole_reason(speech: Start) -> None:
    with dial(speech(), "/ws") as socket, pytest.raises(websockets.ConnectionClosed) as closed:
        socket.send("你好，世界。")
        socket.recv(10)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008
    assert closed.value.rcvd.reason.endswith("set ORPHEUS_MODEL to lex-au/Orpheus-3b-Chinese-FT-Q8_0.gguf.")


def test_unmute_gets_an_error_message(speech: Start, upstream: Upstream) -> None:
    with dial(speech(), "/api/tts_streaming") as socket:
        socket.send(msgpack.packb({"type": "Text", "text": "你好，世界。"}))
        socket.send(msgpack.packb({"type": "Eos"}))
        messages = [msgpack.unpackb(data) for data in socket]  # type: ignore[arg-type]
        assert socket.close_code == 1000
    (error,) = [message for message in messages if message["type"] == "Error"]
    assert "the English voice" in error["message"]
    assert upstream.requests == []


def test_the_voice_decides_what_can_be_spoken(speech: Start, upstream: Upstream) -> None:
    client = speech(keep=True, model="lex-au/Orpheus-3b-Korean-FT-Q8_0.gguf")
    assert client.post(PATH, json=ask(input="안녕하세요.", voice="yuna")).status_code == 200
    error = error_of(client.post(PATH, json=ask(input="你好，世界。", voice="yuna")))
    assert error["code"] == CODE
    assert "the Korean voice" in error["message"]
