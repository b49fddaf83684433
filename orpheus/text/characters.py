"""Normalizes characters: any text → text in the characters the model was trained on.

Control characters, invisible characters and emoji are removed, quotes and dashes become ASCII, letters and digits in
fancy shapes plain ones, spaces are collapsed. Line breaks are kept. HTML entities are gone by then: entities.py.
"""

from __future__ import annotations

import re
import unicodedata

# Punctuation that the model was not trained on makes it skip words (Orpheus-FastAPI #71).
_LOOK_ALIKES = {
    "'": "‘’‚‛´ʹʻʼʽʾʿˈ′‵❛❜❟＇ꞌ՚",
    '"': "“”„‟″‶‴⁗ʺ˝〝〞〟❝❞❠＂",
    "...": "…⋯︙",
    "..": "‥",
    "-": "‐‑‒–−﹘﹣－",
    " - ": "—―→⇒⸺⸻︱",
    "/": "⁄∕",
    "~": "〜⁓～",
    "!": "‼",
    "?": "⁇⁈⁉",
    "s": "ſ",
}
_REPLACEMENTS = {
    character: replacement for replacement, characters in _LOOK_ALIKES.items() for character in characters
}
# Alphabets that font generators use as letters and Unicode does not: small capitals, letters in black shapes.
_REPLACEMENTS |= dict(zip("ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘǫʀꜱᴛᴜᴠᴡʏᴢ", "abcdefghijklmnopqrstuvwyz", strict=True))
_REPLACEMENTS |= {
    chr(first + index): chr(ord("A") + index) for first in (0x1F150, 0x1F170) for index in range(26)
}
_SPOKEN_SYMBOLS = frozenset("°©®™№")  # read aloud; other symbols of category So are pictures
_LINE_BREAKS = frozenset("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
_JOINERS = "\u200c\u200d"  # zero-width; part of the spelling of Hindi and Persian words, and of emoji
_VARIATION_SELECTORS = (range(0x180B, 0x1810), range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0))
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_STYLED = (  # 𝓗, ﬁ, ７, Ｈ, ⓗ, Ⅷ, ㎏, ％; not full-width commas and stops, which are ordinary in Chinese
    range(0x02B0, 0x02B9), range(0x02E0, 0x02E5), range(0x1D2C, 0x1D6B), range(0x2102, 0x2116), range(0x2119, 0x211E),
    range(0x2124, 0x2139), range(0x213C, 0x214A), range(0x2160, 0x2180), range(0x249C, 0x24EA), range(0x3371, 0x33E0), range(0xFB00, 0xFB07),
    range(0xFE50, 0xFE6C), range(0xFF03, 0xFF07), range(0xFF0A, 0xFF0C), range(0xFF0F, 0xFF1A), range(0xFF1C, 0xFF1F),
    range(0xFF20, 0xFF3B), range(0xFF3C, 0xFF3D), range(0xFF3E, 0xFF5B), range(0xFF5C, 0xFF5D), range(0xFF66, 0xFFDD),
    range(0xFFE0, 0xFFE7), range(0x1D400, 0x1D800), range(0x1F110, 0x1F14A),
)  # fmt: skip
_CIRCLED_NUMBERS = (
    range(0x2460, 0x249C),
    range(0x24EA, 0x2500),
    range(0x2776, 0x2794),
    range(0x1F100, 0x1F10B),
)
_BLANK_LETTERS = "\u115f\u1160\u3164\uffa0"  # Hangul fillers: letters that nobody sees or hears
# On a letter that has no precomposed form with them: strokes and heaps of accents, as in Z̷a̷l̷g̷o̷.
_LOOSE_MARKS = re.compile("[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+")
_PICTURE = "\x1f"  # stands for an emoji until the spaces around it are known
# On one letter. Vietnamese needs two; NFC takes two seconds to sort 30,000.
MAX_COMBINING_MARKS = 4

_JOINER_RUN = re.compile(f"([{_JOINERS}])[{_JOINERS}]+")
_STRAY_JOINER = re.compile(rf"(?<![^\x00-\x7f])[{_JOINERS}]|[{_JOINERS}](?![^\x00-\x7f])")
_GUILLEMETS, _SINGLE_GUILLEMETS = re.compile("« ?| ?»"), re.compile("‹ ?| ?›")
# "don`t", but not the ticks around code.
_BACKTICK_APOSTROPHE = re.compile(r"(?<![\w`])([^\W\d_]{1,30})`(?=[^\W\d_]{1,30}(?![\w`]))")
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
    if character in _BLANK_LETTERS:
        return " "
    plain = unicodedata.normalize("NFKC", character)
    if plain != character and any(code in block for block in _STYLED):
        return plain
    if any(code in block for block in _CIRCLED_NUMBERS):
        return f"{_PICTURE}{unicodedata.numeric(character):.0f}{_PICTURE}"
    if character in _JOINERS or character in _SPOKEN_SYMBOLS:
        return character
    if any(code in block for block in _VARIATION_SELECTORS):
        return None
    if category in ("Cf", "Me"):  # zero-width and direction marks, soft hyphens, enclosing circles
        return None
    if category == "So" or code in _SKIN_TONES or character == "ℹ":
        return _PICTURE
    # Co is private use: tags.py puts its placeholders there.
    if category in ("Cc", "Cn", "Co", "Cs", "Zs", "Zl", "Zp"):
        return " "
    return character


_TRANSLATIONS = _TranslationTable()


def normalize(text: str) -> str:
    """`text` in NFC with single spaces, without emoji, controls, invisible characters. Linear in its length."""
    text = text.replace("\r\n", "\n").translate(_TRANSLATIONS)
    if not text.isascii():
        text = _STRAY_JOINER.sub("", _JOINER_RUN.sub(r"\1", text))
        text = _LOOSE_MARKS.sub("", unicodedata.normalize("NFC", _limit_combining_marks(text)))
    if "`" in text:
        text = _BACKTICK_APOSTROPHE.sub(r"\1'", text)
    text = _SPACES_AROUND_BREAK.sub("\n", _GAP.sub(_gap, text)).strip()
    return _SINGLE_GUILLEMETS.sub("'", _GUILLEMETS.sub('"', text))


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
