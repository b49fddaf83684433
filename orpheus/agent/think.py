"""Messages → the answer as it is generated, tool calls included: the LLM of a conversation, embedded or elsewhere."""

from __future__ import annotations

import json
import re
import time

import httpx

from orpheus.agent.embedded_llm import EmbeddedThinker
from orpheus.agent.remote_llm import RemoteThinker
from orpheus.agent.thoughts import (
    INSTRUCTIONS,
    Finished,
    FinishReason,
    Message,
    TextDelta,
    Thinker,
    Thought,
    ToolCall,
    ToolCallDelta,
)
from orpheus.settings import Settings

__all__ = [
    "INSTRUCTIONS",
    "EmbeddedThinker",
    "FinishReason",
    "Finished",
    "Message",
    "RemoteThinker",
    "TextDelta",
    "Thinker",
    "Thought",
    "ToolCall",
    "ToolCallDelta",
    "load_thinker",
    "suggest_llm",
]

OLLAMA_URL = "http://127.0.0.1:11434"
OLLAMA_TIMEOUT_S = 0.3
_OLLAMA_BYTES = 256 * 1024  # of its list of models
_MODEL_NAME = re.compile(r"[\w][\w.:/@-]{0,99}")  # one that a shell and a terminal take as it is
_NOT_TALKING = re.compile(r"embed|minilm|bge-|rerank", re.IGNORECASE)  # models that write no text


def load_thinker(settings: Settings) -> Thinker:
    """The LLM that the settings name. Loads nothing yet: `warm_up`, or the first answer, does."""
    return RemoteThinker(settings) if settings.llm_url else EmbeddedThinker()


def suggest_llm(url: str = OLLAMA_URL) -> str | None:
    """If Ollama runs on this machine, a sentence that says how to think with it. Waits 0.3 s, or twice that at most."""
    try:
        models = _list_models(url)
    except (httpx.HTTPError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    if models:
        return f"Ollama runs on this machine: set ORPHEUS_LLM_URL={url} and ORPHEUS_LLM_MODEL={models[0]} to think with it."
    return f"Ollama runs on this machine, without a model: fetch one with `ollama pull`, then set ORPHEUS_LLM_URL={url}."


def _list_models(url: str) -> list[str]:
    """The models that can answer, as /v1/models lists them. Raises whatever is wrong with the answer."""
    deadline_s = time.monotonic() + OLLAMA_TIMEOUT_S
    body = bytearray()
    with (
        httpx.Client(trust_env=False, timeout=OLLAMA_TIMEOUT_S) as client,
        client.stream("GET", f"{url}/v1/models") as response,
    ):
        response.raise_for_status()
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > _OLLAMA_BYTES or time.monotonic() > deadline_s:
                raise httpx.ReadTimeout("too much, or too slow")
    names = [model["id"] for model in json.loads(body)["data"] or ()]
    return [name for name in names if _MODEL_NAME.fullmatch(name) and not _NOT_TALKING.search(name)]
