"""What the agent says without the language model is kept in several languages; this picks one."""

from __future__ import annotations

from collections.abc import Mapping


def in_language(phrases: Mapping[str, str], language: str) -> str:
    """The phrase in `language` (ISO 639), or in English where there is none."""
    return phrases.get(language, phrases["en"])
