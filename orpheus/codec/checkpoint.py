"""A SNAC folder (config.json and pytorch_model.bin) → its configuration and its decoder's tensors, weight norm folded.

The encoder's half of the file is mapped, never read into memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from orpheus.errors import WeightsError
from orpheus.settings import REAL_CODEC
from orpheus.weights import CODEC_FILES, identity

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


# hubertsiuzdak/snac_24khz, which the published models were trained with.
PUBLISHED = CodecConfig(
    sample_rate=24_000,
    latent_channels=768,
    channels=1024,
    strides=(8, 8, 4, 2),
    codes=4096,
    code_channels=8,
    noise=True,
    depthwise=True,
)

Size = Annotated[int, Field(ge=1, le=1 << 20)]
Rates = Annotated[list[Size], Field(max_length=16)]


class _ConfigFile(BaseModel):
    """config.json, as the snac package writes it."""

    sampling_rate: Annotated[int, Field(ge=8_000, le=192_000)]
    latent_dim: Size | None = None  # by default what the encoder's sizes make it
    encoder_dim: Size | None = None
    encoder_rates: Rates = []
    decoder_dim: Size
    decoder_rates: Rates
    codebook_size: Size
    codebook_dim: Size
    noise: bool = True
    depthwise: bool = True
    attn_window_size: int | None = 32  # the snac package's default, so a missing key means attention too
    vq_strides: list[int] = []


def read_config(folder: Path) -> CodecConfig:
    """Read config.json of `folder`. WeightsError if it is missing, damaged, or of a codec that cannot be streamed."""
    path = folder / CONFIG_FILE
    try:
        given = _ConfigFile.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise WeightsError(
            f"No {CONFIG_FILE} in {folder}. Set ORPHEUS_CODEC to a SNAC folder or to 'embedded'."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise WeightsError(
            f"{path} is no SNAC configuration ({where + ': ' if where else ''}{first['msg']}). Fetch it again."
        ) from error
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}.") from error
    if given.attn_window_size is not None:
        raise WeightsError(
            f"{path} asks for attention (attn_window_size {given.attn_window_size}), which this decoder cannot stream. Set "
            f"ORPHEUS_CODEC to a SNAC without attention, such as {REAL_CODEC}."
        )
    if tuple(given.vq_strides) != VQ_STRIDES:
        raise WeightsError(
            f"{path} has vq_strides {given.vq_strides[:8]}, but Orpheus' seven tokens per frame need "
            f"{list(VQ_STRIDES)}. Set ORPHEUS_CODEC to {REAL_CODEC}."
        )
    strides = tuple(given.decoder_rates)
    if not strides or min(strides) < 2 or given.decoder_dim % 2 ** len(strides):
        raise WeightsError(
            f"{path} cannot be run: decoder_rates {list(strides)} must be 2 or more each, and decoder_dim "
            f"{given.decoder_dim} must be divisible by 2 once for each. Set ORPHEUS_CODEC to {REAL_CODEC}."
        )
    latent = given.latent_dim or (given.encoder_dim or 0) * 2 ** len(given.encoder_rates)
    if not latent:
        raise WeightsError(f"{path} has neither latent_dim nor encoder_dim. Fetch it again.")
    return CodecConfig(
        sample_rate=given.sampling_rate,
        latent_channels=latent,
        channels=given.decoder_dim,
        strides=strides,
        codes=given.codebook_size,
        code_channels=given.codebook_dim,
        noise=given.noise,
        depthwise=given.depthwise,
    )


def fingerprint_of(folder: Path) -> str:
    """Another one for another codec."""
    return f"{identity(folder / WEIGHTS_FILE)} {read_config(folder)}"


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
        except Exception as error:  # damaged pickles raise anything
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
        if not (isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.is_floating_point()):
            tensor = None
        if tensor is None or tuple(tensor.shape) != shape:
            found = "nothing" if tensor is None else tuple(tensor.shape)
            raise WeightsError(
                f"{self.path} does not fit its {CONFIG_FILE}: {name} should be {shape}, found {found}. "
                "Fetch both files again."
            )
        if not tensor.isfinite().all():
            raise WeightsError(f"{self.path} is damaged: {name} holds infinities. Fetch it again.")
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
