"""A request's text → pieces, each short enough to be spoken in one go.

Knows nothing of voices or tokens. Boundaries come from sentencex; what is ours is the packing: a short first
piece so that sound starts early, whole sentences after it, clauses where a sentence is too long.
"""

from __future__ import annotations

import re
import unicodedata

import sentencex

from orpheus.errors import BadRequest
from orpheus.prompt import strip_control

# Punctuation outside the checkpoints' training text makes them skip words, and "!!!" breaks them
# (Orpheus-FastAPI #71, Orpheus-TTS #79).
_PLAIN = str.maketrans(
    {"‘": "'", "’": "'", "‚": "'", "“": '"', "”": '"', "„": '"', "…": "...", "–": "-", "—": " - "}
)
FEW_CHARS = 20  # a first sentence shorter than this ("Hi.") is joined by the next one where there is one

_REPEATED_MARKS = re.compile(r"([!?,;:])\1+")
_CLAUSE_END = re.compile(r"[,;:)\]]\s|\s-\s|[،、，；：]")
_FINAL = (".", "!", "?", "...", "。", "！", "？", "।", ">", '"', "'", ")", "]")


def clean(text: str) -> str:
    """One line of plain text: no control strings, no control characters, single spaces."""
    text = strip_control(unicodedata.normalize("NFC", text)).translate(_PLAIN)
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp", "Cs") else c for c in text)
    text = _REPEATED_MARKS.sub(r"\1", text)
    return " ".join(text.split())


def split(text: str, language: str, most_chars: int) -> list[str]:
    """Pieces of at most `most_chars` characters, in order, at least one.

    BadRequest where there is nothing a voice could say.
    """
    text = clean(text)
    if not _speakable(text):
        raise BadRequest("input has nothing to say: send some words.", param="input", code="empty_input")
    parts: list[str] = []
    for sentence in sentencex.segment(language, text):
        parts += _cut(sentence.strip(), most_chars)
    return [_finish(piece) for piece in _pack([part for part in parts if part], most_chars)]


def pause_after_s(piece: str) -> float:
    """Seconds of silence a reader leaves after a piece."""
    mark = piece.rstrip("\"')]")[-1:]
    return 0.12 if mark in ",;:" else 0.3 if mark in "?!？！" else 0.25


def _cut(sentence: str, most_chars: int) -> list[str]:
    """A sentence in parts of at most `most_chars`: at the last clause end that fits, else at a space."""
    parts = []
    while len(sentence) > most_chars:
        window = sentence[:most_chars]
        ends = [match.end() for match in _CLAUSE_END.finditer(window)]
        end = next((end for end in reversed(ends) if end > most_chars // 3), 0)
        end = end or window.rfind(" ") + 1 or most_chars
        parts.append(sentence[:end].strip())
        sentence = sentence[end:].strip()
    return [*parts, sentence]


def _pack(parts: list[str], most_chars: int) -> list[str]:
    """Join neighbours while they fit. The first piece stays one sentence long: sound starts with it."""
    pieces: list[str] = []
    for part in parts:
        fits = bool(pieces) and len(pieces[-1]) + 1 + len(part) <= most_chars
        lone = bool(pieces) and not (_speakable(part) and len(pieces[-1]) >= FEW_CHARS)
        if fits and (len(pieces) > 1 or lone):
            pieces[-1] += " " + part
        else:
            pieces.append(part)
    return [piece for piece in pieces if _speakable(piece)]


def _speakable(text: str) -> bool:
    return any(character.isalnum() for character in text)


def _finish(piece: str) -> str:
    """A full stop where there is none: without it the model repeats itself."""
    if piece.endswith(_FINAL):
        return piece
    return piece.rstrip(",;:-") + "."
