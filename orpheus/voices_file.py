"""ORPHEUS_VOICES → the voices of a model of one's own: a YAML file, its text, or a list of names ("ronan,anna:de").

Every mistake is a ValueError of one sentence that names the line and the field. YAML is read by PyYAML, which keeps the
line of every value; it resolves no types, so that the language `no` stays Norwegian and a voice may be called `on`.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from orpheus.errors import shortened
from orpheus.languages import LANGUAGES, MISTAKEN
from orpheus.prompt import NAME, TEXT, has_control
from orpheus.voices import DEFAULT_VOICE, OwnVoices, Voice, compared

MAX_FILE_BYTES = 256 * 1024
MAX_VOICES = 1_000
MAX_NODES = 50_000  # of a file: an alias that contains itself never ends
MAX_TAGS = 256
MAX_TAG_CHARS = 18  # the segmenter of text that is being written waits no longer for a tag's ">"
_NOTHING = ("", "none", "null", "~")  # for a value that is not there
_FILE_ENDINGS = (".yaml", ".yml", ".json")
_TAG = re.compile(r"[^\W\d][\w:.-]*(?: [^\W\d][\w:.-]*)*")
_JOINERS = "\u200c\u200d"  # in names of Persian, of India's languages and of emoji
_FIELD_IN_BRACES = re.compile(r"\{[^{}]*\}|[{}]")


def _language(code: str) -> str:
    code = code.strip().lower().replace("_", "-").partition("-")[0]  # of pt-BR only pt tells how it is read
    if code in LANGUAGES or (len(code) == 3 and code.isascii() and code.isalpha() and code not in MISTAKEN):
        return code
    meant = MISTAKEN.get(code) or next(
        (known for known, language in LANGUAGES.items() if language.name.lower() == code), None
    )
    raise ValueError(
        f"{LANGUAGES[meant].name} is {meant!r}"
        if meant
        else "use a code of ISO 639, such as en, ar, tr or yue"
    )


def _word(text: str) -> str:
    text = " ".join(text.split())
    if not text.strip(_JOINERS) or not _is_printable(text) or re.search(r"[<>|{}]", text):
        raise ValueError("use letters, digits and spaces, without < > | { }")
    if compared(text) == DEFAULT_VOICE:
        raise ValueError(
            "requests that name no voice mean it: call the voice another name, with `default: true`"
        )
    return text


def _prompt_name(text: str) -> str:
    if has_control(text) or not _is_printable(text):
        raise ValueError("a name has no control tokens and no line breaks: those belong in `prompt`")
    return "" if text.strip().lower() in _NOTHING else text


def _is_printable(text: str) -> bool:
    return all(character.isprintable() or character in _JOINERS for character in text)


def _form(form: str) -> str:
    inside = _FIELD_IN_BRACES.findall(form)
    if form.count(TEXT) != 1:
        raise ValueError(f"it must have {TEXT} once, where the text goes; {NAME} stands for the name")
    if unknown := [part for part in inside if part not in (TEXT, NAME)]:
        raise ValueError(f"it can have {TEXT} and {NAME} in it, not {unknown[0]}")
    return form


def _tag(tag: str) -> str:
    tag = tag.strip().removeprefix("<").removesuffix(">")
    if not _TAG.fullmatch(tag) or len(tag) > MAX_TAG_CHARS:
        raise ValueError(f"a tag is a word of at most {MAX_TAG_CHARS} characters, written without < >")
    return tag


def _listed(value: object) -> object:
    """A list of one may be written without brackets, and an empty one in any way that means nothing."""
    if isinstance(value, str):
        return [] if value.strip().lower() in _NOTHING else [part.strip() for part in value.split(",")]
    return value


Name = Annotated[str, Field(max_length=80), AfterValidator(_word)]


class _Entry(BaseModel):
    """One voice of the file; docs/voices.md explains the fields."""

    model_config = ConfigDict(extra="forbid")

    id: Name
    name: Name | None = None
    language: Annotated[str, AfterValidator(_language)] = "en"
    gender: Literal["female", "male", "neutral"] | None = None
    aliases: Annotated[list[Name], BeforeValidator(_listed), Field(max_length=100)] = []
    prompt_name: Annotated[str, Field(max_length=500), AfterValidator(_prompt_name)] | None = None
    prompt: Annotated[str, Field(max_length=1000), AfterValidator(_form)] | None = None
    tags: (
        Annotated[
            list[Annotated[str, AfterValidator(_tag)]], BeforeValidator(_listed), Field(max_length=MAX_TAGS)
        ]
        | None
    ) = None
    sample: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    default: bool = False

    def voice(self) -> Voice:
        return Voice(
            self.id,
            self.language,
            self.gender,
            tuple(self.aliases),
            self.name,
            self.prompt_name,
            self.prompt,
            None if self.tags is None else tuple(self.tags),
            self.sample,
        )


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    published: bool = False
    voices: Annotated[list[_Entry], Field(min_length=1, max_length=MAX_VOICES)]


Place = tuple[int | str, ...]  # of a value in the file, as Pydantic names it


def read_voices(given: str) -> OwnVoices:
    """What the setting declares. ValueError with the line and the field of the first mistake."""
    text = _yaml_in(given)
    if text is None:
        return _read_names(given)
    content, lines = _parse(text)
    return _checked({"voices": content} if isinstance(content, list) else content, lines)


def in_one_line(given: str) -> str:
    """The setting as it can go to another machine: of a file what is in it, on one line."""
    text = _yaml_in(given)
    return given if text is None else json.dumps(_parse(text)[0], ensure_ascii=False)


def _yaml_in(given: str) -> str | None:
    """The text of the file that is named, or that is given itself; None for a list of names."""
    if "\n" in given or given.lstrip().startswith(("[", "{")):
        return given
    path = Path(os.path.expanduser(given))
    named = given.lower().endswith(_FILE_ENDINGS) or "/" in given or os.path.exists(path)
    return _text_of(path) if named else None


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(
            f"it cannot be read ({error.strerror}); name a YAML file, or voices as in 'ronan,anna:de'"
        ) from error
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"the file has more than {MAX_FILE_BYTES} bytes: it is no list of voices")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8: save the file as UTF-8") from error


def _read_names(given: str) -> OwnVoices:
    with_published = given.lstrip().startswith("+")
    entries: list[Any] = []
    for part in given.lstrip().removeprefix("+").split(","):
        name, colon, language = part.partition(":")
        entries.append({"id": name.strip()} | ({"language": language} if colon else {}))
    return _checked({"published": with_published, "voices": entries}, {})


def _parse(text: str) -> tuple[Any, dict[Place, int]]:
    """What is in a YAML text, and the line of each value."""
    import yaml

    lines: dict[Place, int] = {}
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
        return ({} if node is None else _value(node, (), lines, iter(range(MAX_NODES)))), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}: " if mark else ""
        problem = error.problem or "it is not YAML"
        if problem.startswith("but "):  # the other half of its sentence
            problem = f"{error.context}, {problem}"
        raise ValueError(f"{place}{problem}") from error
    except yaml.reader.ReaderError as error:  # a character that YAML has not
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(f"line {line}: {str(error).splitlines()[0]}") from error
    except RecursionError:
        raise ValueError("it is nested too deeply: a list of voices needs three levels") from None


def _value(node: Any, place: Place, lines: dict[Place, int], left: Iterator[int]) -> Any:
    """A node of YAML as text, lists and dicts; notes the line of each value."""
    if next(left, None) is None:
        raise ValueError("it has too many values, or an alias within itself")
    line = lines[place] = node.start_mark.line + 1
    if node.id == "scalar":
        return node.value
    if node.id == "sequence":
        # A file that is a list alone is the list of its voices.
        at: Place = place or ("voices",)
        lines.setdefault(at, line)
        return [_value(item, (*at, index), lines, left) for index, item in enumerate(node.value)]
    values: dict[str, Any] = {}
    for key, item in node.value:
        line = key.start_mark.line + 1
        if key.id != "scalar":  # whose text, of aliases within aliases, may be endless
            raise ValueError(f"line {line}: write the name of a field before the colon, not a list")
        name = key.value
        if name in values:
            raise ValueError(f"line {line}, {_shown((*place, name))}: it is there twice")
        values[name] = _value(item, (*place, name), lines, left)
        lines[*place, name] = line
    return values


def _checked(content: object, lines: Mapping[Place, int]) -> OwnVoices:
    try:
        file = _File.model_validate(content)
    except ValidationError as error:
        raise ValueError(_sentence(error, lines)) from error
    voices = [entry.voice() for entry in file.voices]
    owners: dict[str, str] = {}
    for index, voice in enumerate(voices):
        for number, name in enumerate(voice.names):
            field: Place = ("id",) if number == 0 else ("aliases", number - 1)
            if name in owners:
                raise ValueError(
                    f"{_at(('voices', index, *field), lines)}{name!r} is already a name of the voice "
                    f"{owners[name]!r}"
                )
            owners[name] = voice.id
    defaults = [index for index, entry in enumerate(file.voices) if entry.default]
    if len(defaults) > 1:
        raise ValueError(f"{_at(('voices', defaults[1], 'default'), lines)}only one voice can be the default")
    return OwnVoices(tuple(voices), file.published, voices[defaults[0]] if defaults else None)


def _sentence(error: ValidationError, lines: Mapping[Place, int]) -> str:
    """The first mistake, where it is and what is right."""
    first, *others = error.errors()
    if first["type"] == "missing":  # it may be there under a name that is spelled wrong
        beside = [
            one for one in others if one["type"] == "extra_forbidden" and one["loc"][:-1] == first["loc"][:-1]
        ]
        first = beside[0] if beside else first
    kind, place = first["type"], first["loc"]
    match kind:
        case "extra_forbidden":
            known = _File if len(place) == 1 else _Entry
            near = difflib.get_close_matches(str(place[-1]), known.model_fields, n=1)
            fields = ", ".join(known.model_fields)
            reason = (
                f"there is no such field; perhaps {near[0]} is meant" if near else f"the fields are {fields}"
            )
        case "missing":
            reason = "it is missing"
        case "model_type" | "model_attributes_type" | "list_type" | "string_type":
            wanted = {"list_type": "a list", "string_type": "a text"}.get(kind, "fields such as id: ronan")
            reason = f"write {wanted} here"
        case "bool_parsing" | "bool_type":
            reason = f"{first['input']!r} is not true or false"
        case "value_error":
            reason = f"{shortened(first['input'])}: {first['msg'].removeprefix('Value error, ')}"
        case _:
            reason = f"{first['msg'][0].lower()}{first['msg'][1:]}"
            if isinstance(first["input"], str):
                reason += f", not {shortened(first['input'])}"
    return _at(place, lines) + reason


def _at(place: Place, lines: Mapping[Place, int]) -> str:
    """Line and field; of what is missing, the line of what it is missing in."""
    shown = _shown(place)
    while place and place not in lines:
        place = place[:-1]
    line = f"line {lines[place]}" if place in lines else ""
    return ", ".join(part for part in (line, shown) if part) + ": "


def _shown(place: Place) -> str:
    """As in voices[2].gender, counted from 1; without what Pydantic adds for a choice of types."""
    parts = (f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in place)
    return "".join(parts).removeprefix(".")
