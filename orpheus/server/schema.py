"""What comes over the wire, as Pydantic models: field names, limits and defaults are OpenAI's; unknown keys are accepted.

Every protocol of tier 2 turns its request into a `SpeechRequest`; `SpeechService.params` checks the rest of it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from orpheus.sampling import REPETITION_PENALTY_MAX, REPETITION_PENALTY_MIN, TEMPERATURE_MAX
from orpheus.tts.encode import SPEED_MAX, SPEED_MIN, Format
from orpheus.tts.params import Split
from orpheus.voices import DEFAULT_VOICE

# Other names of the formats, of which clients also send the media type.
_FORMAT_NAMES = {"mpeg": "mp3", "wave": "wav", "x-wav": "wav", "pcm16": "pcm"}
_CHOICES = ("response_format", "stream_format", "split_granularity")
_TEXTS = ("input", "instructions")


class VoiceId(BaseModel):
    id: str = Field(min_length=1, max_length=200)


class SpeechRequest(BaseModel):
    """`POST /v1/audio/speech`."""

    model_config = ConfigDict(extra="ignore")

    model: str = Field(default="orpheus-tts", description="any name; one model is served")
    input: str = Field(description="the text to speak")
    voice: str | VoiceId = Field(
        default=DEFAULT_VOICE, description="a voice's name, or an object with its id"
    )
    instructions: str | None = Field(
        default=None,
        max_length=4096,
        description="accepted for compatibility; Orpheus follows tags in the text",
    )
    response_format: Format = "mp3"
    speed: Annotated[float, Field(ge=SPEED_MIN, le=SPEED_MAX)] = 1.0
    stream_format: Literal["audio", "sse"] = "audio"

    # Extensions to OpenAI's API. Unset: the defaults of the service.
    seed: Annotated[int | None, Field(ge=0, lt=2**63, description="makes a request sound the same")] = None
    temperature: Annotated[float | None, Field(ge=0, le=TEMPERATURE_MAX)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    repetition_penalty: Annotated[
        float | None, Field(ge=REPETITION_PENALTY_MIN, le=REPETITION_PENALTY_MAX)
    ] = None
    max_tokens: Annotated[int | None, Field(ge=7, lt=2**31, description="per segment of the text")] = None
    sample_rate: Annotated[
        int | None,
        Field(
            ge=8000,
            le=48000,
            description="Hz; mp3, opus and aac use the next rate they support, see X-Sample-Rate",
        ),
    ] = None
    stream: Annotated[
        bool,
        Field(description="false: sent once complete, with its true length in the header and the container"),
    ] = True
    normalize: Annotated[
        bool,
        Field(
            description="write numbers out before they reach the model, which reads most of them correctly"
        ),
    ] = False
    stage_directions: Annotated[
        Literal["read", "skip"],
        Field(description="words in *stars* or _underscores_ that stand as a sentence of their own"),
    ] = "read"
    lead_silence_ms: Annotated[
        float | None, Field(ge=0, le=2000, description="silence before the first word")
    ] = None

    @model_validator(mode="before")
    @classmethod
    def as_it_is_meant(cls, body: Any) -> Any:
        """The fields that are set. A choice is made in any case, and by any of a format's names.

        Clients that build their body from empty settings send null or "" for whatever they do not set, and -1 where
        llama.cpp takes it for that.
        """
        if not isinstance(body, dict):
            return body
        meant = {name: _meant(name, value) for name, value in body.items()}
        return {name: value for name, value in meant.items() if value is not None}

    @field_validator("instructions")
    @classmethod
    def nothing_is_unset(cls, text: str | None) -> str | None:
        """Home Assistant sends the text "None" for no instructions."""
        return None if text in ("", "None") else text

    @property
    def voice_name(self) -> str:
        return self.voice if isinstance(self.voice, str) else self.voice.id

    @property
    def sampling(self) -> dict[str, Any]:
        """The sampling parameters that were set."""
        names = ("seed", "temperature", "top_p", "repetition_penalty")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def whole_file(self) -> bool:
        """Sent once complete, in a container with its true length."""
        return not self.stream and self.stream_format == "audio"

    @property
    def split(self) -> Split:
        """What is a file, or a stream, of its own."""
        return "none"


class StreamRequest(SpeechRequest):
    """`POST /v1/audio/speech/stream`: the same, raw samples by default."""

    response_format: Format = "pcm"


class SessionConfig(SpeechRequest):
    """`session.config` of the session protocol; the defaults are vLLM's."""

    input: str = ""
    response_format: Format = "wav"
    stream_audio: bool = False  # false: every part in one frame, in a container with its true length
    split_granularity: Split | None = None  # unset: sentence for files, none for a stream
    word_timestamps: bool = False
    lead_s: Annotated[float | None, Field(ge=0)] = None

    @property
    def whole_file(self) -> bool:
        return not self.stream_audio

    @property
    def split(self) -> Split:
        return self.split_granularity or ("none" if self.stream_audio else "sentence")


class SpeechQuery(SpeechRequest):
    """`GET /v1/audio/speech`: the same as a query, where a voice can only be a name."""

    voice: str = Field(default=DEFAULT_VOICE, description="a voice's name")


def _meant(name: str, value: Any) -> Any:
    """What a client means by this value of a field; None if it is not set."""
    if name == "voice" and isinstance(value, dict) and "id" in value:
        return value if _meant("id", value["id"]) is not None else None
    if isinstance(value, str) and name not in _TEXTS:
        value = value.strip() or None
        if value and name in _CHOICES:
            value = value.lower()
            if name == "response_format":
                value = value.removeprefix("audio/")
                value = _FORMAT_NAMES.get(value, value)
    return None if name in ("seed", "max_tokens") and value in (-1, "-1") else value
