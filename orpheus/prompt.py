"""The prompt that Orpheus was trained on: built from a voice and a text, and recognized in what other front ends send.

A fine-tune may have been trained on another one, which its voice then has as a form: a text with `{text}` in it, and
perhaps `{name}`. With control tokens it is the whole prompt as it stands ("<custom_token_3>{name} {text}<custom_token_4>…");
without any, it is what stands inside the trained turn ('<description="{name}"> {text}').

The trained turn is that of Orpheus-TTS's `_format_prompt`. The community forms are those of orpheus-tts-local and
Orpheus-FastAPI (`<|audio|>…<|eot_id|>`), and of orpheus-cpp (`…<|eot_id|><custom_token_4>`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from orpheus.vocabulary import (
    BEGIN_OF_TEXT,
    END_OF_HUMAN,
    END_OF_TURN,
    LEGACY_AUDIO,
    START_OF_AI,
    START_OF_HUMAN,
    START_OF_SPEECH,
    token_text,
)
from orpheus.voices import Voice

TEXT, NAME = "{text}", "{name}"  # in the form of a voice

_CONTROL = re.compile(r"<custom_token_\d+>|<\|[^<>]*\|>")
_SPLIT = re.compile(f"({_CONTROL.pattern})")
_HEAD = token_text(START_OF_HUMAN) + BEGIN_OF_TEXT
_TAIL = END_OF_TURN + "".join(map(token_text, (END_OF_HUMAN, START_OF_AI, START_OF_SPEECH)))

_BOS = f"(?:{re.escape(BEGIN_OF_TEXT)})?"
_TURN = re.compile(
    rf"\s*{_BOS}(?:{token_text(START_OF_HUMAN)}{_BOS}|{re.escape(LEGACY_AUDIO)})"
    rf"(?P<inner>.*){re.escape(END_OF_TURN)}"
    rf"(?:{token_text(END_OF_HUMAN)}(?:{token_text(START_OF_AI)}(?:{token_text(START_OF_SPEECH)})?)?)?\s*",
    re.DOTALL,
)


@dataclass(frozen=True)
class Prompt:
    """What tier 1 is sent."""

    text: str
    verbatim: bool = False  # not to be taken for a turn, which our tier 1 writes anew


def prompt_of(voice: Voice, text: str) -> Prompt:
    """The prompt in the form of the voice, up to where the first audio token is due."""
    if voice.form is None:
        return Prompt(turn_text(voice.speaker, text))
    before, after = (part.replace(NAME, voice.speaker) for part in voice.form.split(TEXT, 1))
    if has_control(voice.form):
        return Prompt(before + strip_control(text) + after, verbatim=True)
    return Prompt(turn_text("", before + text + after))


def has_control(text: str) -> bool:
    """Whether `text` has control tokens in it."""
    return _CONTROL.search(text) is not None


def split_control(text: str) -> list[str]:
    """`text` cut before and after each control token."""
    return _SPLIT.split(text)


def turn_text(voice: str, text: str) -> str:
    """The trained turn, up to where the first audio token is due. Control strings in `text` are removed.

    With an empty `voice` the text has no prefix, as the pretrained model expects.
    """
    inner = f"{voice}: {text}" if voice else text
    return _HEAD + strip_control(inner) + _TAIL


def strip_control(text: str) -> str:
    """`text` without `<custom_token_N>` and `<|…|>`, including those that form once others are removed.

    One pass, linear in the text, so that nesting gains an attacker nothing. Tags such as `<laugh>` stay.
    """
    if "<" not in text:
        return text
    kept: list[str] = []
    opened: list[int] = []  # indices in `kept` of each "<" that may still begin a control string
    for character in text:
        kept.append(character)
        if character == "<":
            opened.append(len(kept) - 1)
        elif character == ">" and opened:
            start = opened.pop()
            if _CONTROL.fullmatch("".join(kept[start:])):
                del kept[start:]
            else:
                opened.clear()  # no control string contains a ">", so none can extend past this one
    return "".join(kept)


def read_turn(prompt: str) -> str | None:
    """The "voice: text" inside a trained turn or a community prompt; None for anything else."""
    match = _TURN.fullmatch(prompt)
    return match.group("inner") if match else None
