"""`clients/unmute_tts.py` against a scripted server, as a fork of unmute would use it. Time is virtual."""

from __future__ import annotations

import asyncio
import itertools
import math
import sys
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import websockets
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from clients import unmute_tts
from clients.unmute_tts import LEAD_S, AtCapacity, Audio, Eos, Error, Message, Refused, Text, TextToSpeech
from tests.support.live import free_port
from tests.support.scripted import Script, audio, scripted, tell, words_until_eos
from tests.support.unmute import Orchestrator, at_pace, now_s
from tests.support.virtual_time import VirtualTimeLoop

pytestmark = pytest.mark.anyio
SOURCE = Path(unmute_tts.__file__).read_text()
WORDS = ["The", "sea", "is", "calm", "today."]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualTimeLoop}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def speaking(seconds: float = 0.8) -> Script:
    async def script(socket: ServerConnection) -> None:
        await tell(socket, "Ready")
        for index, word in enumerate(await words_until_eos(socket)):
            await tell(socket, "Text", text=word, start_s=index * 0.1, stop_s=index * 0.1 + 0.1)
        await audio(socket, seconds)

    return script


async def turn(url: str, words: list[str] = WORDS, voice: str | None = None) -> list[tuple[float, Message]]:
    """What was released, and when, in seconds."""
    tts = TextToSpeech(url, voice)
    await tts.start_up()

    async def send() -> None:
        for word in words:
            await tts.send(word)
            await asyncio.sleep(0.01)
        await tts.send(Eos())

    sending = asyncio.create_task(send())
    released = []
    try:
        async for message in tts:
            released.append((now_s(), message))
    finally:
        await sending
        await tts.shutdown()
    return released


def samples(released: list[tuple[float, Message]]) -> int:
    return sum(len(message.pcm) for _, message in released if isinstance(message, Audio))


def words(released: list[tuple[float, Message]]) -> list[str]:
    return [message.text for _, message in released if isinstance(message, Text)]


async def test_words_in_and_audio_and_words_out_in_real_time() -> None:
    async with scripted(speaking()) as url:
        released = await turn(url)
    assert (samples(released), words(released)) == (0.8 * 24_000, WORDS)
    last_s = 0.72 - LEAD_S  # the last of ten messages of 80 ms
    assert released[-1][0] - released[0][0] == pytest.approx(last_s, abs=1e-3)
    first = next(message for _, message in released if isinstance(message, Audio))
    assert np.array(first.pcm, dtype=np.float32).max() == 0.25, "as unmute reads it"


async def test_it_releases_what_unmutes_own_client_releases() -> None:
    async with scripted(speaking()) as url:
        ours = await turn(url)
        theirs = await Orchestrator(url).turn(at_pace(WORDS, 100))
    assert words(ours) == theirs.words
    assert samples(ours) == len(theirs.pcm)
    assert ours[-1][0] - ours[0][0] == pytest.approx(theirs.released[-1][0] - theirs.released[0][0], abs=1e-3)


async def test_playback_continues_while_nothing_is_received() -> None:
    """Where unmute's own client stops until another message comes."""

    async def script(socket: ServerConnection) -> None:
        await tell(socket, "Ready")
        await words_until_eos(socket)
        await audio(socket, 1.2)
        await asyncio.sleep(1.0)

    async with scripted(script) as url:
        released = await turn(url)
    gaps_s = [after - before for (before, _), (after, _) in itertools.pairwise(released)]
    assert samples(released) == 1.2 * 24_000
    assert max(gaps_s) == pytest.approx(0.08, abs=1e-3)


async def test_messages_due_at_the_same_time_keep_their_order() -> None:
    async def script(socket: ServerConnection) -> None:
        await tell(socket, "Ready")
        for word in await words_until_eos(socket):
            await tell(socket, "Text", text=word, start_s=0.1, stop_s=0.2)
        await audio(socket, 0.4)

    async with scripted(script) as url:
        assert words(await turn(url, list("01234567"))) == list("01234567")


@pytest.mark.parametrize("break_after_words", [0, 2, 5])
async def test_a_connection_that_breaks_before_the_first_audio_is_replaced(break_after_words: int) -> None:
    heard = []

    async def script(socket: ServerConnection) -> None:
        await tell(socket, "Ready")
        if not heard:
            heard.append([await socket.recv() for _ in range(break_after_words)])
            socket.transport.abort()
            return
        heard.append(await words_until_eos(socket))
        await audio(socket, 0.4)

    async with scripted(script) as url:
        released = await turn(url)
    assert heard[1:] == [WORDS], "each word once, in order"
    assert samples(released) == 0.4 * 24_000


