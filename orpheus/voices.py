"""A voice name as a client says it → an Orpheus voice of the checkpoint in use.

Knows nothing of audio: a voice is a name the model was trained on, put before the text. Each language is a
checkpoint of its own, so a voice can be known and still not be there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from orpheus.errors import BadRequest


@dataclass(frozen=True)
class Voice:
    id: str  # what the model was trained on
    language: str  # ISO 639-1
    gender: str  # "female" | "male"
    ascii: str = ""  # another spelling, for clients that cannot send the first


@dataclass(frozen=True)
class PublishedModel:
    """A published model and the languages it speaks."""

    repository: str
    mark: str  # what its file names have in common, in every quantisation; empty for the English one
    languages: tuple[str, ...]


PUBLISHED_MODELS = (
    PublishedModel("lex-au/Orpheus-3b-French-FT-Q8_0.gguf", "french", ("fr",)),
    PublishedModel("lex-au/Orpheus-3b-German-FT-Q8_0.gguf", "german", ("de",)),
    PublishedModel("lex-au/Orpheus-3b-Korean-FT-Q8_0.gguf", "korean", ("ko",)),
    PublishedModel("lex-au/Orpheus-3b-Hindi-FT-Q8_0.gguf", "hindi", ("hi",)),
    PublishedModel("lex-au/Orpheus-3b-Chinese-FT-Q8_0.gguf", "chinese", ("zh",)),
    PublishedModel("lex-au/Orpheus-3b-Italian_Spanish-FT-Q8_0.gguf", "italian_spanish", ("es", "it")),
    PublishedModel("lex-au/Orpheus-3b-FT-Q8_0.gguf", "", ("en",)),
)

# In the order of realism their makers give (Orpheus-TTS README); the first of a language is its default.
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
        Voice("pierre", "fr", "male"),
        Voice("amelie", "fr", "female"),
        Voice("marie", "fr", "female"),
        Voice("jana", "de", "female"),
        Voice("thomas", "de", "male"),
        Voice("max", "de", "male"),
        Voice("유나", "ko", "female", "yuna"),
        Voice("준서", "ko", "male", "junseo"),
        Voice("ऋतिका", "hi", "female", "ritika"),
        Voice("长乐", "zh", "female", "changle"),
        Voice("白芷", "zh", "female", "baizhi"),
        Voice("javi", "es", "male"),
        Voice("sergio", "es", "male"),
        Voice("maria", "es", "female"),
        Voice("pietro", "it", "male"),
        Voice("giulia", "it", "female"),
        Voice("carlo", "it", "male"),
    )
}
DEFAULT_VOICE = "tara"

# OpenAI's thirteen names, which clients send unless told otherwise, to an English voice of the same gender.
# Elsewhere they are spread over the checkpoint's own voices of that gender.
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
# Names in the orchestrator's voices.yaml, by how their file's name begins; genders of its makers' own list.
UNMUTE_VOICES: dict[str, str] = {
    "p329_022": "tara",
    "519189": "dan",
    "440565": "mia",
    "developer-1": "leo",
    "ex04_narration": "jess",
    "degaulle-2": "zac",
    "developpeuse-3": "zoe",
    "fabieng": "leo",
    "default_voice": "tara",
    "barack_demo": "leo",
}
_ASCII = {voice.ascii: voice.id for voice in VOICES.values() if voice.ascii}


def languages_of(model: str) -> tuple[str, ...]:
    """The languages of a model as ORPHEUS_MODEL names it; English where the name says nothing."""
    name = PurePath(model.split("@")[0]).name.lower().replace("-", "_")
    return next(checkpoint.languages for checkpoint in PUBLISHED_MODELS if checkpoint.mark in name)


def voices_of(languages: tuple[str, ...]) -> list[Voice]:
    """The voices that can speak now, the default first."""
    return [voice for voice in VOICES.values() if voice.language in languages]


def find_voice(name: str, languages: tuple[str, ...] = ("en",)) -> Voice:
    """The voice of a name: Orpheus' own, its ASCII spelling, or OpenAI's, in any case.

    BadRequest, naming those there are, for an unknown one; naming the setting, for one of another checkpoint.
    """
    here = voices_of(languages)
    key = name.strip().lower()
    if key in OPENAI_VOICES:
        return _openai_voice(key, here)
    if key == DEFAULT_VOICE and here[0].id != DEFAULT_VOICE:
        return here[0]  # what a request without a voice asks for, in whatever language is loaded
    voice = VOICES.get(_ASCII.get(key, key))
    if voice is None:
        shown = name if len(name) <= 60 else name[:60] + "…"
        raise BadRequest(
            f"There is no voice {shown!r}. Use one of {', '.join(v.ascii or v.id for v in here)}, or an "
            "OpenAI name such as alloy.",
            param="voice",
            code="voice_not_found",
        )
    if voice not in here:
        checkpoint = next(c for c in PUBLISHED_MODELS if voice.language in c.languages)
        raise BadRequest(
            f"The voice {name.strip()!r} belongs to another checkpoint: set ORPHEUS_MODEL to "
            f"{checkpoint.repository}. Loaded now: {', '.join(v.ascii or v.id for v in here)}.",
            param="voice",
            code="voice_not_loaded",
        )
    return voice


def _openai_voice(name: str, here: list[Voice]) -> Voice:
    return _alike(VOICES[OPENAI_VOICES[name]], here, list(OPENAI_VOICES).index(name))


def _alike(meant: Voice, here: list[Voice], index: int) -> Voice:
    """`meant`, or where its checkpoint is not loaded one of the same gender."""
    if meant in here:
        return meant
    same = [voice for voice in here if voice.gender == meant.gender] or here
    return same[index % len(same)]


def unmute_voice(name: str | None, languages: tuple[str, ...] = ("en",)) -> tuple[Voice, bool]:
    """The voice of a name in the orchestrator's list, or any of `find_voice`; and whether it was known.

    Never an error: its own server takes the default for what it does not know, and so do its users.
    """
    here = voices_of(languages)
    if not name:
        return here[0], True
    try:
        return find_voice(name, languages), True
    except BadRequest:
        file = PurePath(name).name.lower()
    for index, (start, voice) in enumerate(UNMUTE_VOICES.items()):
        if file.startswith(start):
            return _alike(VOICES[voice], here, index), True
    return here[0], False
