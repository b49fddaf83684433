import pytest

from orpheus.errors import BadRequest
from orpheus.voices import OPENAI_VOICES, VOICES, find_voice

OPENAI = [
    "alloy",
    "ash",
    "ballad",
    "cedar",
    "coral",
    "echo",
    "fable",
    "marin",
    "nova",
    "onyx",
    "sage",
    "shimmer",
    "verse",
]


@pytest.mark.parametrize("name", [*VOICES, *OPENAI, "TARA", " Nova "])
def test_every_name_a_client_may_send_is_a_voice(name: str) -> None:
    assert find_voice(name).id in VOICES


def test_the_thirteen_openai_names_are_all_there() -> None:
    assert sorted(OPENAI_VOICES) == sorted(OPENAI)


@pytest.mark.parametrize("name", ["", "bob", "tara:", "../etc", "x" * 10_000])
def test_an_unknown_voice_is_a_400_that_lists_the_known(name: str) -> None:
    with pytest.raises(BadRequest, match="tara, leah") as caught:
        find_voice(name)
    assert caught.value.param == "voice"
    assert len(str(caught.value)) < 400
