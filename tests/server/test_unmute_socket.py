"""`/api/tts_streaming` against a model of unmute's orchestrator: each of the ten rules that it depends on."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import httpx
import msgpack
import numpy as np
import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from tests.support.unmute import Orchestrator, at_pace
from tests.support.upstream import SPEECH_FRAMES, Upstream, whole
from tests.support.waiting import until

pytestmark = pytest.mark.anyio
Start = Callable[..., httpx.Client]
WORDS = [
    "Well,",
    "my",
    "dear",
    "friend,",
    "it",
    "is",
    "a",
    "*good*",
    "day",
    "to",
    "be",
    "at",
    "<laugh>",
    "sea.",
    "The",
    "$5",
    "boat",
    "is",
    "ours!",
]


def url_of(client: httpx.Client) -> str:
    return str(client.base_url).rstrip("/")


def dial(client: httpx.Client, query: str = "", **more: Any) -> connect:
    url = f"{url_of(client)}/api/tts_streaming{query}".replace("http", "ws", 1)
    return connect(url, proxy=None, **more)


async def received(socket: ClientConnection) -> list[dict[str, Any]]:
    """All messages until the close; fails on one that is not binary or of an unknown type."""
    messages = []
    with contextlib.suppress(websockets.ConnectionClosedError):  # the caller looks at the code
        async for data in socket:
            assert isinstance(data, bytes)
            messages.append(msgpack.unpackb(data))
            assert messages[-1]["type"] in ("Ready", "Audio", "Text", "Error")
    return messages


def text(word: str) -> bytes:
    return bytes(msgpack.packb({"type": "Text", "text": word}))


EOS = msgpack.packb({"type": "Eos"})


async def released(upstream: Upstream, count: int) -> None:
    await until(lambda: upstream.left >= count, within_s=15)
    assert upstream.left == count


async def test_a_turn_is_complete_with_its_words_in_order(speech: Start, upstream: Upstream) -> None:
    client = speech()
    turn = await Orchestrator(url_of(client)).turn(at_pace(WORDS, 50))
    assert turn.words == WORDS  # rule 6: as they were sent, not as they are spoken
    assert turn.close_code == 1000  # rule 5
    assert turn.dropped_s == 0
    assert len(turn.pcm) % 1920 == 0
    segments = len(upstream.requests)
    exact = segments * SPEECH_FRAMES * 2048
    assert exact <= len(turn.pcm) < exact + 1920
    starts = [m["start_s"] for _, m in turn.received if m["type"] == "Text"]
    assert all(before < after for before, after in pairwise(starts))  # rule 7
    same = client.post("/v1/audio/speech/stream", json={"input": "Hello.", "voice": "tara"})
    whole_segment = np.frombuffer(same.content, "<i2") / np.float32(32768)
    assert np.array_equal(np.float32(turn.pcm[: len(whole_segment)]), whole_segment)


async def test_audio_messages_hold_1920_floats(speech: Start) -> None:
    async with dial(speech(), "?format=PcmMessagePack&cfg_alpha=1.5&seed=3&unknown=x") as socket:
        await socket.send(text("Hello."))
        await socket.send(EOS)
        messages = await received(socket)
    assert messages[0] == {"type": "Ready"}
    frames = [message["pcm"] for message in messages if message["type"] == "Audio"]
    assert {len(frame) for frame in frames} == {1920}
    assert all(isinstance(sample, float) and abs(sample) <= 1 for sample in frames[0])


async def test_ready_does_not_wait_for_other_turns(speech: Start, upstream: Upstream) -> None:
    upstream.hang_after = 0
    client = speech()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(12):
            busy = await stack.enter_async_context(dial(client))
            await busy.send(text("Hello there, my friend. "))
        await until(lambda: len(upstream.requests) == 12, within_s=15)
        async with dial(client) as socket:
            assert msgpack.unpackb(await socket.recv()) == {"type": "Ready"}  # rule 1


@pytest.mark.slow
async def test_ticks_keep_audio_playing_while_no_words_arrive(speech: Start, upstream: Upstream) -> None:
    upstream.events = ["".join(whole(36))]  # 3 s, generated at once

    async def paused() -> AsyncIterator[str]:
        for word in ["This", "is", "the", "first", "sentence", "of", "all."]:
            yield word
        await asyncio.sleep(3)
        for word in ["And", "this", "is", "the", "last."]:
            yield word

    turn = await Orchestrator(url_of(speech())).turn(paused())
    ticks = [message for _, message in turn.received if message["type"] == "Ready"]
    assert len(ticks) > 5  # rule 8
    assert turn.player.underrun_s < 1.5, "without ticks it plays only a little of the first 3 s in the pause"
    assert turn.words[-1] == "last."


async def test_full_is_an_error_before_ready(speech: Start, upstream: Upstream) -> None:
    upstream.events, upstream.pause_s = whole(500), 0.02
    client = speech(max_requests=1)
    async with dial(client) as first:
        await first.send(text("Hello there, my friend. "))
        await first.recv()
        while msgpack.unpackb(await first.recv())["type"] != "Audio":
            pass
        async with dial(client) as second:
            assert await received(second) == [{"type": "Error", "message": "no free channels"}]  # rule 2
            assert second.close_code == 1013
        info = (await asyncio.to_thread(client.get, "/api/modules_info")).json()
        assert info == [{"type": "Py", "path": "/api/tts_streaming", "used_slots": 1, "total_slots": 1}]


async def test_a_connection_does_not_count_before_its_first_text(speech: Start) -> None:
    client = speech(max_requests=1)
    async with dial(client) as idle:
        assert msgpack.unpackb(await idle.recv())["type"] == "Ready"
        async with dial(client) as socket:
            await socket.send(text("Hello."))
            await socket.send(EOS)
            assert any(message["type"] == "Audio" for message in await received(socket))


@pytest.mark.parametrize("after", [0, 20])
async def test_a_failure_leaves_the_socket_open_until_eos(
    speech: Start, upstream: Upstream, after: int
) -> None:
    upstream.events, upstream.break_after, upstream.pause_s = whole(30), after, 0.01
    turn = await Orchestrator(url_of(speech())).turn(at_pace(WORDS * 2, 20))
    assert turn.close_code == 1000  # rule 4: else sending a word would have raised
    assert turn.dropped_s == 0
    assert any(message["type"] == "Error" for _, message in turn.received)


@pytest.mark.parametrize("junk", [b"", b"\xc1", b"\x93\x01", msgpack.packb({"type": "Shout"}), b"\x00\x00"])
async def test_an_invalid_message_is_an_error_and_does_not_close(speech: Start, junk: bytes) -> None:
    async with dial(speech()) as socket:
        await socket.send(junk)
        await socket.send(EOS)
        messages = await received(socket)
        assert [message["type"] for message in messages] == ["Ready", "Error"]
        assert socket.close_code == 1000


async def test_eos_without_a_word_closes_at_once(speech: Start, upstream: Upstream) -> None:
    for eos in (EOS, b"\0"):
        async with dial(speech()) as socket:
            await socket.send(eos)
            assert await received(socket) == [{"type": "Ready"}]
            assert socket.close_code == 1000
    assert upstream.requests == []


async def test_old_message_formats_and_cloned_voices_are_accepted(speech: Start, upstream: Upstream) -> None:
    async with dial(speech(), "?voice=custom%3Aabc") as socket:
        voice = {"type": "Voice", "embeddings": [0.5] * 64_000, "shape": [1, 512, 125]}
        await socket.send(msgpack.packb(voice))
        await socket.send("Hello there, all of you.")
        await socket.send(b"\0")
        messages = await received(socket)
    assert [message["text"] for message in messages if message["type"] == "Text"] == (
        ["Hello", "there,", "all", "of", "you."]
    )
    assert "tara: Hello there, all of you." in upstream.requests[0]["prompt"]


async def test_voices_are_looked_up_in_the_table_and_never_refused(speech: Start, upstream: Upstream) -> None:
    client = speech()
    for name, voice in {
        "leo": "leo",
        "unmute-prod-website/p329_022.wav": "tara",
        "unmute-prod-website/degaulle-2.wav": "zac",
        "barack_demo.wav": "leo",
        "nobody/knows.wav": "tara",
    }.items():
        await Orchestrator(url_of(client), name).turn(at_pace(["Hello."], 100))
        assert f"{voice}: Hello." in upstream.requests[-1]["prompt"]
    metrics = (await asyncio.to_thread(client.get, "/metrics")).text
    assert "orpheus_speech_unknown_voices_total" in metrics


@pytest.mark.slow
async def test_barge_in_at_any_time_frees_tier_1_and_answers_close_at_once(
    speech: Start, upstream: Upstream
) -> None:
    upstream.events, upstream.pause_s = whole(500), 0.02
    chance = random.Random(3)
    client = speech()
    for number in range(6):
        turn = await Orchestrator(url_of(client)).turn(
            at_pace(WORDS * 5), interrupt_after_s=chance.uniform(0, 0.4)
        )
        assert turn.shutdown_s < 5  # rule 9: the library would wait 10 s
        await released(upstream, number + 1)


async def test_two_hundred_abandoned_sockets_are_reaped(
    speech: Start, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orpheus.server.sockets.connection.FIRST_TEXT_S", 1.5)
    client = speech()
    sockets = await asyncio.gather(*(dial(client, open_timeout=30) for _ in range(200)))
    turn = await Orchestrator(url_of(client)).turn(at_pace(["Hello."], 100))
    assert turn.close_code == 1000
    codes = await asyncio.gather(*(_closed(socket) for socket in sockets))  # rule 10
    assert codes == [1000] * 200


async def _closed(socket: ClientConnection) -> int | None:
    async with asyncio.timeout(20):
        await socket.wait_closed()
    return socket.close_code


async def test_another_format_is_refused_with_the_reason(speech: Start) -> None:
    async with dial(speech(), "?format=OggOpus") as socket:
        (message,) = await received(socket)
        assert "PcmMessagePack" in message["message"]


async def test_build_info_reports_whether_speech_can_be_served(speech: Start, upstream: Upstream) -> None:
    client = speech()
    assert (await asyncio.to_thread(client.get, "/api/build_info")).status_code == 200
    upstream.health = 503
    response = await asyncio.to_thread(client.get, "/api/build_info")
    assert response.status_code == 503
    assert "loading" in response.json()["error"]["message"]


@pytest.mark.parametrize("opened", [False, True])
async def test_the_key_of_unmute_is_accepted_only_if_the_route_is_open(speech: Start, opened: bool) -> None:
    client = speech(api_keys="secret", unmute_open=opened)
    assert client.get("/api/build_info").status_code == 200
    headers = {"kyutai-api-key": "public_token"}
    if opened:
        async with dial(client, additional_headers=headers) as socket:
            assert msgpack.unpackb(await socket.recv()) == {"type": "Ready"}
    else:
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with dial(client, additional_headers=headers):
                pass
        assert refused.value.response.status_code == 401
    async with dial(client, "?auth_id=secret") as socket:
        assert msgpack.unpackb(await socket.recv()) == {"type": "Ready"}