async def test_a_second_break_is_an_error() -> None:
    connections = 0

    async def script(socket: ServerConnection) -> None:
        nonlocal connections
        connections += 1
        await tell(socket, "Ready")
        await words_until_eos(socket)
        socket.transport.abort()

    async with scripted(script) as url:
        with pytest.raises(websockets.ConnectionClosedError):
            await turn(url)
    assert connections == 2


async def test_a_break_after_audio_is_an_error_once_all_of_it_was_released() -> None:
    async def script(socket: ServerConnection) -> None:
        await tell(socket, "Ready")
        await words_until_eos(socket)
        await audio(socket, 0.8)
        await socket.close(1011, "tier 1 died")

    async with scripted(script) as url:
        tts = TextToSpeech(url)
        await tts.start_up()
        await tts.send("Hello.")
        await tts.send(Eos())
        received = 0
        with pytest.raises(websockets.ConnectionClosedError, match="tier 1 died"):
            async for message in tts:
                received += len(message.pcm) if isinstance(message, Audio) else 0
    assert received == tts.received_samples_yielded == 0.8 * 24_000
    assert tts.state() == "closed"


async def test_a_failed_generation_is_released_as_an_error() -> None:
    async def script(socket: ServerConnection) -> None:
        await tell(socket, "Ready")
        await words_until_eos(socket)
        await tell(socket, "Error", message="generation failed")

    async with scripted(script) as url:
        assert [message for _, message in await turn(url)] == [Error("generation failed")]


async def test_an_error_instead_of_ready_is_at_capacity() -> None:
    async def script(socket: ServerConnection) -> None:
        await tell(socket, "Error", message="no free channels")

    async with scripted(script) as url:
        with pytest.raises(AtCapacity, match="no free channels"):
            await TextToSpeech(url).start_up()


@pytest.mark.parametrize(("status", "kind"), [(503, AtCapacity), (429, AtCapacity), (401, Refused)])
async def test_the_error_of_a_refused_handshake_gives_its_reason(status: int, kind: type[Refused]) -> None:
    def refuse(socket: ServerConnection, request: Request) -> Response:
        return socket.respond(HTTPStatus(status), "because\n")

    async with scripted(speaking(), process_request=refuse) as url:
        with pytest.raises(Refused, match=f"{status}: because") as caught:
            await TextToSpeech(url).start_up()
    assert type(caught.value) is kind


async def test_a_server_that_never_becomes_ready_is_disconnected() -> None:
    left = asyncio.Event()

    async def script(socket: ServerConnection) -> None:
        await socket.wait_closed()
        left.set()

    async with scripted(script) as url:
        with pytest.raises(TimeoutError, match="not ready within"):
            await TextToSpeech(url).start_up()
        await asyncio.wait_for(left.wait(), 2)


async def test_a_cancelled_start_leaves_no_socket_open() -> None:
    """unmute's service discovery cancels it after half a second."""
    left = asyncio.Event()

    async def script(socket: ServerConnection) -> None:
        await socket.wait_closed()
        left.set()

    async with scripted(script) as url:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await TextToSpeech(url).start_up()
        await asyncio.wait_for(left.wait(), 2)


@pytest.mark.parametrize("answer", ["{}", b"\xc1", msgpack.packb({"type": "Audio", "pcm": "x"}), b"\x01"])
async def test_another_kind_of_server_is_refused(answer: str | bytes) -> None:
    async def script(socket: ServerConnection) -> None:
        await socket.send(answer)
        await socket.wait_closed()

    async with scripted(script) as url:
        with pytest.raises(Refused, match="this is not a TTS server"):
            await TextToSpeech(url).start_up()


async def test_shutdown_stops_the_server_and_the_iterator_at_once() -> None:
    left = asyncio.Event()

    async def script(socket: ServerConnection) -> None:
        await tell(socket, "Ready")
        await audio(socket, 10)
        await socket.wait_closed()
        left.set()

    async with scripted(script) as url:
        tts = TextToSpeech(url)
        await tts.start_up()
        released = 0
        async for _ in tts:
            released += 1
            if released == 3:
                started_s = now_s()
                await tts.shutdown()
                assert now_s() - started_s < 0.1
        assert released == 3
        await asyncio.wait_for(left.wait(), 1)
        await tts.send("too late")  # only warns
        await tts.shutdown()


async def test_a_server_that_does_not_answer_the_close_is_not_waited_for() -> None:
    async def script(socket: ServerConnection) -> None:
        await tell(socket, "Ready")
        socket.transport.pause_reading()
        await asyncio.sleep(2)
        socket.transport.resume_reading()

    async with scripted(script) as url:
        tts = TextToSpeech(url)
        await tts.start_up()
        started_s = now_s()
        await tts.shutdown()
        assert now_s() - started_s < 1.2


