"""The Realtime protocol as it was in its beta: its names and its flat session, held against OpenAI's models of them."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Annotated, Any

import httpx
import numpy as np
import pytest
from openai import AsyncOpenAI
from openai.types.beta.realtime import RealtimeServerEvent
from openai.types.beta.realtime.session_create_response import SessionCreateResponse
from pydantic import Field, TypeAdapter
from websockets import Subprotocol
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from orpheus.agent.audio import AudioFormat, OutputStream
from orpheus.agent.think import ToolCallDelta
from tests.agent.conftest import Host
from tests.support.agent import RealtimeClient, silence, types, without_deltas
from tests.support.upstream import SPEECH_FRAMES, Upstream, whole
from tests.support.waiting import eventually

STRICT: TypeAdapter[Any] = TypeAdapter(Annotated[RealtimeServerEvent, Field(discriminator="type")])
HEADER = {"OpenAI-Beta": "realtime=v1"}
BROWSER = ("realtime", "openai-insecure-api-key.none", "openai-beta.realtime-v1")
MODEL = "gpt-4o-realtime-preview-2024-10-01"
TURN = [
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "input_audio_buffer.committed",
    "conversation.item.created",
    "conversation.item.input_audio_transcription.completed",
    "response.created",
    "response.output_item.added",
    "conversation.item.created",
    "response.content_part.added",
    "response.audio.done",
    "response.audio_transcript.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.done",
]
FRAME_S = 2048 / 24_000  # of the voice


class BetaClient(RealtimeClient):
    def next(self, timeout_s: float = 15) -> dict[str, Any]:
        raw = self.socket.recv(timeout_s)
        event: dict[str, Any] = json.loads(raw)
        STRICT.validate_python(event)
        self.events.append(event)
        return event

    def update(self, **session: Any) -> dict[str, Any]:
        self.send("session.update", session=session)
        updated: dict[str, Any] = self.until("session.updated")[-1]["session"]
        return updated


Open = Callable[..., BetaClient]


@pytest.fixture
def opened(host: Host) -> Iterator[Open]:
    with ExitStack() as stack:

        def begin(
            *subprotocols: str, path: str = f"/v1/realtime?model={MODEL}", **headers: str
        ) -> BetaClient:
            socket: ClientConnection = stack.enter_context(
                connect(
                    host.url.replace("http", "ws", 1) + path,
                    proxy=None,
                    additional_headers=headers,
                    subprotocols=[Subprotocol(name) for name in subprotocols] or None,
                )
            )
            return BetaClient(socket, host.script)

        yield begin


@pytest.fixture
def client(opened: Open) -> BetaClient:
    client = opened(**HEADER)
    client.until("session.created")
    return client


@pytest.mark.parametrize(
    ("subprotocols", "headers", "path"),
    [
        (BROWSER, {}, "/v1/realtime"),
        (BROWSER, {}, "/realtime"),
        (BROWSER, {}, "/ws"),
        (("openai-beta.realtime-v1",), {}, "/v1/realtime"),
        ((), HEADER, "/v1/realtime"),
        ((), HEADER, "/ws"),
        (("realtime",), HEADER, "/v1/realtime"),
        ((), {"openai-beta": "assistants=v2, Realtime=V1"}, "/v1/realtime"),
    ],
)
def test_the_beta_is_asked_for_by_subprotocol_or_header(
    opened: Open, subprotocols: tuple[str, ...], headers: dict[str, str], path: str
) -> None:
    client = opened(*subprotocols, path=f"{path}?model={MODEL}", **headers)
    session = client.until("session.created")[-1]["session"]
    assert session["model"] == MODEL
    assert session["modalities"] == ["audio", "text"]
    assert session["input_audio_format"] == session["output_audio_format"] == "pcm16"
    assert session["turn_detection"]["type"] == "server_vad"
    assert not {"type", "audio", "output_modalities", "max_output_tokens"} & session.keys()
    assert client.socket.subprotocol == (subprotocols[0] if subprotocols else None)  # or browsers would leave


def test_a_conversation_at_the_shared_path_is_counted_there(opened: Open, host: Host) -> None:
    client = opened(path=f"/ws?model={MODEL}", **HEADER)
    client.until("session.created")
    before = host.metric('orpheus_speech_requests_total{format="",route="/ws"')
    client.socket.close()
    eventually(lambda: host.metric('orpheus_speech_requests_total{format="",route="/ws"') == before + 1)


@pytest.mark.parametrize("header", ["realtime=v2", "assistants=v2", "", "realtime"])
def test_another_beta_of_openais_is_none_of_it(opened: Open, header: str) -> None:
    client = opened(**{"OpenAI-Beta": header})
    session = json.loads(client.socket.recv(10))["session"]
    assert session["type"] == "realtime"
    assert "modalities" not in session


def test_a_client_that_did_not_ask_is_known_by_its_flat_session(opened: Open) -> None:
    client = opened()
    client.socket.recv(10)
    assert client.update(modalities=["text"], voice="alloy")["modalities"] == ["text"]
    client.send("session.update", session={"turn_detection": None})
    assert client.until("session.updated")[-1]["session"]["turn_detection"] is None


def test_a_client_of_today_is_not_taken_for_one(opened: Open) -> None:
    client = opened()
    for session in (
        {"type": "realtime", "instructions": "Be kind."},
        {"instructions": "Be kind.", "output_modalities": ["text"]},
        {"type": "realtime", "voice": "x"},
        {},
    ):
        client.socket.send(json.dumps({"type": "session.update", "session": session}))
    told = [json.loads(client.socket.recv(10)) for _ in range(5)]
    assert [event["session"]["type"] for event in told] == ["realtime"] * 5


def test_a_spoken_turn_has_the_betas_events_in_the_order_that_its_client_takes(
    client: BetaClient, host: Host
) -> None:
    client.say("What is the time?")
    events = client.until("response.done")
    assert without_deltas(events) == TURN
    kinds = {type for type in types(events) if type.endswith(".delta")}
    assert kinds == {"response.audio.delta", "response.audio_transcript.delta"}
    created = [event["item"] for event in events if event["type"] == "conversation.item.created"]
    assert [part["type"] for part in created[0]["content"]] == ["input_audio"]
    assert created[1]["content"] == []
    response = events[-1]["response"]
    assert response["output"][0]["content"] == [{"type": "audio", "transcript": "Hello there, my friend."}]
    assert response["modalities"] == ["audio", "text"]
    assert (response["voice"], response["output_audio_format"]) == ("tara", "pcm16")
    assert not {"audio", "output_modalities"} & response.keys()
    assert host.script.thinker.last == [("user", "What is the time?")]


def test_a_flat_session_is_told_as_it_was_set_and_does_what_it_says(client: BetaClient, host: Host) -> None:
    sent = {
        "modalities": ["text"],
        "instructions": "You are a pirate.",
        "voice": "leo",
        "input_audio_format": "g711_ulaw",
        "output_audio_format": "g711_alaw",
        "input_audio_transcription": {"model": "whisper-1", "language": "de"},
        "turn_detection": {"type": "semantic_vad", "eagerness": "high"},
        "tools": [{"type": "function", "name": "look", "description": "Look.", "parameters": {}}],
        "tool_choice": "required",
        "temperature": 0.65,
        "max_response_output_tokens": 99,
        "speed": 1.25,
    }
    told = client.update(**sent)
    for name, value in sent.items():
        if isinstance(value, dict):
            assert value.items() <= told[name].items()
        else:
            assert told[name] == value
    assert client.update(turn_detection=None, input_audio_transcription=None)["turn_detection"] is None
    assert client.update(instructions="And brief.")["voice"] == "leo"
    client.send(
        "conversation.item.create",
        item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Well?"}]},
    )
    client.send("response.create")
    events = client.until("response.done")
    assert "response.text.delta" in types(events)
    assert "response.text.done" in types(events)
    assert events[-1]["response"]["output"][0]["content"][0]["type"] == "text"
    options = host.script.thinker.options[-1]
    assert (options["max_tokens"], options["tool_choice"]) == (99, "required")
    assert options["tools"][0]["function"]["name"] == "look"
    assert host.script.thinker.asked[-1][0].content == "And brief."


def test_telephone_audio_goes_both_ways(client: BetaClient, host: Host) -> None:
    client.update(input_audio_format="g711_ulaw", output_audio_format="g711_ulaw")
    pcm = host.script.speech.say("How are you?") + silence(700)
    encoder = OutputStream(AudioFormat("pcmu", 8000), 24_000)
    sound = encoder.add(np.frombuffer(pcm, "<i2").astype(np.float32) / 32767)
    for start in range(0, len(sound), 800):
        client.send("input_audio_buffer.append", audio=base64.b64encode(sound[start : start + 800]).decode())
    events = client.until("response.done")
    heard = [e["transcript"] for e in events if e["type"].endswith("transcription.completed")]
    assert heard == ["How are you?"]
    audio = b"".join(base64.b64decode(e["delta"]) for e in events if e["type"] == "response.audio.delta")
    assert len(audio) == pytest.approx(8000 * SPEECH_FRAMES * FRAME_S, rel=0.1)


def test_a_response_may_differ_from_the_session(client: BetaClient, host: Host) -> None:
    client.send(
        "response.create",
        response={
            "modalities": ["text"],
            "instructions": "In one word.",
            "max_response_output_tokens": 7,
            "output_audio_format": "pcm16",
            "voice": "zoe",
            "temperature": 0.7,
            "conversation": "none",
            "metadata": {"mine": "yes"},
            "input": [
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi?"}]}
            ],
        },
    )
    response = client.until("response.done")[-1]["response"]
    assert response["modalities"] == ["text"]
    assert response["voice"] == "zoe"
    assert response["metadata"] == {"mine": "yes"}
    assert host.script.thinker.options[-1]["max_tokens"] == 7
    assert host.script.thinker.last == [("user", "Hi?")]


def test_speech_interrupts_the_answer_and_truncation_corrects_what_was_heard(
    client: BetaClient, host: Host, upstream: Upstream
) -> None:
    upstream.events = whole(120)  # 10 s, of which only 3 are sent at once
    host.script.thinker.answers = [["One two three four five six seven. ", "Eight nine ten."], ["All right."]]
    client.say("Tell me a story.")
    client.until("response.audio.delta")
    time.sleep(0.4)
    client.hear(client.script.speech.say("No wait, stop that.") + silence(700))
    client.until("input_audio_buffer.speech_started")
    upstream.events = whole(4)
    response = client.until("response.done")[-1]["response"]
    assert response["status"] == "cancelled"
    assert response["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    item = response["output"][0]
    client.send("conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=0)
    client.until("conversation.item.truncated")
    assert client.until("response.done")[-1]["response"]["status"] == "completed"
    client.send("response.cancel")
    assert client.until("error")[-1]["error"]["code"] == "response_cancel_not_active"


def test_a_function_that_is_called_after_a_preamble_is_answered_though_that_is_still_spoken(
    client: BetaClient, host: Host, upstream: Upstream
) -> None:
    upstream.events = whole(60)  # 5 s, of which only 3 are sent at once
    host.script.thinker.answers = [
        ["Let me look for you now. ", ToolCallDelta(0, "call_1", "look", "{}")],
        ["It is sunny."],
    ]
    client.say("How is the weather?")
    call: dict[str, Any] = {}
    while call.get("type") != "function_call":  # what the beta's client acts on
        call = client.until("response.output_item.done")[-1]["item"]
    output = {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}
    client.send("conversation.item.create", item=output)
    client.send("response.create")
    before = len(client.events)
    client.until("response.done")
    upstream.events = whole(4)
    response = client.until("response.done")[-1]["response"]
    assert response["output"][0]["content"][0]["transcript"] == "It is sunny."
    assert "error" not in types(client.events[before:])


@pytest.mark.parametrize(
    ("session", "param"),
    [
        ({"input_audio_format": "mp3"}, "session.input_audio_format"),
        ({"output_audio_format": 5}, "session.output_audio_format"),
        ({"voice": 5}, "session.voice"),
        ({"modalities": "audio"}, "session.modalities"),
        ({"modalities": ["smell"]}, "session.modalities.0"),
        ({"turn_detection": {"type": "server_vad", "threshold": 7}}, "session.turn_detection.threshold"),
        ({"turn_detection": {"type": "telepathy"}}, "session.turn_detection"),
        ({"turn_detection": 3}, "session.turn_detection"),
        ({"input_audio_transcription": "whisper-1"}, "session.input_audio_transcription"),
        ({"max_response_output_tokens": -1}, "session.max_response_output_tokens"),
        ({"temperature": "hot"}, "session.temperature"),
        ({"tools": [{"name": "x"}]}, "session.tools.0.type"),
        ({"audio": 5, "voice": "leo"}, None),
    ],
)
def test_what_is_wrong_with_a_session_is_told_by_the_betas_name_of_it(
    client: BetaClient, session: dict[str, Any], param: str | None
) -> None:
    client.send("session.update", session=session, event_id="mine")
    event = client.next()
    if param is None:
        assert event["type"] == "session.updated"
        return
    error = event["error"]
    assert error["event_id"] == "mine"
    assert error["param"] == param
    assert "audio." not in error["message"]
    client.say("Are you still there?")
    client.until("response.done")


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        "{",
        "[]",
        "5",
        b"\x00\x01",
        '{"type": 5}',
        '{"type": "session.update"}',
        '{"type": "session.update", "session": []}',
        '{"type": "session.update", "session": {"voice": null, "modalities": null, "audio": []}}',
        '{"type": "response.create", "response": "now"}',
        '{"type": "response.create", "response": {"modalities": {}, "audio": []}}',
        '{"type": "conversation.item.create", "item": {"type": "message", "content": [{"type": "smell"}]}}',
        '{"type": "input_audio_buffer.append", "audio": "§"}',
        '{"type": "conversation.item.truncate", "item_id": "no", "content_index": 0, "audio_end_ms": null}',
        "[" * 50_000,
    ],
)
def test_garbage_is_an_error_and_the_conversation_goes_on(client: BetaClient, garbage: str | bytes) -> None:
    client.socket.send(garbage)
    assert client.next()["type"] in ("error", "session.updated")
    client.say("Are you still there?")
    client.until("response.done")


def test_a_message_beyond_all_bounds_closes_the_socket_and_leaves_nothing(
    client: BetaClient, host: Host
) -> None:
    with pytest.raises(ConnectionClosed) as closed:
        client.send("session.update", session={"instructions": "x" * 40_000_000})
        while True:
            client.next()
    assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
    eventually(lambda: host.agent.metrics.conversations._value.get() == 0)


def test_a_socket_that_drops_in_the_middle_of_an_answer_leaves_nothing(
    client: BetaClient, host: Host, upstream: Upstream
) -> None:
    upstream.events = whole(60)
    client.say("Tell me a story.")
    client.until("response.audio.delta")
    client.socket.socket.close()
    eventually(lambda: host.agent.metrics.conversations._value.get() == 0)
    client.idle()


def test_a_beta_browser_gets_its_key_of_sessions(host: Host, opened: Open) -> None:
    answer = httpx.post(
        f"{host.url}/v1/realtime/sessions",
        json={"model": MODEL, "voice": "leo", "modalities": ["text"], "input_audio_format": "g711_ulaw"},
        trust_env=False,
    )
    assert answer.status_code == 200
    made = SessionCreateResponse.model_validate(answer.json())
    assert made.client_secret.expires_at > time.time()
    key = f"openai-insecure-api-key.{made.client_secret.value}"
    client = opened("realtime", key, "openai-beta.realtime-v1", path="/v1/realtime")
    session = client.until("session.created")[-1]["session"]
    assert (session["model"], session["voice"], session["modalities"]) == (MODEL, "leo", ["text"])
    assert session["input_audio_format"] == "g711_ulaw"
    for wrong in ({"input_audio_format": "mp3"}, {"voice": 5}, {"voice": "nobody"}, []):
        answer = httpx.post(f"{host.url}/v1/realtime/sessions", json=wrong, trust_env=False)
        assert answer.status_code in (400, 422)
        assert answer.json()["error"]["message"]


@pytest.mark.anyio
async def test_openais_sdk_holds_a_conversation_by_its_beta_names(host: Host) -> None:
    url = host.url.replace("http", "ws", 1)
    client = AsyncOpenAI(api_key="none", base_url=f"{host.url}/v1", websocket_base_url=f"{url}/v1")
    transcript, audio = "", b""
    async with client.beta.realtime.connect(model=MODEL) as connection:
        await connection.session.update(session={"modalities": ["audio", "text"], "voice": "alloy"})
        sound = host.script.speech.say("How are you?") + silence(700)
        for start in range(0, len(sound), 4800):
            encoded = base64.b64encode(sound[start : start + 4800]).decode()
            await connection.input_audio_buffer.append(audio=encoded)
        async for event in connection:
            assert event.type != "error"
            if event.type == "response.audio_transcript.delta":
                transcript += event.delta
            if event.type == "response.audio.delta":
                audio += base64.b64decode(event.delta)
            if event.type == "response.done":
                assert event.response.status == "completed"
                break
    await client.close()
    assert transcript == "Hello there, my friend."
    assert len(audio) > 10_000
