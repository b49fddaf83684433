"""A SNAC folder (config.json and pytorch_model.bin) → its configuration and its decoder's tensors, weight norm folded.

The encoder's half of the file is mapped, never read into memory.
"""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orpheus.errors import WeightsError
from orpheus.settings import REAL_CODEC
from orpheus.weights import CODEC_FILES

CONFIG_FILE, WEIGHTS_FILE = CODEC_FILES
VQ_STRIDES = (4, 2, 1)  # latents per code of each layer, which is what makes seven slots per frame
LATENTS_PER_FRAME = VQ_STRIDES[0]
DILATIONS = (1, 3, 9)  # of a block's three residual units, as in snac.layers.DecoderBlock
KERNEL = 7


@dataclass(frozen=True)
class CodecConfig:
    """The part of config.json that decoding needs."""

    sample_rate: int  # Hz
    latent_channels: int
    channels: int  # after the first layer; each block halves it
    strides: tuple[int, ...]  # of each block: samples out per sample in
    codes: int  # codebook size
    code_channels: int
    noise: bool
    depthwise: bool

    @property
    def hop(self) -> int:
        """Samples per latent."""
        return math.prod(self.strides)

    def channels_after(self, blocks: int) -> int:
        return self.channels >> blocks


def read_config(folder: Path) -> CodecConfig:
    """Read config.json of `folder`. WeightsError if it is missing, damaged, or of a codec that cannot be streamed."""
    path = folder / CONFIG_FILE
    try:
        given: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(given, dict):
            raise ValueError("not an object")
        strides = tuple(int(rate) for rate in given["decoder_rates"])
        latent = given.get("latent_dim") or given["encoder_dim"] * 2 ** len(given["encoder_rates"])
        config = CodecConfig(
            sample_rate=int(given["sampling_rate"]),
            latent_channels=int(latent),
            channels=int(given["decoder_dim"]),
            strides=strides,
            codes=int(given["codebook_size"]),
            code_channels=int(given["codebook_dim"]),
            noise=bool(given.get("noise", True)),
            depthwise=bool(given.get("depthwise", True)),
        )
    except FileNotFoundError as error:
        raise WeightsError(
            f"No {CONFIG_FILE} in {folder}. Set ORPHEUS_CODEC to a SNAC folder or to 'embedded'."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{path} is no SNAC configuration ({type(error).__name__}: {error}). Fetch it again."
        ) from error
    # The snac package's default is a window of 32, so a missing key means attention too.
    if (window := given.get("attn_window_size", 32)) is not None:
        raise WeightsError(
            f"{path} asks for attention (attn_window_size {window}), which this decoder cannot stream. Set "
            f"ORPHEUS_CODEC to a SNAC without attention, such as {REAL_CODEC}."
        )
    if tuple(given.get("vq_strides", ())) != VQ_STRIDES:
        raise WeightsError(
            f"{path} has vq_strides {given.get('vq_strides')}, but Orpheus' seven tokens per frame need "
            f"{list(VQ_STRIDES)}. Set ORPHEUS_CODEC to {REAL_CODEC}."
        )
    if not strides or min(strides) < 2 or config.channels % 2 ** len(strides) or config.channels <= 0:
        raise WeightsError(
            f"{path} cannot be run: decoder_rates {list(strides)} must be 2 or more each, and decoder_dim "
            f"{config.channels} must be divisible by 2 once for each. Set ORPHEUS_CODEC to {REAL_CODEC}."
        )
    return config


class Checkpoint:
    """pytorch_model.bin: its tensors by the names of the snac package, checked and with weight norm folded."""

    def __init__(self, folder: Path) -> None:
        """WeightsError if the file is missing or damaged."""
        self.path = folder / WEIGHTS_FILE
        try:
            self._tensors: dict[str, Tensor] = self._read(self.path)
        except FileNotFoundError as error:
            raise WeightsError(
                f"No {WEIGHTS_FILE} in {folder}. Set ORPHEUS_CODEC to a SNAC folder or to 'embedded'."
            ) from error
        except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).strip().split("\n", 1)[0]
            raise WeightsError(f"{self.path} cannot be read ({reason:.120}). Fetch it again.") from error
        if not isinstance(self._tensors, dict):
            raise WeightsError(f"{self.path} holds no weights by name. Fetch it again.")

    @staticmethod
    def _read(path: Path) -> dict[str, Tensor]:
        try:  # mapped, so that the encoder's half stays on disk; files from before torch 1.6 cannot be mapped
            tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        return tensors

    def take(self, name: str, *shape: int) -> Tensor:
        """A float32 copy of one tensor. WeightsError if it is missing or not of `shape`."""
        tensor = self._tensors.get(name)
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
            found = tuple(tensor.shape) if isinstance(tensor, Tensor) else "nothing"
            raise WeightsError(
                f"{self.path} does not fit its {CONFIG_FILE}: {name} should be {shape}, found {found}. "
                "Fetch both files again."
            )
        return tensor.to(torch.float32, copy=True)

    def take_normed(self, name: str, *shape: int) -> Tensor:
        """The weight of a layer with weight norm: g · v / |v|, the norm over all but the first dimension.

        Both of torch's spellings are read: parametrizations, and weight_g and weight_v in older files.
        """
        module, _, leaf = name.rpartition(".")
        length = (shape[0], *(1 for _ in shape[1:]))
        if f"{name}_g" in self._tensors:
            g, v = self.take(f"{name}_g", *length), self.take(f"{name}_v", *shape)
        elif f"{module}.parametrizations.{leaf}.original0" in self._tensors:
            stem = f"{module}.parametrizations.{leaf}.original"
            g, v = self.take(f"{stem}0", *length), self.take(f"{stem}1", *shape)
        else:
            return self.take(name, *shape)  # folded already
        return torch._weight_norm(v, g, 0)
