"""What goes into a Thinker and comes out of it: messages, and the answer in pieces."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

FinishReason = Literal["stop", "length", "tool_calls"]

# What a session says to its LLM unless it has instructions of its own.
INSTRUCTIONS = (
    "You are a helpful voice assistant. Everything you write is spoken aloud, so answer as people talk: one to three "
    "short sentences, the answer first. Use plain words and full sentences; no markdown, lists, headings, emoji, code "
    "or links. Write numbers, dates, units and abbreviations as words. What you read is a transcript of speech and may "
    "hold mistakes: take the likeliest meaning, and ask if you are not sure. Answer in the language you are spoken to."
)


@dataclass(frozen=True)
class ToolCall:
    """A call the LLM made."""

    id: str
    name: str
    arguments: str  # JSON as text


@dataclass(frozen=True)
class Message:
    """One message of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()  # of an assistant
    tool_call_id: str | None = None  # of a tool: the call that this is the result of


@dataclass(frozen=True)
class TextDelta:
    """The next piece of the answer's text."""

    text: str


@dataclass(frozen=True)
class ToolCallDelta:
    """The next piece of a tool call. Calls are numbered from 0; the first piece of each has its id and its name."""

    index: int
    id: str | None
    name: str | None
    arguments: str


@dataclass(frozen=True)
class Finished:
    """The end of an answer, the last thing that comes. Counts are 0 where they are not known."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


Thought = TextDelta | ToolCallDelta | Finished


class Thinker(Protocol):
    """An LLM."""

    def answer(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[dict[str, Any]] = (),
        tool_choice: Any = "auto",
        max_tokens: int | None = None,
        temperature: float | None = None,
        conversation: str = "",
    ) -> AsyncGenerator[Thought]:
        """The answer as it is generated, `Finished` last. Closing the generator stops the generation at once.

        `conversation` tells whose messages these are, so that what was read of them is kept. Raises OrpheusError.
        """

    async def warm_up(self, messages: Sequence[Message]) -> None:
        """Make ready to answer soon, above all messages that begin with these. Raises OrpheusError."""

    async def aclose(self) -> None: ...