async def test_the_url_and_headers_of_its_requests() -> None:
    requests: list[Request] = []

    def record(socket: ServerConnection, request: Request) -> None:
        requests.append(request)

    async with serve(speaking(), "127.0.0.1", 0, process_request=record) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/prefix/"
        for voice in ("unmute-prod-website/p329_022.wav", "custom:1-2", None):
            tts = TextToSpeech(url, voice, {"Modal-Key": "wk-1", "kyutai-api-key": "mine"})
            await tts.start_up()
            await tts.shutdown()
    query = "/prefix/api/tts_streaming?format=PcmMessagePack"
    assert [request.path for request in requests] == [
        f"{query}&voice=unmute-prod-website%2Fp329_022.wav",
        query,
        query,
    ]
    assert requests[0].headers["Modal-Key"] == "wk-1"
    assert requests[0].headers.get_all("kyutai-api-key") == ["mine"]


@pytest.mark.parametrize(
    ("url", "socket_url"),
    [("https://x.modal.run", "wss://x.modal.run/api"), ("wss://x:1/a/", "wss://x:1/a/api")],
)
def test_urls_need_no_port(url: str, socket_url: str) -> None:
    assert TextToSpeech(url)._url.startswith(socket_url)


async def test_characters_that_are_not_spoken_are_not_sent() -> None:
    heard = []

    async def script(socket: ServerConnection) -> None:
        await tell(socket, "Ready")
        heard.extend(await words_until_eos(socket))

    async with scripted(script) as url:
        await turn(url, [" *Hello*, ", "", "_", "“you”", "it’s", "`x`", "<laugh>"])
    assert heard == ["Hello,", '"you"', "it's", "x", "<laugh>"]


async def test_a_server_that_cannot_be_reached_is_an_os_error() -> None:
    with pytest.raises(OSError, match="Connect call failed"):
        await TextToSpeech(f"ws://127.0.0.1:{free_port()}").start_up()


async def test_iterating_before_start_up_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="start_up"):
        async for _ in TextToSpeech("ws://x"):
            pass


async def test_the_module_in_the_docstring_works_in_a_fork(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In a package with the layout of unmute."""
    lines = (unmute_tts.__doc__ or "").split("text_to_speech.py` with:")[1]
    package = tmp_path / "unmute"
    (package / "tts").mkdir(parents=True)
    (package / "tts" / "text_to_speech.py").write_text("\n".join(line[4:] for line in lines.splitlines()))
    (package / "tts" / "orpheus.py").write_text(SOURCE)
    (package / "exceptions.py").write_text("class MissingServiceAtCapacity(Exception): pass\n")
    full = f"ws://127.0.0.1:{free_port()}"
    (package / "kyutai_constants.py").write_text(f"TTS_SERVER = {full!r}\n")
    monkeypatch.syspath_prepend(tmp_path)

    import unmute.exceptions
    import unmute.tts.text_to_speech as fork

    try:
        async with scripted(speaking(0.16)) as url:
            tts = fork.TextToSpeech(url, recorder=None, get_time=lambda: math.nan, voice="tara")
            await tts.start_up()
            await tts.send("Hello")
            await tts.send(fork.TTSClientEosMessage())
            kinds = [type(message) async for message in tts]
            assert set(kinds) == {fork.TTSAudioMessage, fork.TTSTextMessage}
            assert (tts.received_samples, tts.state()) == (3840, "closed")

        async def at_capacity(socket: ServerConnection) -> None:
            await tell(socket, "Error", message="no free channels")

        async with scripted(at_capacity) as url:
            with pytest.raises(unmute.exceptions.MissingServiceAtCapacity):
                await fork.TextToSpeech(url).start_up()
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "unmute"]:
            del sys.modules[name]


async def test_a_redirect_to_another_server_takes_no_keys_along() -> None:
    seen: list[str] = []

    def note(socket: ServerConnection, request: Request) -> None:
        seen.append(str(request.headers))

    async def nothing(socket: ServerConnection) -> None:
        pass

    async with scripted(nothing, process_request=note) as elsewhere:

        def redirect(socket: ServerConnection, request: Request) -> Response:
            answer = socket.respond(HTTPStatus.TEMPORARY_REDIRECT, "over there\n")
            answer.headers["Location"] = elsewhere + request.path
            return answer

        async with scripted(nothing, process_request=redirect) as url:
            with pytest.raises(unmute_tts.Refused, match="307"):
                await unmute_tts.TextToSpeech(url, "tara", {"Modal-Secret": "ws-1"}).start_up()
    assert seen == []
