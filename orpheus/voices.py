"""The name of a voice in a request → a voice of the model that is served.

A voice is only a name that the model was trained on, written before the text. Each published model speaks one or two
languages, so a voice can be known and still not be available. A model of one's own has voices of its own
(voices_file.py), which replace the published ones or join them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import PurePath

from orpheus.errors import BadRequest

# The tags each published model was tuned on (Orpheus-TTS, multilingual release notes); Hindi has none yet.
# <giggle> comes from orpheus-tts-local: the English model follows it.
TAGS: Mapping[str, tuple[str, ...]] = {
    "en": ("laugh", "chuckle", "sigh", "cough", "sniffle", "groan", "yawn", "gasp", "giggle"),
    "fr": ("chuckle", "cough", "gasp", "groan", "laugh", "sigh", "sniffle", "whimper", "yawn"),
    "de": ("chuckle", "cough", "gasp", "groan", "laugh", "sigh", "sniffle", "yawn"),
    "es": ("groan", "chuckle", "gasp", "resoplido", "laugh", "yawn", "cough"),
    "it": ("sigh", "laugh", "cough", "sniffle", "groan", "yawn", "gemito", "gasp"),
    "ko": ("한숨", "헐", "헛기침", "훌쩍", "하품", "낄낄", "신음", "작은 웃음", "기침", "으르렁"),
    "zh": ("嬉笑", "轻笑", "呻吟", "大笑", "咳嗽", "抽鼻子", "咳"),
    "hi": (),
}


def compared(name: str) -> str:
    """A name as it is compared: in lower case, its accents composed, with single spaces."""
    return " ".join(unicodedata.normalize("NFC", name).lower().split())


@dataclass(frozen=True)
class Voice:
    id: str  # what a request asks for
    language: str = "en"  # ISO 639
    gender: str | None = None  # "female" | "male" | "neutral"; None if nobody says
    aliases: tuple[str, ...] = ()  # other names a request may use
    label: str | None = None  # shown to people; None: the id
    prompt_name: str | None = (
        None  # what the model was trained to read before the text; "" is nothing, None the id
    )
    form: str | None = None  # of its prompt, see prompt.py; None: the published one
    own_tags: tuple[str, ...] | None = None  # None: those published for its language
    sample: str | None = None  # a line that shows it

    @property
    def name(self) -> str:
        return self.label or self.id

    @property
    def speaker(self) -> str:
        """What is written before the text; "" for a model with one voice and no name for it."""
        return self.id if self.prompt_name is None else self.prompt_name

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags it follows."""
        return TAGS.get(self.language, ()) if self.own_tags is None else self.own_tags

    @property
    def ascii(self) -> str:
        """Its id, or for clients that cannot send it another name; the id if there is none in ASCII."""
        return next((name for name in (self.id, *self.aliases) if name.isascii()), self.id)

    @property
    def names(self) -> tuple[str, ...]:
        """All names that a request may use, as they are compared."""
        return tuple(map(compared, (self.id, *self.aliases)))


@dataclass(frozen=True)
class OwnVoices:
    """What ORPHEUS_VOICES declares."""

    voices: tuple[Voice, ...]
    with_published: bool = False  # beside the published voices of the model, which they otherwise replace
    default: Voice | None = None  # None: the first


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
        Voice("유나", "ko", "female", ("yuna",)),
        Voice("준서", "ko", "male", ("junseo",)),
        Voice("ऋतिका", "hi", "female", ("ritika",)),
        Voice("长乐", "zh", "female", ("changle",)),
        Voice("白芷", "zh", "female", ("baizhi",)),
        Voice("javi", "es", "male"),
        Voice("sergio", "es", "male"),
        Voice("maria", "es", "female"),
        Voice("pietro", "it", "male"),
        Voice("giulia", "it", "female"),
        Voice("carlo", "it", "male"),
    )
}
MOST_NAMED = 40  # voices in an error: a file may declare a thousand
DEFAULT_VOICE = "default"  # what a request asks for that names none
USUAL_VOICE = "tara"  # what many clients name without a choice: stands for the default of a model that has no such voice

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


def languages_of(model_name: str) -> tuple[str, ...]:
    """The languages of a model, by its name in ORPHEUS_MODEL; English if the name does not tell."""
    file = PurePath(model_name.split("@")[0]).name.lower().replace("-", "_")
    return next(
        model.languages for model in PUBLISHED_MODELS if any(keyword in file for keyword in model.keywords)
    )


