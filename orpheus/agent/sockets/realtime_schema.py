"""OpenAI's Realtime protocol (GA) as Pydantic models: what clients send, and the session; unknown fields are accepted.

Our own models, as small as they can be: OpenAI's are large, change every month and reject what their own clients send.
The tests hold what we send against theirs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticSerializationError

from orpheus.agent.audio import AudioFormat
from orpheus.agent.events import Ask, Config
from orpheus.agent.history import Item, Part
from orpheus.agent.think import INSTRUCTIONS
from orpheus.agent.turns import TurnConfig
from orpheus.errors import BadRequest
from orpheus.tts.encode import SPEED_MAX, SPEED_MIN
from orpheus.voices import DEFAULT_VOICE

MAX_TOKENS = 4096  # of a response, OpenAI's limit
MAX_TOOLS = 128
MAX_SESSION_CHARS = 400_000  # a session is sent back whole, in one frame that clients accept
MODEL = "orpheus-realtime"

Modality = Literal["audio", "text"]
ToolChoice = Literal["auto", "none", "required"] | dict[str, Any]
_NULL_MEANS = ("turn_detection", "transcription")  # off
STEADY_MODEL = (
    "whisper-1"  # whose transcripts come whole, as OpenAI's do; those of any other as they are said
)


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def null_is_unset(cls, body: Any) -> Any:
        """Where it has no meaning of its own: clients send it for whatever they do not set."""
        if not isinstance(body, Mapping):
            return body
        return {
            name: value
            for name, value in body.items()
            if value is not None or name in _NULL_MEANS or name not in cls.model_fields
        }


class Format(_Model):
    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"] = "audio/pcm"
    rate: int | None = None

    @property
    def wire(self) -> AudioFormat:
        if self.type == "audio/pcm":
            return AudioFormat("pcm", self.rate or 24_000)
        return AudioFormat("pcmu" if self.type == "audio/pcmu" else "pcma", 8_000)

    @field_validator("rate")
    @classmethod
    def one_rate(cls, rate: int | None) -> int | None:
        if rate not in (None, 8_000, 24_000):
            raise ValueError("audio/pcm is sent at 24000 Hz, audio/pcmu and audio/pcma at 8000")
        return rate

    def json_body(self) -> dict[str, Any]:
        return {"type": self.type, **({"rate": 24_000} if self.type == "audio/pcm" else {})}


class ServerVad(_Model):
    type: Literal["server_vad"] = "server_vad"
    threshold: float = Field(default=0.5, ge=0, le=1)
    prefix_padding_ms: int = Field(default=300, ge=0, le=5000)
    silence_duration_ms: int = Field(default=500, ge=0, le=10_000)
    idle_timeout_ms: int | None = Field(default=None, ge=1000, le=600_000)
    create_response: bool = True
    interrupt_response: bool = True


class SemanticVad(_Model):
    type: Literal["semantic_vad"]
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"
    create_response: bool = True
    interrupt_response: bool = True


class Transcription(_Model):
    model: str = Field(default=STEADY_MODEL, max_length=200)
    language: str | None = Field(default=None, max_length=20)
    prompt: str | None = Field(default=None, max_length=4000)


class AudioInput(_Model):
    format: Format = Format()
    transcription: Transcription | None = Transcription()
    noise_reduction: dict[str, Any] | None = None  # accepted: silero hears through noise
    turn_detection: Annotated[ServerVad | SemanticVad, Field(discriminator="type")] | None = ServerVad()


class VoiceId(_Model):
    id: str = Field(max_length=200)


class AudioOutput(_Model):
    format: Format = Format()
    voice: str | VoiceId = Field(default=DEFAULT_VOICE)
    speed: float = Field(default=1.0, ge=SPEED_MIN, le=SPEED_MAX)


class AudioConfig(_Model):
    input: AudioInput = AudioInput()
    output: AudioOutput = AudioOutput()


class Tool(_Model):
    type: Literal["function"]
    name: str = Field(min_length=1, max_length=200)
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Session(_Model):
    """Everything that is sent back in session.created and session.updated."""

    type: Literal["realtime"] = "realtime"
    model: str = Field(default=MODEL, max_length=200)
    output_modalities: list[Modality] = Field(default=["audio"], min_length=1, max_length=2)
    instructions: str = INSTRUCTIONS
    tools: list[Tool] = Field(default=[], max_length=MAX_TOOLS)
    tool_choice: ToolChoice = "auto"
    max_output_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | Literal["inf"] = "inf"
    audio: AudioConfig = AudioConfig()
    temperature: float | None = Field(default=None, ge=0, le=2)  # the beta's
    tracing: Any = None
    include: list[str] | None = None
    truncation: Any = "auto"
    prompt: Any = None

    def updated(self, changes: Mapping[str, Any]) -> Session:
        """Merged with `changes`, at every depth; null is a value. BadRequest names the field that is wrong."""
        merged = _merged(self.model_dump(), changes)
        session: Session = parse(Session, merged, "session.")
        try:
            length = len(session.model_dump_json())
        except PydanticSerializationError as error:
            raise BadRequest(
                "The session is nested too deeply: flatten its tools, tracing or prompt.", param="session"
            ) from error
        if length > MAX_SESSION_CHARS:
            raise BadRequest(
                f"The session is longer than {MAX_SESSION_CHARS} characters: shorten its instructions or tools.",
                param="session",
            )
        return session

    @property
    def voice(self) -> str:
        voice = self.audio.output.voice
        return voice if isinstance(voice, str) else voice.id

    def body(self, **more: Any) -> dict[str, Any]:
        body = self.model_dump()
        body["audio"]["input"]["format"] = self.audio.input.format.json_body()
        body["audio"]["output"]["format"] = self.audio.output.format.json_body()
        body["tools"] = [tool.model_dump(exclude_none=True) for tool in self.tools]
        if self.temperature is None:
            del body["temperature"]
        return {"object": "realtime.session", **more, **body}

    def config(self) -> Config:
        transcription = self.audio.input.transcription
        return Config(
            instructions=self.instructions,
            modality=_modality(self.output_modalities),
            voice=self.voice,
            speed=self.audio.output.speed,
            turns=_turns(self.audio.input.turn_detection),
            language=_language(transcription.language) if transcription else None,
            prompt=transcription.prompt if transcription else None,
            partials=transcription is not None and transcription.model != STEADY_MODEL,
            tools=_tools(self.tools),
            tool_choice=_tool_choice(self.tool_choice),
            max_tokens=None if self.max_output_tokens == "inf" else self.max_output_tokens,
            temperature=self.temperature,
        )


class Content(_Model):
    type: Literal["input_text", "output_text", "text", "input_audio", "output_audio", "audio"]
    text: str | None = None
    transcript: str | None = None
    audio: str | None = None  # of the client's: heard if there is no transcript


class ItemBody(_Model):
    type: Literal["message", "function_call", "function_call_output", "item_reference"] = "message"
    id: str | None = Field(default=None, min_length=1, max_length=200)
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    role: Literal["user", "assistant", "system"] = "user"
    content: list[Content] = Field(default=[], max_length=1000)
    call_id: str = Field(default="", max_length=200)
    name: str = Field(default="", max_length=200)
    arguments: str = ""
    output: str = ""

    def item(self, id: str) -> Item:
        return Item(
            self.id or id,
            "message" if self.type == "item_reference" else self.type,
            "completed" if self.status in (None, "in_progress") else self.status,
            self.role,
            tuple(_part(content) for content in self.content),
            self.call_id,
            self.name,
            self.arguments,
            self.output,
        )


class ResponseOutput(_Model):
    format: Format | None = None  # accepted: a connection has one format
    voice: str | VoiceId | None = None


class ResponseAudio(_Model):
    output: ResponseOutput = ResponseOutput()


class ResponseBody(_Model):
    """`response` of response.create."""

    instructions: str | None = None
    conversation: str | None = None
    input: list[ItemBody] | None = Field(default=None, max_length=1000)
    output_modalities: list[Modality] | None = Field(default=None, min_length=1, max_length=2)
    tools: list[Tool] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: ToolChoice | None = None
    metadata: dict[str, str] | None = Field(default=None, max_length=16)
    max_output_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | Literal["inf"] | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    audio: ResponseAudio = ResponseAudio()

    def ask(self, session: Session, find: Any, new_id: Any) -> Ask:
        """`find` gives the item of an id, `new_id` an id for a new one."""
        changes = {
            name: value
            for name in (
                "instructions",
                "output_modalities",
                "tool_choice",
                "max_output_tokens",
                "temperature",
            )
            if (value := getattr(self, name)) is not None
        }
        if self.tools is not None:
            changes["tools"] = [tool.model_dump() for tool in self.tools]
        if self.audio.output.voice is not None:
            changes["audio"] = {"output": {"voice": self.audio.output.voice}}
        given = None
        if self.input is not None:
            given = tuple(
                find(body.id) if body.type == "item_reference" else body.item(new_id("item"))
                for body in self.input
            )
        return Ask(session.updated(changes).config(), given, self.conversation != "none", self.metadata)


def parse(model: type[Any], body: Any, at: str = "") -> Any:
    """`body` as a model. BadRequest names the field that is wrong, which starts with `at`."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        missing = first["type"] == "missing"
        path = _path(body, first["loc"], missing)
        param = at + ".".join(path)
        message = f"Missing required parameter: '{param}'." if missing else f"{param}: {first['msg']}."
        raise BadRequest(
            message, param=param, code="missing_required_parameter" if missing else "invalid_value"
        ) from None


