"""Small SNACs with random weights, codecs over them, and codes to decode."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from snac import SNAC

from orpheus.codec import Codec, Decoder

EXACT = 1000  # more lookahead than any codec needs
TINY = {
    "sampling_rate": 24000,
    "encoder_dim": 4,
    "encoder_rates": [2, 2],
    "decoder_dim": 32,
    "decoder_rates": [4, 3],
    "attn_window_size": None,
    "codebook_size": 16,
    "codebook_dim": 4,
    "vq_strides": [4, 2, 1],
    "noise": True,
    "depthwise": True,
}


PUBLISHED = {  # config.json of hubertsiuzdak/snac_24khz
    "sampling_rate": 24000,
    "encoder_dim": 48,
    "encoder_rates": [2, 4, 8, 8],
    "decoder_dim": 1024,
    "decoder_rates": [8, 8, 4, 2],
    "attn_window_size": None,
    "codebook_size": 4096,
    "codebook_dim": 8,
    "vq_strides": [4, 2, 1],
    "noise": True,
    "depthwise": True,
}


def save_random_snac(folder: Path, *, alphas: bool = True, **changes: object) -> Path:
    """A SNAC with random weights, as SNAC.from_pretrained reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**TINY, **changes}
    torch.manual_seed(7)
    model = SNAC(**config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("alpha") and alphas:  # trained codecs have alphas of either sign and any size
                parameter.copy_(torch.randn_like(parameter) * 1.5)
            elif name.endswith("bias"):
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


def random_codes(decoder: Decoder, count: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, decoder.config.codes, count)


def load(folder: Path, *, lookahead: int = EXACT, reserve_s: float = math.inf, **more: Any) -> Codec:
    """A codec whose first frame is exact and which never holds codes back, by default."""
    return Codec(Decoder.load(folder), lookahead=lookahead, reserve_s=reserve_s, **more)


def codes_of(count: int, seed: int) -> NDArray[np.int64]:
    """Codes for a TINY SNAC."""
    return np.random.default_rng(seed).integers(0, 16, count)


async def speak(codec: Codec, codes: NDArray[np.int64], seed: int, step: int = 7) -> NDArray[np.float32]:
    """The samples of one stream, whose codes are pushed `step` at a time."""
    stream = codec.open(seed)
    chunks = []
    for start in range(0, len(codes), step):
        chunks.append(await stream.decode(codes[start : start + step]))
    return np.concatenate([*chunks, await stream.finish()])
