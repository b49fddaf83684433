"""Lists of models and voices, in the formats that existing clients parse.

OpenAI's format for models, Open WebUI's for voices and audio models, Kokoro's `legacy` list and `/v1/test`, by which
Home Assistant's bridge recognises a server that can list its voices.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from orpheus.errors import NotFound
from orpheus.server.openapi import errors
from orpheus.server.service import SpeechService

MODEL_ID = "orpheus-tts"  # some clients recognise a speech model by "tts" in its name
# OpenAI's names, which clients send by default; all stand for the one model.
MODEL_ALIASES = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
MODELS = (MODEL_ID, *MODEL_ALIASES)
CREATED = 1742342400  # 2025-03-19, when Orpheus-3B was published


def routes(service: SpeechService) -> APIRouter:
    router = APIRouter(responses=errors(401))

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model, under each of its names."""
        return {"object": "list", "data": [_model(name) for name in MODELS]}

    @router.get("/v1/models/{model_id}", responses=errors(404))
    async def model(model_id: str) -> dict[str, Any]:
        """The model, if it has this name."""
        if model_id not in MODELS:
            raise NotFound(f"There is no model {model_id[:60]!r}; use {MODEL_ID!r}.", code="model_not_found")
        return _model(model_id)

    @router.get("/v1/audio/models")
    async def audio_models() -> dict[str, Any]:
        """The same, for clients that list speech models separately."""
        return {"models": [{"id": name, "name": name} for name in MODELS]}

    @router.get("/v1/audio/voices")
    async def voices(legacy: str = "") -> dict[str, Any]:
        """All voices, the default first, and the emotion tags they support; with `legacy=true` only their names."""
        if legacy.lower() in ("true", "1"):
            return {"voices": [voice.id for voice in service.voices.all]}
        listed = [
            {
                "id": voice.id,
                "name": voice.name,
                "language": voice.language,
                "gender": voice.gender,
                "tags": voice.tags,
                "sample": voice.sample,
            }
            for voice in service.voices.all
        ]
        return {"voices": listed, "aliases": service.voices.aliases, "tags": service.voices.tags}

    @router.get("/v1/test")
    async def test() -> dict[str, str]:
        """`{"status": "ok"}`: some clients take it as a sign that voices can be listed."""
        return {"status": "ok"}

    @router.get("/v1/")
    async def root() -> dict[str, str]:
        """LiveKit opens its connection with this request ahead of the first text."""
        return {"status": "ok"}

    return router


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "orpheus"}
