"""ORPHEUS_VOICES: what a file may say, and the sentence for each mistake in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orpheus.errors import BadRequest, SetupError
from orpheus.settings import load_settings
from orpheus.voices import OwnVoices, Voice, Voices, voices_of
from orpheus.voices_file import MAX_FILE_BYTES, in_one_line

RONAN = Voice("ronan")


def own(given: str) -> OwnVoices:
    voices = load_settings(voices=given).own_voices
    assert voices is not None
    return voices


def told(given: str) -> str:
    """The sentence for a setting that cannot be used, after its value."""
    with pytest.raises(SetupError, match=r"^ORPHEUS_VOICES=") as caught:
        load_settings(voices=given)
    return str(caught.value).partition("cannot be used: ")[2]


@pytest.mark.parametrize(
    ("given", "voices"),
    [
        ("ronan", (RONAN,)),
        ("ronan, anna:de", (RONAN, Voice("anna", "de"))),
        ("Zoë:fr,유나:ko", (Voice("Zoë", "fr"), Voice("유나", "ko"))),
        ("Arabic (Female):ar", (Voice("Arabic (Female)", "ar"),)),
        ("- id: ronan\n", (RONAN,)),
        ("voices:\n- id: ronan\n", (RONAN,)),
        ("[{id: ronan}]", (RONAN,)),
        ('{"voices": [{"id": "ronan"}]}', (RONAN,)),
        ("- id: on\n  language: no\n", (Voice("on", "no"),)),  # neither is true nor false
        ("- id: 7\n  language: EN\n", (Voice("7"),)),
        ("- id: a\n  language: pt-BR\n", (Voice("a", "pt"),)),
        ("- id: a\n  language: yue\n", (Voice("a", "yue"),)),
        ("- id: a\n  aliases: alloy, echo\n", (Voice("a", aliases=("alloy", "echo")),)),
        ("- id: a\n  aliases:\n", (Voice("a"),)),
        ("- id: a\n  tags: [<laugh>, sigh]\n", (Voice("a", own_tags=("laugh", "sigh")),)),
        ("- id: a\n  tags: none\n", (Voice("a", own_tags=()),)),
        ("- id: a\n  prompt_name:\n", (Voice("a", prompt_name=""),)),
        ("- id: a\n  prompt_name: None\n", (Voice("a", prompt_name=""),)),
        ("- id: می\u200cنا\n  language: fa\n", (Voice("می\u200cنا", "fa"),)),
        ("- id: a\n  prompt_name: می\u200cنا\n", (Voice("a", prompt_name="می\u200cنا"),)),
        ("- id: 👩\u200d🚀\n", (Voice("👩\u200d🚀"),)),
        ("- id: a\n  prompt_name: Martin - Happy\n", (Voice("a", prompt_name="Martin - Happy"),)),
        ("- id: a\n  prompt: '[{name}] {text}'\n", (Voice("a", form="[{name}] {text}"),)),
        (
            "- {id: a, name: Anna, gender: neutral, sample: Hi}\n",
            (Voice("a", "en", "neutral", (), "Anna", sample="Hi"),),
        ),
        ("- &a {id: a, gender: male}\n- {<<: x, id: b}\n", None),
    ],
    ids=str,
)
def test_a_voice_may_be_declared_in_many_ways(given: str, voices: tuple[Voice, ...] | None) -> None:
    if voices is None:
        assert "there is no such field" in told(given) or "the fields are" in told(given)
    else:
        assert own(given) == OwnVoices(voices)


def test_the_published_voices_are_replaced_unless_they_are_to_stay() -> None:
    assert not own("ronan").with_published
    assert own("+ronan").with_published
    assert own("published: true\nvoices: [{id: ronan}]\n").with_published
    assert [voice.id for voice in voices_of("embedded", own("ronan")).all] == ["ronan"]
    extended = voices_of("embedded", own("+ronan"))
    assert [voice.id for voice in extended.all][:3] == ["tara", "ronan", "leah"]
    assert extended.default.id == "tara"


def test_one_of_them_is_the_default_or_else_the_first() -> None:
    assert voices_of("embedded", own("ronan,anna")).default.id == "ronan"
    marked = own("- id: ronan\n- {id: anna, default: true}\n")
    assert voices_of("embedded", marked).default.id == "anna"
    assert voices_of("embedded", marked).find("default").id == "anna"


def test_a_voice_of_ones_own_takes_the_place_of_a_published_one() -> None:
    voices = voices_of("embedded", own("published: true\nvoices: [{id: Tara, name: Tara at home}]\n"))
    assert voices.find("tara").name == "Tara at home"
    assert [voice.id.lower() for voice in voices.all].count("tara") == 1


def test_openai_names_find_a_voice_of_the_same_gender_or_the_one_that_claims_them() -> None:
    file = "- {id: a, gender: female}\n- {id: b, gender: male, aliases: [alloy]}\n- {id: c, gender: male}\n"
    voices = voices_of("embedded", own(file))
    assert voices.find("ALLOY").id == "b"
    assert voices.find("nova").id == "a"
    assert {voices.find(name).id for name in ("ash", "ballad", "onyx", "echo")} == {"b", "c"}
    assert set(voices.aliases) >= {"alloy", "shimmer", "marin"}
    assert voices_of("embedded", own("x,y")).find("nova").id in ("x", "y")  # of a gender nobody declared


def test_a_voice_of_ones_own_keeps_its_name_where_a_published_one_answers_to_it_too() -> None:
    voices = voices_of("someone/orpheus-3b-korean-ft.gguf", own("+Yuna:ko"))
    assert voices.find("yuna").id == "Yuna"
    assert voices.find("유나").id == voices.default.id == "유나"
    assert voices.aliases["junseo"] == "준서"
    assert "yuna" not in voices.aliases


def test_an_openai_name_that_is_a_voice_of_its_own_is_no_other_name_of_it() -> None:
    voices = voices_of("embedded", own("Alloy,echo2"))
    assert voices.find("alloy").id == "Alloy"
    assert "alloy" not in voices.aliases
    assert "echo" in voices.aliases


@pytest.mark.parametrize("asked", ["José María", "JOSE\u0301 MARI\u0301A", " josé\tmaría "])
def test_a_name_is_found_however_its_accents_and_spaces_are_written(asked: str) -> None:
    assert voices_of("embedded", own("ronan,Jose\u0301 María:es")).find(asked).language == "es"


def test_an_unknown_voice_is_told_of_many_only_some() -> None:
    voices = voices_of("embedded", own(",".join(f"voice{number}" for number in range(1_000))))
    with pytest.raises(BadRequest) as caught:
        voices.find("nobody")
    assert "voice0, voice1, " in str(caught.value)
    assert "and 960 more, which /v1/audio/voices lists" in str(caught.value)


def test_a_bomb_of_aliases_in_the_name_of_a_field_does_not_go_off() -> None:
    bomb = "&a0 [x, x]"
    for level in range(1, 60):
        bomb = f"{bomb}, &a{level} [*a{level - 1}, *a{level - 1}]"
    assert "write the name of a field" in told(f"? [{bomb}]\n: x\n")


def test_a_file_is_read_from_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "my voices.yml"
    path.write_bytes("\ufeff- id: Zoë\n".encode())  # as Windows' editors write it
    assert own(str(path)) == OwnVoices((Voice("Zoë"),))
    monkeypatch.chdir(tmp_path)
    assert own("my voices.yml") == OwnVoices((Voice("Zoë"),))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert own("~/my voices.yml") == OwnVoices((Voice("Zoë"),))
    monkeypatch.setenv("ORPHEUS_VOICES", "my voices.yml")
    assert load_settings().own_voices == OwnVoices((Voice("Zoë"),))


def test_another_machine_gets_what_is_in_the_file_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "voices.yaml"
    path.write_text("published: true\nvoices:\n- id: Zoë\n  sample: |\n    One.\n    Two.\n")
    line = in_one_line(str(path))
    assert "\n" not in line
    assert own(line) == own(str(path))
    assert in_one_line("ronan,anna:de") == "ronan,anna:de"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("- id: a\n\n- id: b\n  gender: femal\n", "line 4, voices[2].gender: input should be 'female', 'male' or"),
        ("- id: a\n  languge: de\n", "line 2, voices[1].languge: there is no such field; perhaps language is meant."),
        ("- id: a\n  age: 3\n", "line 2, voices[1].age: the fields are id, name, language,"),
        ("voises: []\n", "line 1, voises: there is no such field; perhaps voices is meant."),
        ("- name: x\n", "line 1, voices[1].id: it is missing."),
        ("# nothing\n", "voices: it is missing."),
        ("voices:\n", "line 1, voices: write a list here."),
        ("voices: []\n", "line 1, voices: list should have at least 1 item"),
        ("voices: {a: b}\n", "line 1, voices: write a list here."),
        ("just words\n", "write fields such as id: ronan here."),
        ("- ronan\n- anna\n", "line 1, voices[1]: write fields such as id: ronan here."),
        ("- id: a\n  id: b\n", "line 2, voices[1].id: it is there twice."),
        ("- id: a\n- id: A\n", "line 2, voices[2].id: 'a' is already a name of the voice 'a'."),
        ("- id: a\n  aliases: [b]\n- id: c\n  aliases:\n  - d\n  - B\n", "line 6, voices[2].aliases[2]: 'b' is already"),
        ("- id: a\n  aliases: [A]\n", "line 2, voices[1].aliases[1]: 'a' is already"),
        ("- id: a\n  aliases: {b: c}\n", "line 2, voices[1].aliases: write a list here."),
        ("- id: [a]\n", "line 1, voices[1].id: write a text here."),
        ("- id: ' '\n", "line 1, voices[1].id: ' ': use letters"),
        ("- id: <a>\n", "line 1, voices[1].id: '<a>': use letters, digits and spaces, without < > | { }."),
        ("- id: " + "a" * 81 + "\n", "line 1, voices[1].id: string should have at most 80 characters"),
        ("- id: a\n  language: english\n", "line 2, voices[1].language: 'english': English is 'en'."),
        ("- id: a\n  language: jp\n", "line 2, voices[1].language: 'jp': Japanese is 'ja'."),
        ("- id: a\n  language: xx\n", "'xx': use a code of ISO 639, such as en, ar, tr or yue."),
        ("- id: a\n  language: eng\n", "line 2, voices[1].language: 'eng': English is 'en'."),
        ("a:cmn", "voices[1].language: 'cmn': Chinese is 'zh'."),
        ("- id: \u200d\n", "use letters"),
        ("- id: a\u202eb\n", "use letters"),
        ("- id: José\n- id: Jose\u0301\n", "line 2, voices[2].id: 'josé' is already a name of the voice 'José'."),
        ("- id: Default\n", "line 1, voices[1].id: 'Default': requests that name no voice mean it"),
        ("- id: a\n  aliases: [b, default]\n", "line 2, voices[1].aliases[2]: 'default': requests that name no voice"),
        ("- id: a\n  language: ''\n", "line 2, voices[1].language: '': use a code"),
        ("- id: a\n  default: maybe\n", "line 2, voices[1].default: 'maybe' is not true or false."),
        ("- {id: a, default: yes}\n- {id: b, default: yes}\n", "line 2, voices[2].default: only one voice can be"),
        ("- id: a\n  tags: ['12']\n", "line 2, voices[1].tags[1]: '12': a tag is a word of at most 18 characters"),
        ("- id: a\n  tags: [laugh, b>c]\n", "line 2, voices[1].tags[2]: 'b>c': a tag is"),
        ("- id: a\n  sample: ''\n", "line 2, voices[1].sample: string should have at least 1 character"),
        ("- id: a\n  prompt_name: <custom_token_3>\n", "line 2, voices[1].prompt_name: '<custom_token_3>': a name has"),
        ("- id: a\n  prompt: hello\n", "line 2, voices[1].prompt: 'hello': it must have {text} once"),
        ("- id: a\n  prompt: '{text}{text}'\n", "line 2, voices[1].prompt: '{text}{text}': it must have {text} once"),
        ("- id: a\n  prompt: '{voice}: {text}'\n", "it can have {text} and {name} in it, not {voice}."),
        ("- id: [\n", "line 2: expected the node content"),
        ("- id: a\n\tname: b\n", "line 2: found character '\\t'"),
        ("- id: *a\n", "line 1: found undefined alias 'a'."),
        ("&a [*a]\n", "it is nested too deeply"),
        ("[\n" * 5_000, "it is nested too deeply"),
        ("- [" + "a," * 60_000 + "]\n", "it has too many values"),
        ("- id: a\0\n", "line 1: unacceptable character #x0000"),
        ("- id: a\n- id: b\n  name: \a\n", "line 3: unacceptable character #x0007"),
        ("- id: a\n---\n- id: b\n", "line 2: expected a single document in the stream, but found another"),
        ("- id: a\n  ? [b]\n  : c\n", "line 2: write the name of a field before the colon, not a list."),
        ("a,,b", "voices[2].id: '': use letters"),
        ("ronan:klingon", "voices[1].language: 'klingon': use a code"),
        ("nothing.yaml", "it cannot be read (No such file or directory); name a YAML file"),
        ("/", "it cannot be read (Is a directory)"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_each_mistake_is_told_with_its_line_and_field(given: str, sentence: str) -> None:
    assert sentence in told(given)


def test_a_file_that_is_no_list_of_voices_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "voices.yaml"
    path.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    assert f"the file has more than {MAX_FILE_BYTES} bytes" in told(str(path))
    path.write_bytes("- id: é\n".encode("latin1"))
    assert "byte 6 is not UTF-8: save the file as UTF-8" in told(str(path))


def test_a_long_setting_is_not_repeated_in_its_error() -> None:
    with pytest.raises(SetupError) as caught:
        load_settings(voices="- id: a\n" * 1_000)
    assert len(str(caught.value)) < 400


def test_the_voices_of_a_model_are_made_once() -> None:
    assert voices_of("embedded", own("ronan")) is voices_of("embedded", own("ronan"))
    assert isinstance(voices_of("embedded"), Voices)
