"""The name of a voice in a request → a voice of the loaded model.

A voice is only a name that the model was trained on, written before the text. Each published model speaks one or two
languages, so a voice can be known and still not be available.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from orpheus.errors import BadRequest


@dataclass(frozen=True)
class Voice:
    id: str  # the name the model was trained on
    language: str  # ISO 639-1
    gender: str  # "female" | "male"
    ascii: str = ""  # a second spelling, for clients that cannot send `id`


@dataclass(frozen=True)
class PublishedModel:
    """A published model and the languages it speaks."""

    repository: str
    keywords: tuple[
        str, ...
    ]  # in the names of its quantizations and of the makers' own; "" for the English model
    languages: tuple[str, ...]


PUBLISHED_MODELS = (
    PublishedModel("lex-au/Orpheus-3b-French-FT-Q8_0.gguf", ("french", "3b_fr_"), ("fr",)),
    PublishedModel("lex-au/Orpheus-3b-German-FT-Q8_0.gguf", ("german", "3b_de_"), ("de",)),
    PublishedModel("lex-au/Orpheus-3b-Korean-FT-Q8_0.gguf", ("korean", "3b_ko_"), ("ko",)),
    PublishedModel("lex-au/Orpheus-3b-Hindi-FT-Q8_0.gguf", ("hindi", "3b_hi_"), ("hi",)),
    PublishedModel("lex-au/Orpheus-3b-Chinese-FT-Q8_0.gguf", ("chinese", "3b_zh_"), ("zh",)),
    PublishedModel(
        "lex-au/Orpheus-3b-Italian_Spanish-FT-Q8_0.gguf", ("italian_spanish", "3b_es_it_"), ("es", "it")
    ),
    PublishedModel("lex-au/Orpheus-3b-FT-Q8_0.gguf", ("",), ("en",)),
)

# From the most to the least realistic (Orpheus-TTS README); the first of a language is its default.
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

# OpenAI's thirteen voices, which clients send by default → an English voice of the same gender. For other languages
# they are spread over the model's voices of that gender.
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
# The voices in unmute's voices.yaml, by the beginning of their file names; genders as listed there.
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


def languages_of(model_name: str) -> tuple[str, ...]:
    """The languages of a model, by its name in ORPHEUS_MODEL; English if the name does not tell."""
    file = PurePath(model_name.split("@")[0]).name.lower().replace("-", "_")
    return next(
        model.languages for model in PUBLISHED_MODELS if any(keyword in file for keyword in model.keywords)
    )


def voices_of(languages: tuple[str, ...]) -> list[Voice]:
    """The voices of these languages, the default first."""
    return [voice for voice in VOICES.values() if voice.language in languages]


def find_voice(name: str, languages: tuple[str, ...] = ("en",)) -> Voice:
    """The voice with this name: one of Orpheus', its ASCII spelling, or one of OpenAI's, in upper or lower case.

    Raises BadRequest: for an unknown name with the voices to choose from, for a voice that is not loaded with the model
    to load.
    """
    loaded = voices_of(languages)
    key = name.strip().lower()
    if key in OPENAI_VOICES:
        return _same_gender(VOICES[OPENAI_VOICES[key]], loaded, list(OPENAI_VOICES).index(key))
    if key == DEFAULT_VOICE and loaded[0].id != DEFAULT_VOICE:
        return loaded[0]  # a request without a voice asks for tara, whatever language is loaded
    voice = VOICES.get(_ASCII.get(key, key))
    if voice is None:
        shown = name if len(name) <= 60 else name[:60] + "…"
        raise BadRequest(
            f"There is no voice {shown!r}. Use one of {', '.join(v.ascii or v.id for v in loaded)}, or an "
            "OpenAI name such as alloy.",
            param="voice",
            code="voice_not_found",
        )
    if voice not in loaded:
        model = next(model for model in PUBLISHED_MODELS if voice.language in model.languages)
        raise BadRequest(
            f"The voice {name.strip()!r} belongs to another model: set ORPHEUS_MODEL to "
            f"{model.repository}. Loaded now: {', '.join(v.ascii or v.id for v in loaded)}.",
            param="voice",
            code="voice_not_loaded",
        )
    return voice


def _same_gender(wanted: Voice, loaded: list[Voice], index: int) -> Voice:
    """`wanted`, or if its model is not loaded, one of the same gender, chosen by `index`."""
    if wanted in loaded:
        return wanted
    candidates = [voice for voice in loaded if voice.gender == wanted.gender] or loaded
    return candidates[index % len(candidates)]


def unmute_voice(name: str | None, languages: tuple[str, ...] = ("en",)) -> tuple[Voice, bool]:
    """The voice for a name in unmute's list, or for any name of `find_voice`; and whether the name was known.

    An unknown name gets the default voice: unmute's own server does the same, and its users expect it.
    """
    loaded = voices_of(languages)
    if not name:
        return loaded[0], True
    try:
        return find_voice(name, languages), True
    except BadRequest:
        file = PurePath(name).name.lower()
    for index, (start, voice) in enumerate(UNMUTE_VOICES.items()):
        if file.startswith(start):
            return _same_gender(VOICES[voice], loaded, index), True
    return loaded[0], False
