"""What a conversation tells, whatever the protocol; in the order of a turn.

An adapter (sockets/) makes its protocol's messages of these. Audio is mono 16-bit little-endian PCM at 24 kHz.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from orpheus.agent.history import Item, Part
from orpheus.agent.think import INSTRUCTIONS
from orpheus.agent.turns import TurnConfig
from orpheus.errors import OrpheusError
from orpheus.voices import DEFAULT_VOICE

ResponseStatus = Literal["in_progress", "completed", "cancelled", "failed", "incomplete"]
OUTPUT_RATE = 24_000  # Hz, of all that is spoken


@dataclass(frozen=True)
class Config:
    """How a conversation is held; a response may differ from it."""

    instructions: str = INSTRUCTIONS
    modality: Literal["audio", "text"] = "audio"
    voice: str = DEFAULT_VOICE
    speed: float = 1.0
    turns: TurnConfig = field(default_factory=TurnConfig)
    language: str | None = None  # of what is heard; None: whatever is recognised
    prompt: str | None = None  # for the recogniser: names and words to expect
    partials: bool = False  # tell what is heard while it is said
    tools: tuple[dict[str, Any], ...] = ()  # as chat completions take them
    tool_choice: Any = "auto"
    max_tokens: int | None = None
    temperature: float | None = None


@dataclass(frozen=True)
class Ask:
    """What a response is asked for."""

    config: Config
    input: tuple[Item, ...] | None = None  # instead of the conversation so far
    kept: bool = True  # the answer becomes part of the conversation
    metadata: Mapping[str, str] | None = None  # the client's
    verbatim: str | None = None  # the answer itself: it is spoken as it is, and no language model is asked


@dataclass(frozen=True)
class Timings:
    """Milliseconds of each stage; with speculation they overlap, so only `end_to_audio_ms` is their sum. None: not run."""

    vad_ms: float | None = None  # from the end of speech until it was taken for the end of the turn
    stt_ms: float | None = None
    llm_first_token_ms: float | None = None  # from the transcript
    first_clause_ms: float | None = None  # from the first token until there was something to speak
    first_audio_ms: float | None = None  # from the first clause
    end_to_audio_ms: float | None = None  # from the end of speech until the first audio was sent


@dataclass(frozen=True)
class ResponseState:
    """A response as it is at one moment."""

    id: str
    ask: Ask
    status: ResponseStatus = "in_progress"
    reason: str | None = None  # turn_detected, client_cancelled, max_output_tokens
    error: OrpheusError | None = None
    output: tuple[Item, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    timings: Timings = field(default_factory=Timings)


# What the human says


@dataclass(frozen=True)
class UserStarted:
    """Speech. Whatever the agent was saying is over: its player is to be emptied."""

    item_id: str
    start_ms: int  # of the audio received since the beginning
    interrupts: bool  # the agent was being heard


@dataclass(frozen=True)
class UserStopped:
    item_id: str
    end_ms: int


@dataclass(frozen=True)
class IdleTimeout:
    """Nobody spoke for `idle_timeout_ms`: the agent will."""

    item_id: str
    start_ms: int
    end_ms: int


@dataclass(frozen=True)
class InputCommitted:
    item_id: str
    previous_id: str | None


@dataclass(frozen=True)
class InputCleared:
    pass


@dataclass(frozen=True)
class TranscriptAdded:
    """Words that were recognised and will not change, while more may follow."""

    item_id: str
    text: str


@dataclass(frozen=True)
class TranscriptDone:
    item_id: str
    text: str
    audio_s: float


@dataclass(frozen=True)
class TranscriptFailed:
    item_id: str
    error: OrpheusError


@dataclass(frozen=True)
class OutputCleared:
    """What was not heard of the agent by now is not to be: its player is to be emptied."""


# Items


@dataclass(frozen=True)
class ItemAdded:
    """Also of answers, as far as they are part of the conversation."""

    item: Item
    previous_id: str | None


@dataclass(frozen=True)
class ItemDone:
    item: Item
    previous_id: str | None


@dataclass(frozen=True)
class ItemTruncated:
    item_id: str
    audio_end_ms: int


@dataclass(frozen=True)
class ItemDeleted:
    item_id: str


# What the agent says


@dataclass(frozen=True)
class ResponseStarted:
    response: ResponseState


@dataclass(frozen=True)
class OutputAdded:
    response_id: str
    index: int
    item: Item


@dataclass(frozen=True)
class PartAdded:
    response_id: str
    index: int
    item_id: str
    part: Part


@dataclass(frozen=True)
class TextAdded:
    """Text of the answer: of an audio part, the words whose audio comes next."""

    response_id: str
    index: int
    item_id: str
    kind: Literal["text", "audio"]
    text: str


@dataclass(frozen=True)
class AudioAdded:
    response_id: str
    index: int
    item_id: str
    pcm: bytes

    @property
    def samples(self) -> NDArray[np.float32]:
        """The same, from -1 to 1."""
        return np.frombuffer(self.pcm, "<i2").astype(np.float32) / np.float32(32767)


@dataclass(frozen=True)
class PartDone:
    response_id: str
    index: int
    item_id: str
    part: Part
    cut: bool = False  # nothing of it may follow


@dataclass(frozen=True)
class ArgumentsAdded:
    response_id: str
    index: int
    item: Item
    text: str


@dataclass(frozen=True)
class ArgumentsDone:
    response_id: str
    index: int
    item: Item


@dataclass(frozen=True)
class OutputDone:
    response_id: str
    index: int
    item: Item


@dataclass(frozen=True)
class ResponseDone:
    response: ResponseState


@dataclass(frozen=True)
class Failed:
    """A stage failed; the conversation goes on."""

    error: OrpheusError


Event = (
    UserStarted
    | UserStopped
    | IdleTimeout
    | InputCommitted
    | InputCleared
    | TranscriptAdded
    | TranscriptDone
    | TranscriptFailed
    | OutputCleared
    | ItemAdded
    | ItemDone
    | ItemTruncated
    | ItemDeleted
    | ResponseStarted
    | OutputAdded
    | PartAdded
    | TextAdded
    | AudioAdded
    | PartDone
    | ArgumentsAdded
    | ArgumentsDone
    | OutputDone
    | ResponseDone
    | Failed
)
Emit = Callable[[Event], None]
