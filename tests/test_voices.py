import pytest

from orpheus.errors import BadRequest
from orpheus.voices import (
    OPENAI_VOICES,
    PUBLISHED_MODELS,
    VOICES,
    PublishedModel,
    languages_of,
    published_voices,
)

OPENAI = {
    "alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse",
}  # fmt: skip
ENGLISH = [voice.id for voice in published_voices(("en",)).all]


@pytest.mark.parametrize("name", [*ENGLISH, *sorted(OPENAI), "TARA", " Nova "])
def test_every_name_a_client_may_send_is_a_voice(name: str) -> None:
    assert published_voices(("en",)).find(name).id in ENGLISH


def test_there_is_a_voice_for_each_of_the_thirteen_openai_names() -> None:
    assert set(OPENAI_VOICES) == OPENAI


@pytest.mark.parametrize("model", PUBLISHED_MODELS, ids=lambda model: model.languages[0])
def test_every_model_has_a_voice_of_the_same_gender_for_each_openai_name(model: PublishedModel) -> None:
    loaded = published_voices(model.languages).all
    for name, english in OPENAI_VOICES.items():
        voice = published_voices(model.languages).find(name)
        assert voice in loaded
        if any(other.gender == VOICES[english].gender for other in loaded):
            assert voice.gender == VOICES[english].gender


def test_eight_languages_and_their_voices() -> None:
    assert {voice.language for voice in VOICES.values()} == {"en", "fr", "de", "ko", "hi", "zh", "es", "it"}
    assert all(voice.ascii.isascii() for voice in VOICES.values())
    for model in PUBLISHED_MODELS:
        assert published_voices(model.languages).all


@pytest.mark.parametrize(
    ("model", "languages"),
    [
        ("embedded", ("en",)),
        ("lex-au/Orpheus-3b-FT-Q8_0.gguf", ("en",)),
        ("/models/Orpheus-3b-French-FT-Q4_K_M.gguf", ("fr",)),
        ("lex-au/Orpheus-3b-Italian_Spanish-FT-Q8_0.gguf@main", ("es", "it")),
        ("someone/else:orpheus-3b-chinese-ft.gguf", ("zh",)),
        ("/models/my-own.gguf", ("en",)),
    ],
)
def test_the_name_of_a_model_gives_its_languages(model: str, languages: tuple[str, ...]) -> None:
    assert languages_of(model) == languages


@pytest.mark.parametrize(
    ("name", "language"), [("pierre", "French"), ("yuna", "Korean"), ("长乐", "Chinese")]
)
def test_the_error_for_a_voice_of_another_model_names_the_setting(name: str, language: str) -> None:
    with pytest.raises(BadRequest, match=rf"ORPHEUS_MODEL to lex-au/Orpheus-3b-{language}") as caught:
        published_voices(("en",)).find(name)
    assert caught.value.code == "voice_not_loaded"


def test_both_spellings_of_a_name_are_one_voice() -> None:
    assert published_voices(("ko",)).find("yuna") == published_voices(("ko",)).find("유나")
    assert published_voices(("ko",)).find("yuna").id == "유나"


def test_a_request_without_a_voice_gets_the_first_of_the_model() -> None:
    assert published_voices(("fr",)).find("tara").id == "pierre"


@pytest.mark.parametrize("name", ["", "bob", "tara:", "../etc", "x" * 10_000])
def test_an_unknown_voice_is_an_error_that_lists_the_known_ones(name: str) -> None:
    with pytest.raises(BadRequest, match="tara, leah") as caught:
        published_voices(("en",)).find(name)
    assert caught.value.param == "voice"
    assert len(str(caught.value)) < 400