def _path(body: Any, places: Sequence[int | str], missing: bool) -> list[str]:
    """Where in `body` an error is: among its places are the kinds of a union, which the client does not know of."""
    path = []
    for place in places:
        if isinstance(body, Mapping):
            known = place in body
        else:
            known = isinstance(body, list) and isinstance(place, int) and place < len(body)
        if known:
            body = body[place]
        if known or (missing and place == places[-1]):
            path.append(str(place))
    return path


def _merged(base: Any, changes: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(changes, Mapping):
        return changes
    if "type" in base and changes.get("type", base["type"]) != base["type"]:
        return dict(changes)  # another kind of thing
    return {**base, **{name: _merged(base.get(name), value) for name, value in changes.items()}}


def _modality(modalities: list[Modality]) -> Modality:
    return "audio" if "audio" in modalities else "text"


def _turns(detection: ServerVad | SemanticVad | None) -> TurnConfig:
    if detection is None:
        return TurnConfig(kind=None, create_response=False)
    given = detection.model_dump()
    return TurnConfig(kind=given.pop("type"), **given)


def _language(code: str | None) -> str | None:
    """Without its country, which recognizers do not know: en-US is en."""
    return re.split("[-_]", code.strip().lower())[0] or None if code else None


def _tools(tools: list[Tool]) -> tuple[dict[str, Any], ...]:
    """As chat completions take them."""
    return tuple(
        {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}
        for tool in tools
    )


def _tool_choice(choice: str | dict[str, Any]) -> Any:
    if isinstance(choice, dict) and choice.get("type") == "function" and "name" in choice:
        return {"type": "function", "function": {"name": choice["name"]}}
    return choice


def _part(content: Content) -> Part:
    if "audio" in content.type:
        return Part("audio", content.transcript or content.text)
    return Part("text", content.text or "")


# Ours → JSON


def item_body(item: Item) -> dict[str, Any]:
    body: dict[str, Any] = {
        "id": item.id,
        "object": "realtime.item",
        "type": item.kind,
        "status": item.status,
    }
    if item.kind == "function_call":
        return body | {"call_id": item.call_id, "name": item.name, "arguments": item.arguments}
    if item.kind == "function_call_output":
        return body | {"call_id": item.call_id, "output": item.output}
    side = "output" if item.role == "assistant" else "input"
    content = [
        {"type": f"{side}_audio", "transcript": part.text}
        if part.kind == "audio"
        else {"type": f"{side}_text", "text": part.text or ""}
        for part in item.content
    ]
    return body | {"role": item.role, "content": content}


def part_body(part: Part) -> dict[str, Any]:
    if part.kind == "audio":
        return {"type": "audio", "transcript": part.text or ""}
    return {"type": "text", "text": part.text or ""}


def json_text(body: dict[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))
