"""Messages → the answer as it is generated."""

from __future__ import annotations

from orpheus.agent.thoughts import (
    INSTRUCTIONS,
    Finished,
    FinishReason,
    Message,
    TextDelta,
    Thinker,
    Thought,
    ToolCall,
    ToolCallDelta,
)
from orpheus.settings import Settings

__all__ = [
    "INSTRUCTIONS",
    "FinishReason",
    "Finished",
    "Message",
    "TextDelta",
    "Thinker",
    "Thought",
    "ToolCall",
    "ToolCallDelta",
    "load_thinker",
]


def load_thinker(settings: Settings) -> Thinker:
    raise NotImplementedError
