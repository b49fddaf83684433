"""What a conversation is told to say as it is, as the wires do that greet, or speak for somebody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from orpheus.agent import events as told
from orpheus.agent.conversation import MAX_SAYINGS, Conversation
from orpheus.agent.events import Ask
from orpheus.agent.metrics import AgentMetrics
from orpheus.codec import Codec
from orpheus.errors import BadRequest, TooLarge
from orpheus.server.service import MAX_STREAMED_CHARS, SpeechService
from orpheus.settings import load_settings
from orpheus.tts.token_source import HttpTokenSource
from tests.server.conftest import SharedCodec
from tests.support.agent import Script
from tests.support.upstream import Upstream, whole

pytestmark = pytest.mark.anyio


class Talk:
    """A conversation without a protocol, and what it tells."""

    def __init__(self, service: SpeechService) -> None:
        self.events: list[told.Event] = []
        self.script = Script()

        async def room() -> None:
            pass

        self.conversation = Conversation(
            self.script.ports(), service, self.events.append, room, AgentMetrics(CollectorRegistry())
        )

    async def until(self, done: Callable[[], Any]) -> None:
        async with asyncio.timeout(15):
            while not done():  # noqa: ASYNC110 - what is waited for takes no notice
                await asyncio.sleep(0.005)

    def of(self, *kinds: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kinds)]

    @property
    def answers(self) -> list[str]:
        return [item.text for item in self.conversation.history if item.role == "assistant"]

    @property
    def statuses(self) -> list[str]:
        return [event.response.status for event in self.of(told.ResponseDone)]


@pytest.fixture
async def said(
    codec: Codec,
    _upstream_server: tuple[Upstream, str],
    upstream: Upstream,
) -> AsyncIterator[Talk]:
    upstream.events = whole(6)
    settings = load_settings(llama_endpoint=_upstream_server[1], model="embedded", postprocess=False)
    service = SpeechService(settings, lambda: HttpTokenSource(settings), lambda _: SharedCodec(codec))
    async with service.running():
        await service.loaded()
        talk = Talk(service)
        yield talk
        await talk.conversation.aclose()


async def test_a_text_is_said_word_for_word_and_no_language_model_is_asked(
    said: Talk, upstream: Upstream
) -> None:
    said.conversation.say("Good day, Ms. Johnson!")
    await said.until(lambda: said.statuses)
    assert said.statuses == ["completed"]
    assert said.answers == ["Good day, Ms. Johnson!"]
    assert "Good day, Ms. Johnson!" in upstream.requests[-1]["prompt"]
    assert "".join(event.text for event in said.of(told.TextAdded)) == "Good day, Ms. Johnson!"
    assert said.of(told.AudioAdded)
    assert said.script.thinker.asked == []
    assert said.of(told.ResponseDone)[0].response.timings == told.Timings()  # no stage to be measured


async def test_the_next_text_follows_and_cuts_off_nothing(said: Talk) -> None:
    texts = ["First of all.", "  ", "And then.", "That is it."]
    for text in texts:
        said.conversation.say(text)
    await said.until(lambda: len(said.statuses) == 3)
    said.conversation.say("Oh, and this.")  # while the last is still to be heard
    await said.until(lambda: len(said.statuses) == 4)
    assert said.statuses == ["completed"] * 4
    assert said.answers == ["First of all.", "And then.", "That is it.", "Oh, and this."]
    assert not said.of(told.OutputCleared)


@pytest.mark.parametrize("sent", [False, True], ids=["while it is made", "while it is heard"])
async def test_an_answer_of_the_language_models_is_cut_off_by_it(
    said: Talk, upstream: Upstream, sent: bool
) -> None:
    said.script.thinker.answers = [["One two three four five six seven."]]
    upstream.events = whole(10 if sent else 60)  # of which more than 3 s are not sent yet
    said.conversation.respond(Ask(said.conversation.config))
    await said.until(lambda: said.statuses if sent else said.of(told.AudioAdded))
    upstream.events = whole(6)
    said.conversation.say("Stop, a call for you.")
    assert len(said.of(told.OutputCleared)) == 1
    await said.until(lambda: len(said.statuses) == 2)
    assert said.statuses == ["completed" if sent else "cancelled", "completed"]
    assert said.answers[0] in "One two"
    assert said.answers[1] == "Stop, a call for you."


async def test_of_a_text_that_is_cut_off_the_history_keeps_what_was_heard(
    said: Talk, upstream: Upstream
) -> None:
    upstream.events = whole(120)  # 10 s, of which only 3 are sent at once
    said.conversation.say("One two three four five six seven.")
    await said.until(lambda: said.of(told.AudioAdded))
    await asyncio.sleep(0.5)
    said.conversation.interrupt()
    assert said.statuses == ["cancelled"]
    (heard,) = said.answers
    assert 0 < len(heard.split()) <= 4
    assert "One two three four".startswith(heard)


async def test_what_waits_is_bounded_and_so_is_a_text(said: Talk, upstream: Upstream) -> None:
    upstream.hang_after = 3
    said.conversation.say("First.")
    for number in range(MAX_SAYINGS):
        said.conversation.say(f"Number {number}.")
    with pytest.raises(BadRequest, match="already waiting"):
        said.conversation.say("One too many.")
    with pytest.raises(TooLarge):
        said.conversation.say("x" * (MAX_STREAMED_CHARS + 1))
    said.conversation.interrupt()
    upstream.go_on.set()
    await asyncio.sleep(0.05)
    assert said.statuses == ["cancelled"]  # and nothing of what waited
    said.conversation.interrupt()
    assert len(said.of(told.OutputCleared)) == 1


async def test_what_was_asked_meanwhile_is_answered_afterwards(said: Talk) -> None:
    said.conversation.say("Welcome.")
    with pytest.raises(BadRequest, match="active response"):
        said.conversation.respond(Ask(said.conversation.config))
    said.conversation._deferred = Ask(said.conversation.config)  # as a turn that ended meanwhile leaves it
    await said.until(lambda: len(said.statuses) == 2)
    assert said.answers == ["Welcome.", "Hello there, my friend."]
    assert said.script.thinker.last == [("assistant", "Welcome.")]
