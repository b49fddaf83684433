"""Small SNACs with random weights, and codes for them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from snac import SNAC

from orpheus.codec.decoder import Decoder

EXACT = 1000  # more lookahead than any codec needs
EMBEDDED = Path(__file__).parents[2] / "orpheus" / "embedded" / "snac"
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
