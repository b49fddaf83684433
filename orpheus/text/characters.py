"""Normalizes characters: any text → text in the characters the model was trained on.

Control characters, invisible characters and emoji are removed, quotes and dashes become ASCII, spaces are collapsed.
Line breaks are kept.
"""

from __future__ import annotations

import re
import unicodedata

# Punctuation that the model was not trained on makes it skip words (Orpheus-FastAPI #71).
_REPLACEMENTS = {
    "‘": "'", "’": "'", "‚": "'", "‛": "'", "“": '"', "”": '"', "„": '"', "‟": '"',
    "…": "...", "‐": "-", "‑": "-", "–": "-", "—": " - ", "―": " - ", "→": " - ", "⇒": " - ",
    "‼": "!", "⁉": "?", "〜": "~", "⁓": "~", "−": "-",
}  # fmt: skip
_SPOKEN_SYMBOLS = frozenset("°©®™№℃℉")  # read aloud; other symbols of category So are pictures
_LINE_BREAKS = frozenset("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
_JOINERS = "\u200c\u200d"  # zero-width; part of the spelling of Hindi and Persian words, and of emoji
_KEYCAP, _VARIATION_SELECTORS = "\u20e3", range(0xFE00, 0xFE10)
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_STYLED_LETTERS = (  # 𝓗, ﬁ, ７, Ｈ, ｈ; not full-width punctuation, which is ordinary in Chinese
    range(0x1D400, 0x1D800), range(0xFB00, 0xFB07), range(0xFF10, 0xFF1A), range(0xFF21, 0xFF3B), range(0xFF41, 0xFF5B),
)  # fmt: skip
_PICTURE = "\x1f"  # stands for an emoji until the spaces around it are known
# On one letter. Vietnamese needs two; NFC takes two seconds to sort 30,000.
MAX_COMBINING_MARKS = 4

_JOINER_RUN = re.compile(f"([{_JOINERS}])[{_JOINERS}]+")
_STRAY_JOINER = re.compile(rf"(?<![^\x00-\x7f])[{_JOINERS}]|[{_JOINERS}](?![^\x00-\x7f])")
_GUILLEMETS = re.compile("« ?| ?»")
_GAP = re.compile(f"[ {_PICTURE}]+")
_SPACES_AROUND_BREAK = re.compile(r" ?\n ?")


class _TranslationTable(dict[int, str | None]):
    """For str.translate; filled as characters are met."""

    def __missing__(self, code: int) -> str | None:
        self[code] = replacement = _replacement(chr(code))
        return replacement


def _replacement(character: str) -> str | None:
    code, category = ord(character), unicodedata.category(character)
    if character in _LINE_BREAKS:
        return "\n"
    if character in _REPLACEMENTS:
        return _REPLACEMENTS[character]
    if any(code in block for block in _STYLED_LETTERS):
        return unicodedata.normalize("NFKC", character)
    if character in _JOINERS or character in _SPOKEN_SYMBOLS:
        return character
    if character == _KEYCAP or code in _VARIATION_SELECTORS:
        return None
    if category in ("Cf", "Me"):  # zero-width and direction marks, soft hyphens, enclosing circles
        return None
    if category == "So" or code in _SKIN_TONES:
        return _PICTURE
    # Co is private use: tags.py puts its placeholders there.
    if category in ("Cc", "Cn", "Co", "Cs", "Zs", "Zl", "Zp"):
        return " "
    return character


_TRANSLATIONS = _TranslationTable()


def normalize(text: str) -> str:
    """`text` in NFC with single spaces, without emoji, controls and invisible characters. Linear in its length."""
    text = text.replace("\r\n", "\n").translate(_TRANSLATIONS)
    if not text.isascii():
        text = _STRAY_JOINER.sub("", _JOINER_RUN.sub(r"\1", text))
        text = unicodedata.normalize("NFC", _limit_combining_marks(text))
    text = _SPACES_AROUND_BREAK.sub("\n", _GAP.sub(_gap, text)).strip()
    return _GUILLEMETS.sub('"', text)


def _gap(gap: re.Match[str]) -> str:
    """One space, or none between an emoji and the punctuation after it: "great 🎉!" becomes "great!"."""
    before_punctuation = gap.string[gap.end() : gap.end() + 1] in tuple(".,;:!?)")
    return "" if _PICTURE in gap[0] and before_punctuation else " "


def _limit_combining_marks(text: str) -> str:
    """Keep at most MAX_COMBINING_MARKS in a row."""
    combining = unicodedata.combining
    if sum(map(bool, map(combining, text))) <= MAX_COMBINING_MARKS:
        return text
    kept, run = [], 0
    for character in text:
        run = run + 1 if combining(character) else 0
        if run <= MAX_COMBINING_MARKS:
            kept.append(character)
    return "".join(kept)