class Voices:
    """The voices of one model, and what a request may call them."""

    def __init__(self, voices: Iterable[Voice], default: Voice | None = None, *, published: bool) -> None:
        """`published`: whether they are those of a published model alone, so that another may have the one asked for."""
        listed = list(voices)
        self.default = default or listed[0]
        self.all = (self.default, *(voice for voice in listed if voice is not self.default))
        self.published = published
        self._by_name = {name: voice for voice in reversed(self.all) for name in voice.names}

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(voice.language for voice in self.all))

    @cached_property
    def aliases(self) -> Mapping[str, str]:
        """Every other name of a voice, OpenAI's among them → its id."""
        own = {name: voice.id for voice in self.all for name in voice.aliases}
        ids = {compared(voice.id) for voice in self.all}
        return {name: self.find(name).id for name in OPENAI_VOICES if name not in ids} | own

    @cached_property
    def tags(self) -> Mapping[str, tuple[str, ...]]:
        """The tags of each language: all that one of its voices follows."""
        return {
            language: tuple(
                dict.fromkeys(tag for voice in self.all if voice.language == language for tag in voice.tags)
            )
            for language in self.languages
        }

    def find(self, name: str) -> Voice:
        """The voice with this name: its id, one of its aliases, or one of OpenAI's names, in upper or lower case.

        Raises BadRequest: for an unknown name with the voices to choose from, for a voice of another published model
        with the model to load.
        """
        key = compared(name)
        if key in self._by_name:
            return self._by_name[key]
        if key in OPENAI_VOICES:
            return self._like(VOICES[OPENAI_VOICES[key]], list(OPENAI_VOICES).index(key))
        if key in (DEFAULT_VOICE, USUAL_VOICE):
            return self.default
        known = ", ".join(voice.ascii for voice in self.all[:MOST_NAMED])
        if (more := len(self.all) - MOST_NAMED) > 0:
            known += f" and {more} more, which /v1/audio/voices lists"
        other = next((voice for voice in VOICES.values() if key in voice.names), None)
        if other is not None and self.published:
            raise BadRequest(
                f"The voice {name.strip()!r} belongs to another model: set ORPHEUS_MODEL to "
                f"{model_of(other).repository}. Loaded now: {known}.",
                param="voice",
                code="voice_not_loaded",
            )
        shown = name if len(name) <= 60 else name[:60] + "…"
        raise BadRequest(
            f"There is no voice {shown!r}. Use one of {known}, or an OpenAI name such as alloy.",
            param="voice",
            code="voice_not_found",
        )

    def find_unmute(self, name: str | None) -> tuple[Voice, bool]:
        """The voice for a name in unmute's list, or for any name of `find`; and whether the name was known.

        An unknown name gets the default voice: unmute's own server does the same, and its users expect it.
        """
        if not name:
            return self.default, True
        try:
            return self.find(name), True
        except BadRequest:
            file = PurePath(name).name.lower()
        for index, (start, voice) in enumerate(UNMUTE_VOICES.items()):
            if file.startswith(start):
                return self._like(VOICES[voice], index), True
        return self.default, False

    def _like(self, wanted: Voice, index: int) -> Voice:
        """`wanted`, or if it is not here, one of the same gender, chosen by `index`."""
        if wanted in self.all:
            return wanted
        candidates = [voice for voice in self.all if voice.gender == wanted.gender] or self.all
        return candidates[index % len(candidates)]


@cache
def published_voices(languages: tuple[str, ...]) -> Voices:
    """The voices of the published model that speaks these languages."""
    return Voices((voice for voice in VOICES.values() if voice.language in languages), published=True)


def voices_of(model_name: str, own: OwnVoices | None = None) -> Voices:
    """The voices of a model, by its name in ORPHEUS_MODEL and what ORPHEUS_VOICES declares."""
    return _voices(languages_of(model_name), own)


@cache
def _voices(languages: tuple[str, ...], own: OwnVoices | None) -> Voices:
    published = published_voices(languages)
    if own is None:
        return published
    if not own.with_published:
        return Voices(own.voices, own.default, published=False)
    taken = {name for voice in own.voices for name in voice.names}
    others = [
        replace(voice, aliases=tuple(name for name in voice.aliases if compared(name) not in taken))
        for voice in published.all
        if compared(voice.id) not in taken
    ]
    default = own.default or next((voice for voice in others if voice.id == published.default.id), None)
    return Voices([*own.voices, *others], default, published=True)


def model_of(voice: Voice) -> PublishedModel:
    """The published model that one of the published voices belongs to."""
    return next(model for model in PUBLISHED_MODELS if voice.language in model.languages)
