"""The model of unmute's orchestrator fails where the real one was seen to fail, and only there."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import msgpack
import pytest
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from tests.support.scripted import FRAME_S, Script, audio, scripted, tell, words_until_eos
from tests.support.unmute import Orchestrator, SessionKilled, Turn, at_pace
from tests.support.virtual_time import VirtualTimeLoop

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualTimeLoop}


WORDS = ["The", "sea", "is", "calm", "today."]


async def run(script: Script, words: list[str] = WORDS, **options: Any) -> Turn:
    async with scripted(script) as url:
        return await Orchestrator(url).turn(at_pace(words, 200), **{"limit_s": 10, **options})


def speech(seconds: float = 0.8, samples: int = 1920, code: int = 1000) -> Script:
    """Faster than real time, words in order, closed with `code`."""

    async def script(socket: ServerConnection) -> None:
        await tell(socket, "Ready")
        for index, word in enumerate(await words_until_eos(socket)):
            await tell(socket, "Text", text=word, start_s=index * 0.1, stop_s=index * 0.1 + 0.1)
        await audio(socket, seconds, samples)
        await socket.close(code)

    return script


@pytest.mark.parametrize("samples", [1920, 2048, 333])
async def test_audio_faster_than_real_time_is_played_in_real_time(samples: int) -> None:
    turn = await run(speech(samples=samples))
    assert turn.words == WORDS
    assert turn.played_s == pytest.approx(0.8)
    assert (turn.player.underruns, turn.dropped_s, turn.close_code) == (0, 0, 1000)
    lasted_s = turn.released[-1][0] - turn.released[0][0]
    assert lasted_s == pytest.approx(0.8 - 0.32, abs=0.081), "all but the lead, to within a frame"


async def test_a_silent_socket_causes_an_underrun_although_the_audio_was_delivered() -> None:
    async def script(socket: ServerConnection) -> None:
        await tell(socket, "Ready")
        await words_until_eos(socket)
        await audio(socket, 2.0)
        await asyncio.sleep(1.2)
        await audio(socket, FRAME_S)

    turn = await run(script)
    assert turn.player.underruns == 1
    assert turn.player.longest_underrun_s == pytest.approx(1.2 - 0.32, abs=0.081)


async def test_ticks_prevent_that_underrun() -> None:
    async def script(socket: ServerConnection) -> None:
        await tell(socket, "Ready")
        await words_until_eos(socket)
        await audio(socket, 2.0)
        for _ in range(15):
            await asyncio.sleep(0.08)
            await tell(socket, "Ready")
        await audio(socket, FRAME_S)

    turn = await run(script)
    assert turn.player.underruns == 0
    assert turn.played_s == pytest.approx(2.08)


async def test_an_empty_word_is_not_a_tick() -> None:
    async def script(socket: ServerConnection) -> None:
        await tell(socket, "Ready")
        await words_until_eos(socket)
        await audio(socket, 1.6)
        for _ in range(12):
            await asyncio.sleep(0.08)
            await tell(socket, "Text", text="", start_s=0, stop_s=0)

    assert (await run(script)).player.underruns == 1


async def test_audio_slower_than_real_time_causes_underruns() -> None:
    async def script(socket: ServerConnection) -> None:
        await tell(socket, "Ready")
        await words_until_eos(socket)
        for _ in range(12):
            await audio(socket, FRAME_S)
            await asyncio.sleep(FRAME_S * 1.6)

    turn = await run(script)
    assert turn.player.underruns >= 5
    assert turn.player.underrun_s > 0.3


@pytest.mark.parametrize("code", [1000, 1001])
async def test_ordinary_closes_play_to_the_end(code: int) -> None:
    assert (await run(speech(code=code))).dropped_s == 0


async def test_an_error_code_after_all_audio_cuts_the_turn() -> None:
    turn = await run(speech(seconds=1.6, code=1011))
    assert turn.close_code == 1011
    assert turn.dropped_s > 1.0
    assert turn.words != WORDS


async def test_a_socket_left_open_after_the_last_audio_hangs_the_turn() -> None:
    async def script(socket: ServerConnection) -> None:
        await tell(socket, "Ready")
        await words_until_eos(socket)
        await audio(socket, 0.4)
        await socket.wait_closed()

    with pytest.raises(TimeoutError):
        await run(script, limit_s=1.5)


async def test_words_with_equal_times_come_out_shuffled() -> None:
    async def script(socket: ServerConnection) -> None:
        await tell(socket, "Ready")
        for word in await words_until_eos(socket):
            await tell(socket, "Text", text=word, start_s=0.1, stop_s=0.2)
        await audio(socket, 0.4)

    turn = await run(script, list("01234567"))
    assert turn.words == list("02657413"), "as the unmodified orchestrator shows them"


async def test_audio_without_words_leaves_no_transcript() -> None:
    async def script(socket: ServerConnection) -> None:
        await tell(socket, "Ready")
        await words_until_eos(socket)
        await audio(socket, 0.4)

    turn = await run(script)
    assert turn.words == []
    assert turn.played_s == pytest.approx(0.4)


@pytest.mark.parametrize(
    "message",
    [
        msgpack.packb({"type": "Eos"}),
        '{"type": "Ready"}',
        msgpack.packb({"type": "Audio", "pcm": b"\0\0"}),
        msgpack.packb({"type": "Text", "text": "no times"}),
        b"\xc1",
    ],
)
async def test_a_message_of_unknown_type_kills_the_session(message: str | bytes) -> None:
    async def script(socket: ServerConnection) -> None:
        await tell(socket, "Ready")
        await socket.send(message)
        await words_until_eos(socket)
        await socket.wait_closed()

    with pytest.raises(SessionKilled, match="not a message of this protocol"):
        await run(script)


@pytest.mark.parametrize("code", [1000, 1011])
async def test_closing_before_eos_kills_the_session(code: int) -> None:
    async def script(socket: ServerConnection) -> None:
        await tell(socket, "Ready")
        await socket.recv()
        await socket.close(code)

    with pytest.raises(SessionKilled, match="closed while words were coming"):
        await run(script, WORDS * 20)


async def test_a_late_ready_kills_the_session_and_leaks_sockets() -> None:
    open_now = 0

    async def script(socket: ServerConnection) -> None:
        nonlocal open_now
        open_now += 1
        await asyncio.sleep(0.7)
        await tell(socket, "Ready")
        await socket.wait_closed()

    async with scripted(script) as url:
        orchestrator = Orchestrator(url)
        with pytest.raises(SessionKilled, match="timed out"):
            await orchestrator.turn(at_pace(WORDS))
        assert orchestrator.warnings == 4
        assert open_now == len(orchestrator.leaked) == 5
        for socket in orchestrator.leaked:
            await socket.close()


async def test_an_error_instead_of_ready_means_too_many_people() -> None:
    async def script(socket: ServerConnection) -> None:
        await tell(socket, "Error", message="no free channels")

    async with scripted(script) as url:
        orchestrator = Orchestrator(url)
        with pytest.raises(SessionKilled, match="Too many people"):
            await orchestrator.turn(at_pace(WORDS))
    assert orchestrator.warnings == 4


async def test_a_refused_handshake_is_an_internal_error() -> None:
    def refuse(socket: ServerConnection, request: Request) -> Response:
        return socket.respond(HTTPStatus.SERVICE_UNAVAILABLE, "full\n")

    async with scripted(speech(), process_request=refuse) as url:
        with pytest.raises(SessionKilled, match="Internal server error"):
            await Orchestrator(url).turn(at_pace(WORDS))


async def test_a_message_over_one_mebibyte_is_refused_by_the_client() -> None:
    codes = []

    async def script(socket: ServerConnection) -> None:
        await tell(socket, "Ready")
        await words_until_eos(socket)
        await tell(socket, "Audio", pcm=[0.0] * 250_000)
        await socket.wait_closed()
        codes.append(socket.close_code)

    turn = await run(script)
    assert (codes, turn.played_s) == ([1009], 0)


async def test_an_interruption_closes_at_once_and_plays_nothing_more() -> None:
    left = asyncio.Event()

    async def script(socket: ServerConnection) -> None:
        await tell(socket, "Ready")
        await words_until_eos(socket)
        await audio(socket, 4.0)
        await socket.wait_closed()
        left.set()

    turn = await run(script, interrupt_after_s=0.2)
    await asyncio.wait_for(left.wait(), 2)
    assert turn.shutdown_s < 1
    assert 0.3 <= turn.played_s < 1


async def test_a_server_that_does_not_answer_the_close_holds_everything_up() -> None:
    """The library waits ten seconds; here it is enough that it waits for the server."""

    async def script(socket: ServerConnection) -> None:
        await tell(socket, "Ready")
        await audio(socket, 1.0)
        socket.transport.pause_reading()
        await asyncio.sleep(1.2)
        socket.transport.resume_reading()

    turn = await run(script, interrupt_after_s=0.2)
    assert turn.shutdown_s > 0.7
