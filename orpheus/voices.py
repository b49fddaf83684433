"""A voice name as a client says it → an Orpheus voice.

Knows nothing of models or audio: a voice is a name the model was trained on, put before the text.
"""

from __future__ import annotations

from dataclasses import dataclass

from orpheus.errors import BadRequest


@dataclass(frozen=True)
class Voice:
    id: str
    language: str  # ISO 639-1
    gender: str  # "female" | "male"


DEFAULT_VOICE = "tara"

# In the order of realism their makers give (Orpheus-TTS README).
VOICES: dict[str, Voice] = {
    voice.id: voice
    for voice in (
        Voice("tara", "en", "female"),
        Voice("leah", "en", "female"),
        Voice("jess", "en", "female"),
        Voice("leo", "en", "male"),
        Voice("dan", "en", "male"),
        Voice("mia", "en", "female"),
        Voice("zac", "en", "male"),
        Voice("zoe", "en", "female"),
    )
}

# OpenAI's thirteen names, which clients send by default, to a voice of the same gender.
OPENAI_VOICES: dict[str, str] = {
    "alloy": "tara",
    "ash": "leo",
    "ballad": "dan",
    "cedar": "zac",
    "coral": "jess",
    "echo": "dan",
    "fable": "leo",
    "marin": "leah",
    "nova": "mia",
    "onyx": "zac",
    "sage": "leah",
    "shimmer": "zoe",
    "verse": "dan",
}


def find_voice(name: str) -> Voice:
    """The voice of a name (Orpheus' or OpenAI's, any case). BadRequest names those there are."""
    key = name.strip().lower()
    voice = VOICES.get(OPENAI_VOICES.get(key, key))
    if voice is None:
        shown = name if len(name) <= 60 else name[:60] + "…"
        raise BadRequest(
            f"There is no voice {shown!r}. Use one of {', '.join(VOICES)}, or an OpenAI name such as alloy.",
            param="voice",
            code="voice_not_found",
        )
    return voice
