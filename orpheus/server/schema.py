"""Request bodies → checked values. Field names, limits and defaults are OpenAI's; unknown keys are accepted.

Knows nothing of pipeline. What it refuses becomes a 400 in OpenAI's shape.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from orpheus.server.service import Utterance
from orpheus.tts.encode import SPEED_MAX, SPEED_MIN, Format


class VoiceId(BaseModel):
    id: str = Field(min_length=1, max_length=200)


class SpeechRequest(BaseModel):
    """`POST /v1/audio/speech`."""

    model_config = ConfigDict(extra="ignore")

    model: str = Field("orpheus-tts", description="any name; one model is served")
    input: str = Field(description="the text to speak")
    voice: str | VoiceId = Field("tara", description="a voice's name, or an object with its id")
    instructions: str | None = Field(
        None, max_length=4096, description="accepted for compatibility; Orpheus follows tags in the text"
    )
    response_format: Format = "mp3"
    speed: Annotated[float, Field(ge=SPEED_MIN, le=SPEED_MAX)] = 1.0
    stream_format: Literal["audio", "sse"] = "audio"

    # Ours, beyond OpenAI's: unset, the settings of the service are used.
    seed: Annotated[int | None, Field(ge=0, lt=2**63, description="the same request sounds the same")] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    repetition_penalty: Annotated[float | None, Field(ge=0.1, le=10)] = None
    max_tokens: Annotated[int | None, Field(ge=7, lt=2**31, description="a segment of the text")] = None
    sample_rate: Annotated[
        int | None,
        Field(
            ge=8000,
            le=48000,
            description="Hz; mp3, opus and aac take the next rate they have, see X-Sample-Rate",
        ),
    ] = None
    stream: Annotated[
        bool, Field(description="false: sent when all is made, with its true length in header and container")
    ] = True
    normalize: Annotated[
        bool,
        Field(description="write numbers out before they reach the model, which reads most of them itself"),
    ] = False
    lead_silence_ms: Annotated[float | None, Field(ge=0, le=2000, description="before the first word")] = None

    @model_validator(mode="before")
    @classmethod
    def null_is_unset(cls, body: Any) -> Any:
        """Clients that build their body from empty settings send null for what they do not set."""
        if not isinstance(body, dict):
            return body
        return {name: value for name, value in body.items() if value is not None}

    @field_validator("instructions")
    @classmethod
    def nothing_is_unset(cls, said: str | None) -> str | None:
        """Home Assistant sends the text "None" for no instructions."""
        return None if said in ("", "None") else said

    @property
    def voice_name(self) -> str:
        return self.voice if isinstance(self.voice, str) else self.voice.id

    def utterance(self) -> Utterance:
        """The request in the service's own terms."""
        names = ("seed", "temperature", "top_p", "repetition_penalty")
        asked = {name: value for name in names if (value := getattr(self, name)) is not None}
        return Utterance(
            text=self.input,
            voice=self.voice_name,
            format=self.response_format,
            speed=self.speed,
            sampling=asked,
            max_tokens=self.max_tokens,
            sample_rate=self.sample_rate,
            whole=not self.stream and self.stream_format == "audio",
            normalize=self.normalize,
            lead_silence_ms=self.lead_silence_ms,
        )


class SessionConfig(SpeechRequest):
    """`session.config` of the session protocol; defaults are vLLM's."""

    input: str = ""
    response_format: Format = "wav"
    stream_audio: bool = False  # false: each part in one frame, in a container with its true length
    split_granularity: Literal["none", "sentence", "clause"] = "none"
    word_timestamps: bool = False
    lead_s: Annotated[float | None, Field(ge=0)] = None

    def utterance(self) -> Utterance:
        apart = self.split_granularity != "none"
        return replace(super().utterance(), whole=not self.stream_audio, apart=apart)


class StreamRequest(SpeechRequest):
    """`POST /v1/audio/speech/stream`: the same, raw samples unless asked otherwise."""

    response_format: Format = "pcm"
