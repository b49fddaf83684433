"""A complete sequence of codes → PCM, by the snac package's own layers: the reference for the streaming decoder.

The package's noise layers get the keyed noise, or none.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from snac import SNAC
from torch import Tensor, nn
from torch.nn.utils import parametrize

from orpheus.codec.checkpoint import LATENTS_PER_FRAME
from orpheus.codec.noise import keyed_noise, quantile_table
from orpheus.codec.stream import HALF_FRAME_SLOTS, Codes
from orpheus.vocabulary import SLOTS, frame_to_layers


class _KeyedNoise(nn.Module):
    """snac's NoiseBlock with `torch.randn` replaced; without noise if `block` is None."""

    def __init__(self, linear: nn.Module, block: int | None, table: Tensor) -> None:
        super().__init__()
        self.linear, self.block, self.seed, self.table = linear, block, 0, table

    def forward(self, x: Tensor) -> Tensor:
        if self.block is None:
            return x
        noise = keyed_noise(self.seed, self.block, 0, x.shape[-1], self.table)
        return torch.addcmul(x, noise.to(x.device), self.linear(x))


class OfflineDecoder:
    """SNAC as the package builds it. `folded` removes weight norm, which the package recomputes at every call."""

    def __init__(self, model: SNAC, *, noise: bool = True, folded: bool = True) -> None:
        self.model = model.eval()
        del model.encoder
        self._noises: list[_KeyedNoise] = []
        table = quantile_table()
        for block in model.decoder.model:
            layers = getattr(block, "block", ())
            assert isinstance(layers, nn.Sequential | tuple)
            for index, layer in enumerate(layers):
                if type(layer).__name__ == "NoiseBlock":
                    number = len(self._noises) if noise else None
                    keyed = _KeyedNoise(layer.linear, number, table)
                    setattr(layers, str(index), keyed)
                    self._noises.append(keyed)
        if folded:
            for layer in model.modules():
                if parametrize.is_parametrized(layer, "weight"):
                    parametrize.remove_parametrizations(layer, "weight")

    @classmethod
    def load(cls, folder: Path, *, noise: bool = True) -> OfflineDecoder:
        """From a SNAC folder."""
        return cls(SNAC.from_pretrained(str(folder)), noise=noise)

    @torch.inference_mode()
    def decode(self, codes: Codes, *, seed: int = 0) -> NDArray[np.float32]:
        """Flat codes in slot order → float32 (samples,). Half a frame at the end counts; anything less is dropped."""
        flat = np.asarray(codes, dtype=np.int64).reshape(-1)
        frames, rest = divmod(len(flat), SLOTS)
        latents = LATENTS_PER_FRAME * frames + (LATENTS_PER_FRAME // 2 if rest >= HALF_FRAME_SLOTS else 0)
        if not latents:
            return np.zeros(0, np.float32)
        for noise in self._noises:
            noise.seed = seed
        padded = np.pad(flat, (0, -len(flat) % SLOTS)).reshape(-1, SLOTS)
        rows = [torch.from_numpy(row)[None] for row in frame_to_layers(padded)]
        z = self.model.quantizer.from_codes(rows)[..., :latents]
        pcm: NDArray[np.float32] = self.model.decoder(z)[0, 0].numpy()
        return pcm
