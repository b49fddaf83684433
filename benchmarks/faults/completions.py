"""The events of a completions server, as tier 2 reads them."""

from __future__ import annotations

import json
from typing import Any

from orpheus.vocabulary import number_of, token_text

SPEECH_FRAMES = 6


def frame_text(codes: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7)) -> str:
    return "".join(token_text(number_of(slot, code)) for slot, code in enumerate(codes))


def event(text: str = "", reason: str | None = None, **more: Any) -> str:
    choice = {"index": 0, "text": text, "finish_reason": reason}
    return f"data: {json.dumps({'choices': [choice | more]})}\n\n"


MAX_EQUAL_FRAMES = 30  # in a row; more would trigger the repetition detector


def whole(frames: int = SPEECH_FRAMES) -> list[str]:
    """The events of a successful generation."""
    generated = (
        event(frame_text((1, 2, 3, 4, 5, 6, 7 + index // MAX_EQUAL_FRAMES))) for index in range(frames)
    )
    return [*generated, event(reason="stop"), "data: [DONE]\n\n"]
