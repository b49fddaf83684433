"""Who may begin a conversation, and how many: keys, ephemeral keys, capacity, and clients that leave or never read."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest
from openai.types.realtime import ClientSecretCreateResponse
from websockets import Subprotocol
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from orpheus.agent.agent import load_ports
from orpheus.errors import UpstreamError
from orpheus.http.loading import BackgroundLoad
from orpheus.server.client_secrets import ClientSecrets
from orpheus.tts.encode import wav_header
from tests.agent.conftest import Host
from tests.support.agent import OUT_RATE, RealtimeClient, Talk, silence
from tests.support.live import keep_little_unread
from tests.support.upstream import Upstream, whole
from tests.support.waiting import eventually

KEY = {"Authorization": "Bearer secret-key"}


@pytest.fixture(scope="module")
def locked(start_host: Callable[..., Host]) -> Iterator[Host]:
    with ExitStack() as stack:
        yield start_host(stack, api_keys="secret-key,other-key", max_conversations=2)


def opened(host: Host, *subprotocols: str, path: str = "/v1/realtime", **headers: str) -> ClientConnection:
    url = host.url.replace("http", "ws", 1) + path
    return connect(
        url,
        proxy=None,
        additional_headers=headers,
        subprotocols=[Subprotocol(name) for name in subprotocols] or None,
    )


def refused(host: Host, *subprotocols: str, path: str = "/v1/realtime", **headers: str) -> httpx.Headers:
    with pytest.raises(InvalidStatus) as caught:
        opened(host, *subprotocols, path=path, **headers)
    response = caught.value.response
    assert json.loads(response.body)["error"]["message"]
    return httpx.Headers({**dict(response.headers.raw_items()), "status": str(response.status_code)})


def mint(host: Host, body: object = None, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{host.url}/v1/realtime/client_secrets", json=body, headers=headers or KEY, trust_env=False
    )


def test_a_key_opens_in_the_header_or_in_the_browsers_subprotocol(locked: Host) -> None:
    with opened(locked, **KEY) as socket:
        assert json.loads(socket.recv(5))["type"] == "session.created"
    browser = ("realtime", "openai-insecure-api-key.secret-key")
    with opened(locked, *browser) as socket:
        assert socket.subprotocol == "realtime"
    assert refused(locked)["status"] == "401"
    assert refused(locked, "realtime", "openai-insecure-api-key.wrong")["status"] == "401"


def test_an_ephemeral_key_opens_a_conversation_and_nothing_else(locked: Host) -> None:
    answer = mint(locked, {"session": {"type": "realtime", "instructions": "Be a pirate."}})
    secret = ClientSecretCreateResponse.model_validate(answer.json())
    assert secret.value.startswith("ek_")
    assert 590 < secret.expires_at - time.time() < 610
    for headers, protocols in (
        ({"Authorization": f"Bearer {secret.value}"}, ()),
        ({}, ("realtime", f"openai-insecure-api-key.{secret.value}")),
    ):
        with opened(locked, *protocols, **headers) as socket:
            assert json.loads(socket.recv(5))["session"]["instructions"] == "Be a pirate."
    bearer = {"Authorization": f"Bearer {secret.value}"}
    assert mint(locked, **bearer).status_code == 401
    for path in ("/v1/audio/speech/stream", "/api/tts_streaming", "/ws"):
        assert refused(locked, path=path, **bearer)["status"] == "401"
    with opened(
        locked, "realtime", path="/ws?model=any", **bearer
    ) as socket:  # where a conversation is asked for
        assert json.loads(socket.recv(5))["type"] == "session.created"
    speech = httpx.post(
        f"{locked.url}/v1/audio/speech", json={"input": "Hi."}, headers=bearer, trust_env=False
    )
    assert speech.status_code == 401
    assert mint(locked, **{"x-api-key": "nobody"}).status_code == 401


def test_an_ephemeral_key_expires(locked: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = mint(locked, {"expires_after": {"anchor": "created_at", "seconds": 10}}).json()
    with monkeypatch.context() as later:
        now = time.time
        later.setattr("orpheus.server.client_secrets.time.time", lambda: now() + 11)
        assert refused(locked, Authorization=f"Bearer {secret['value']}")["status"] == "401"
    assert mint(locked, {"expires_after": {"seconds": 1}}).status_code == 400
    for output in ({"speed": 99}, {"voice": "nobody"}):
        assert mint(locked, {"session": {"audio": {"output": output}}}).status_code == 400


def test_one_conversation_too_many_is_told_when_to_come_again(locked: Host) -> None:
    with opened(locked, **KEY), opened(locked, **KEY):
        headers = refused(locked, **KEY)
        assert headers["status"] == "429"
        assert int(headers["retry-after"]) >= 1
    eventually(lambda: not locked.agent._since_s)
    with opened(locked, **KEY):
        pass


def test_a_browser_is_told_by_http_why_its_websocket_is_refused(locked: Host) -> None:
    def why(**headers: str) -> httpx.Response:
        return httpx.get(f"{locked.url}/v1/realtime?model=any", headers=headers, trust_env=False)

    assert why().status_code == 401
    assert why(**KEY).status_code == 400
    with opened(locked, **KEY), opened(locked, **KEY):
        answer = why(**KEY)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert "limit of 2 conversations" in answer.json()["error"]["message"]


def test_a_recording_takes_the_place_of_a_conversation_until_it_is_answered(
    start_host: Callable[..., Host], upstream: Upstream
) -> None:
    upstream.events = whole(40)
    with ExitStack() as stack:
        host = start_host(stack, max_conversations=1)
        spoken = host.script.speech.say("What is the capital of France?")
        recording = wav_header(OUT_RATE, len(spoken)) + spoken
        client = stack.enter_context(httpx.Client(base_url=host.url, trust_env=False, timeout=20))

        def ask(**params: str) -> contextlib.AbstractContextManager[httpx.Response]:
            body = {"content": recording, "headers": {"Content-Type": "audio/wav"}, "params": params}
            return client.stream("POST", "/v1/audio/speech-to-speech", **body)

        with opened(host), ask() as answer:
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) >= 1
        eventually(lambda: not host.agent._since_s)
        host.script.thinker.answers = [["It is Paris. ", 30.0, "Really."]]  # its second half is awaited
        for stream_format in ("audio", "sse"):
            with ask(response_format="pcm", stream_format=stream_format) as answer:
                assert answer.status_code == 200
                audio = answer.iter_raw()
                assert next(audio)
                assert refused(host)["status"] == "429"
            eventually(lambda: not host.agent._since_s)  # the client left in its middle
        host.script.thinker.answers = [["It is Paris."]]
        with ask(response_format="flac") as answer:
            answer.read()
        host.script.recognizer.fails = True
        with ask() as answer:
            assert answer.status_code == 502
        with opened(host):
            pass


def test_the_agent_is_ready_only_once_it_can_hear_and_think(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert httpx.get(f"{host.url}/ready", trust_env=False).status_code == 200
    monkeypatch.setattr(host.agent, "_warm", False)
    answer = httpx.get(f"{host.url}/ready", trust_env=False)
    assert answer.status_code == 503
    assert "warming up" in answer.json()["reason"]


def test_a_recording_is_answered_by_the_agents_own_parts_once_they_are_loaded(
    host: Host, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken = host.script.speech.say("What is the capital of France?")
    recording = wav_header(OUT_RATE, len(spoken)) + spoken

    def ask() -> httpx.Response:
        url = f"{host.url}/v1/audio/speech-to-speech"
        return httpx.post(url, content=recording, headers={"Content-Type": "audio/wav"}, trust_env=False)

    with monkeypatch.context() as loading:
        loading.setattr(
            host.agent, "_loading", BackgroundLoad(load_ports, lambda _: asyncio.sleep(0), "agent")
        )
        answer = ask()
        assert answer.status_code == 503
        assert answer.json()["error"]["message"] == "The agent is loading: try again shortly."
        assert "retry-after" in answer.headers
    answer = ask()
    assert answer.status_code == 200
    assert answer.headers["x-transcript"] == "What is the capital of France?"
    assert host.script.thinker.asked[-1][-1].content == "What is the capital of France?"


def test_an_ephemeral_key_opens_any_server_with_the_same_keys_and_no_other(locked: Host) -> None:
    """Of several containers, or after a restart, it is rarely the one that made the key."""
    session = {"type": "realtime", "instructions": "Sei ein Pirat. 해적처럼. " * 100}
    value = mint(locked, {"session": session}).json()["value"]
    found = ClientSecrets(["secret-key"]).find(value)
    assert found is not None
    assert (found.session, found.key) == (session, 0)
    found = ClientSecrets(["another", "secret-key"]).find(value)
    assert found is not None
    assert found.key == 1
    for keys in ([], ["another"]):
        assert ClientSecrets(keys).find(value) is None
    body, _, signature = value.partition(".")
    for changed in (
        value[:-1],
        value + "0",
        f"{body}x.{signature}",
        f"ek_.{signature}",
        body,
        "ek_",
        "ek_é.é",
    ):
        assert ClientSecrets(["secret-key"]).find(changed) is None
    mine = ClientSecrets()
    secret = mine.mint({})
    assert mine.find(secret.value) == secret
    assert ClientSecrets().find(secret.value) is None


def test_a_session_that_fits_no_header_is_not_for_an_ephemeral_key(locked: Host) -> None:
    instructions = secrets.token_urlsafe(8000)  # which nothing compresses
    answer = mint(locked, {"session": {"instructions": instructions}})
    assert answer.status_code == 400
    assert "session.update" in answer.json()["error"]["message"]
    long = {"instructions": " ".join(f"Rule {number}: be a pirate." for number in range(500))}
    bearer = {"Authorization": f"Bearer {mint(locked, {'session': long}).json()['value']}"}
    with opened(locked, **bearer) as socket:
        assert json.loads(socket.recv(5))["session"]["instructions"] == long["instructions"]


def test_an_ephemeral_key_stands_for_one_whether_or_not_keys_have_a_limit(
    start_host: Callable[..., Host],
) -> None:
    with ExitStack() as stack:
        host = start_host(stack, api_keys="secret-key", max_requests_per_key=1)
        bearer = {"Authorization": f"Bearer {mint(host).json()['value']}"}
        with opened(host, **bearer):
            assert refused(host, **bearer)["status"] == "429"
            assert refused(host, **KEY)["status"] == "429"


def test_after_a_dropped_socket_the_client_puts_back_what_was_said_and_goes_on(
    talk: Talk, host: Host
) -> None:
    """Servers that move containers drop sockets, and a session has an hour."""
    dropped = talk()
    dropped.say("My name is Ada.")
    dropped.answer()
    dropped.say("And who are you?")
    dropped.until("response.created")
    dropped.socket.socket.close()
    client = talk()
    turns = [
        ("user", "input_text", "My name is Ada."),
        ("assistant", "output_text", "Hello there, my friend."),
        ("user", "input_audio", "And who are you?"),
    ]
    for role, kind, said in turns:
        part = {"type": kind, "transcript" if kind == "input_audio" else "text": said}
        client.send("conversation.item.create", item={"type": "message", "role": role, "content": [part]})
        client.until("conversation.item.done")
    client.say("Say my name.")
    assert client.answer()["status"] == "completed"
    assert host.script.thinker.last == [
        *((role, said) for role, _, said in turns),
        ("user", "Say my name."),
    ]


def test_a_client_that_leaves_in_mid_answer_leaves_nothing_behind(
    talk: Talk, host: Host, upstream: Upstream
) -> None:
    upstream.events, upstream.hang_after = whole(40), 10
    client = talk()
    client.say("Tell me a story.")
    client.until("response.content_part.added")
    client.hear(client.script.speech.say("No wait, stop.", 640))
    client.socket.close()
    eventually(lambda: host.service.admission.active == 0 and not host.script.thinker.running)
    eventually(lambda: upstream.left == 1)
    assert host.service.codec_report()["open_streams"] == 0


def test_a_client_that_never_reads_is_dropped(
    start_host: Callable[..., Host], upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_little_unread(monkeypatch)
    monkeypatch.setattr("orpheus.server.sockets.connection.STALL_S", 0.5)
    monkeypatch.setattr("orpheus.http.connections.STALL_S", 0.5)
    upstream.events = whole(60)
    with ExitStack() as stack:
        host = start_host(stack)
        host.script.thinker.answers = [["A sentence that is spoken. "] * 20]
        url = host.url.replace("http", "ws", 1) + "/v1/realtime"
        socket = stack.enter_context(connect(url, proxy=None, max_queue=1, close_timeout=0.1))
        RealtimeClient(socket, host.script).hear(host.script.speech.say("Go on.") + silence(700))
        eventually(lambda: host.agent.metrics.conversations._value.get() == 0, within_s=25)
        eventually(lambda: host.service.admission.active == 0)


def test_a_voice_that_there_is_not_leaves_the_text_even_if_nothing_can_be_thought(
    start_host: Callable[..., Host],
) -> None:
    with ExitStack() as stack:
        host = start_host(stack, api_keys="secret-key")
        session = {"audio": {"output": {"voice": "nobody"}}}  # minted while it was not known which there are
        secret = host.service.secrets.mint(session, 60, 0)
        client = RealtimeClient(
            stack.enter_context(opened(host, Authorization=f"Bearer {secret.value}")), host.script
        )
        host.script.thinker.answers = [[UpstreamError("The model is away.")], ["Hello."]]
        for text in ("Sorry, I cannot think of an answer right now.", "Hello."):
            client.say("Who are you?")
            response = client.answer()
            assert response["status"] == "failed"
            assert response["output"][0]["content"][0]["transcript"] == text
