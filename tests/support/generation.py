"""A sentence → what the running pair generates for it, with a seed."""

from __future__ import annotations

import re
from typing import Any

import httpx

from orpheus.prompt import turn_text
from orpheus.vocabulary import SLOTS, slot_and_code

SAMPLING = {"temperature": 0.5, "top_p": 0.9, "repetition_penalty": 1.1}


def codes_of(url: str, sentence: str, seed: int, voice: str = "tara") -> list[int]:
    """The codes from tier 1 at `url`, SLOTS to a frame."""
    body = {"prompt": turn_text(voice, sentence), "seed": seed, "max_tokens": 2000, **SAMPLING}
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=60, trust_env=False).json()
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "stop"
    tokens = [slot_and_code(int(n)) for n in re.findall(r"<custom_token_(\d+)>", choice["text"])]
    codes = [token for token in tokens if token]
    assert [slot for slot, _ in codes] == list(range(SLOTS)) * (len(codes) // SLOTS)
    return [code for _, code in codes]


def spoken(url: str, sentence: str, seed: int, **body: Any) -> bytes:
    """The audio from tier 2 at `url`, in raw PCM unless `body` asks for another format."""
    body = {"input": sentence, "voice": "tara", "seed": seed, "response_format": "pcm", **SAMPLING, **body}
    answer = httpx.post(f"{url}/v1/audio/speech", json=body, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.content
