"""A GGUF → tokens a second of tier 1 and of the completions servers that can be installed beside it.

One after the other, each alone on the machine. Knows nothing of sound.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from orpheus.llama.engine_config import EngineConfig
from orpheus.ops.bench.load import measure
from orpheus.ops.bench.servers import NEEDS, MissingRival, serve
from orpheus.prompt import turn_text
from orpheus.settings import load_settings

STREAMS = (1, 8)
SECONDS = 4.0
BODY: dict[str, Any] = {
    "prompt": turn_text("tara", "The boat drifted slowly down the river."),
    "max_tokens": 140,
    "temperature": 0.6,
    "top_p": 0.9,
    "repetition_penalty": 1.1,
    "repeat_penalty": 1.1,
    "return_token_ids": True,
    "ignore_eos": True,  # llama-server's: random weights would end now and then
    "cache_prompt": False,
}


def measure_rivals(model: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Rows of each server by its name; in place of one that is not there or answers nothing, a sentence that says so."""
    threads = EngineConfig.from_settings(load_settings(), gpu=False).threads
    found: dict[str, Any] = {}
    for name in NEEDS:
        say(f"tier 1 against its rivals: {name}")
        try:
            with serve(name, model, max(STREAMS), threads) as server:
                loads = [measure(server.url, BODY, streams, SECONDS) for streams in STREAMS]
            found[name] = [load.row() for load in loads]
            if not any(load.tokens for load in loads):
                found[name] = f"{name} answered none of {sum(load.errors for load in loads)} requests."
        except MissingRival as missing:
            found[name] = str(missing)
    return found
