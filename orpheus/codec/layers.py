"""SNAC's decoder as tensors ready to multiply: weight norms, biases and snakes folded into neighbouring layers.

Rows are samples and columns are channels throughout.

Folding snake: α · snake(x) = y + sin²(y) with y = αx. So the layer before is multiplied by α and the layer after
divided by it, and what is left to compute is y + sin²(y): two passes instead of six. Inside a block the residual
sum is kept in the scale of the first unit's snake.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TypeVar, cast

import torch
from torch import Tensor

from orpheus.codec.checkpoint import DILATIONS, KERNEL, VQ_STRIDES, Checkpoint, CodecConfig

# MKL's matrix product rounds a row the same way among 4 rows as among 4,000, but differently among fewer (x86 with
# AVX-512, 2026-11-21). So with 4 or more the same codes give the same bytes however they are chunked and batched, on one
# thread: two share the rows, and samples differ by up to 6e-7, unless MKL_CBWR=AVX2,STRICT is set (2026-11-30).
MIN_ROWS = 4
_SMALLEST_ALPHA = 1e-6  # α divides; below this snake(x) - x = αx² is under float32's resolution for |x| < 1
_Part = TypeVar("_Part")


@dataclass(frozen=True)
class Snake:
    """From the scale of the sum it reads to its own: y = scale · x + shift. Both None if that is the same."""

    scale: Tensor | None
    shift: Tensor | None


@dataclass(frozen=True)
class Conv:
    """Seven taps over time, centred."""

    weight: Tensor  # depthwise: (channels, 1, 1, 7); full: (7, channels in, channels out)
    bias: Tensor
    depthwise: bool
    dilation: int


@dataclass(frozen=True)
class ResidualUnit:
    """x += point(snake(conv(snake(x)))). The bias of `point` is in the next snake's shift."""

    snake: Snake
    conv: Conv
    point: Tensor  # (channels in, channels out)


@dataclass(frozen=True)
class DecoderBlock:
    """Snake, transposed convolution (kernel 2 · stride), noise, three residual units."""

    stride: int
    padding: int  # outputs cut at the front: samples by which the output is delayed
    snake: Snake
    near: Tensor  # (channels in, stride · channels out): what an input adds to its own `stride` outputs
    far: Tensor  # what it adds to the `stride` outputs after them
    bias: Tensor  # (channels out,)
    noise: Tensor | None  # (channels, channels)
    units: tuple[ResidualUnit, ...]


@dataclass(frozen=True)
class Network:
    table: Tensor  # (3 · codes, latent channels): each layer's codes, projected
    first: Conv
    widen: tuple[Tensor, Tensor] | None  # 1x1 weight (in, out) and bias, where `first` is depthwise
    blocks: tuple[DecoderBlock, ...]
    snake: Snake
    last: Tensor  # (channels, 7): to one channel, by tap
    last_bias: Tensor  # (1,)


def fold(config: CodecConfig, checkpoint: Checkpoint) -> Network:
    """The weights of quantizer and decoder, float32, on the CPU. WeightsError if some do not fit `config`."""
    model = "decoder.model"
    tables = []
    for layer in range(len(VQ_STRIDES)):
        at = f"quantizer.quantizers.{layer}"
        book = checkpoint.take(f"{at}.codebook.weight", config.codes, config.code_channels)
        weight = checkpoint.take_normed(
            f"{at}.out_proj.weight", config.latent_channels, config.code_channels, 1
        )
        bias = checkpoint.take(f"{at}.out_proj.bias", config.latent_channels)
        tables.append(torch.addmm(bias, book, weight[:, :, 0].t()))

    channels = config.channels
    widen = None
    if config.depthwise:
        first = _conv(checkpoint, f"{model}.0", config.latent_channels, config.latent_channels, True)
        weight, bias = _point(checkpoint, f"{model}.1", config.latent_channels, channels)
        widen, index = (weight, bias), 2
    else:
        first, index = _conv(checkpoint, f"{model}.0", config.latent_channels, channels, False), 1

    blocks = []
    scale: Tensor | None = None  # of the sum the next snake reads
    shift: Tensor | None = None  # biases still missing in it, unscaled
    for number, stride in enumerate(config.strides):
        block, scale, shift = _block(
            checkpoint, f"{model}.{index + number}", config, number, stride, scale, shift
        )
        blocks.append(block)
    index += len(config.strides)
    channels = config.channels_after(len(config.strides))
    snake, alpha = _snake(checkpoint, f"{model}.{index}", channels, scale, shift)
    last = checkpoint.take_normed(f"{model}.{index + 1}.weight", 1, channels, KERNEL)[0] / alpha[:, None]
    last_bias = checkpoint.take(f"{model}.{index + 1}.bias", 1)
    return Network(torch.cat(tables), first, widen, tuple(blocks), snake, _transposed(last), last_bias)


def _block(
    checkpoint: Checkpoint,
    at: str,
    config: CodecConfig,
    number: int,
    stride: int,
    scale: Tensor | None,
    shift: Tensor | None,
) -> tuple[DecoderBlock, Tensor, Tensor]:
    """One block, the scale of the sum it leaves, and the biases still missing in that sum."""
    wide, narrow = config.channels_after(number), config.channels_after(number + 1)
    units_at = 3 if config.noise else 2
    snake, alpha = _snake(checkpoint, f"{at}.block.0", wide, scale, shift)
    up = checkpoint.take_normed(f"{at}.block.1.weight", wide, narrow, 2 * stride) / alpha[:, None, None]
    up_bias = checkpoint.take(f"{at}.block.1.bias", narrow)
    scale = _alpha(checkpoint, f"{at}.block.{units_at}.block.0", narrow)
    noise = None
    if config.noise:
        noise, _ = _point(checkpoint, f"{at}.block.2.linear", narrow, narrow, bias=False)
        noise = (noise / scale[:, None] * scale).contiguous()
    units = []
    shift = None
    for index, dilation in enumerate(DILATIONS):
        unit = f"{at}.block.{units_at + index}.block"
        before, alpha_1 = _snake(checkpoint, f"{unit}.0", narrow, scale, shift)
        alpha_2 = _alpha(checkpoint, f"{unit}.2", narrow)
        conv = _conv(
            checkpoint, f"{unit}.1", narrow, narrow, config.depthwise, dilation, alphas=(alpha_1, alpha_2)
        )
        point, bias = _point(checkpoint, f"{unit}.3", narrow, narrow)
        shift = bias if shift is None else shift + bias
        units.append(ResidualUnit(before, conv, _transposed(point / alpha_2[:, None] * scale)))
    assert shift is not None
    up = up.permute(0, 2, 1) * scale  # (wide, 2 · stride, narrow)
    block = DecoderBlock(
        stride=stride,
        padding=-(-stride // 2),
        snake=snake,
        near=_transposed(up[:, :stride].reshape(wide, -1)),
        far=_transposed(up[:, stride:].reshape(wide, -1)),
        bias=up_bias * scale,
        noise=noise,
        units=tuple(units),
    )
    return block, scale, shift


def _alpha(checkpoint: Checkpoint, at: str, channels: int) -> Tensor:
    alpha = checkpoint.take(f"{at}.alpha", 1, channels, 1).reshape(-1)
    return torch.where(alpha.abs() < _SMALLEST_ALPHA, _SMALLEST_ALPHA, alpha)


def _snake(
    checkpoint: Checkpoint, at: str, channels: int, scale: Tensor | None, shift: Tensor | None
) -> tuple[Snake, Tensor]:
    """The snake that reads a sum in `scale` which lacks `shift` (unscaled biases), and its α."""
    alpha = _alpha(checkpoint, at, channels)
    same = scale is not None and shift is None and torch.equal(scale, alpha)
    ratio = None if same else alpha if scale is None else alpha / scale
    return Snake(ratio, None if shift is None else shift * alpha), alpha


def _conv(
    checkpoint: Checkpoint,
    at: str,
    wide: int,
    narrow: int,
    depthwise: bool,
    dilation: int = 1,
    *,
    alphas: tuple[Tensor, Tensor] | None = None,
) -> Conv:
    """A convolution, with the α of the snakes before and after it folded in if `alphas` are given."""
    weight = checkpoint.take_normed(f"{at}.weight", narrow, 1 if depthwise else wide, KERNEL)
    bias = checkpoint.take(f"{at}.bias", narrow)
    if alphas:
        before, after = alphas
        weight = weight * after[:, None, None] / (before[:, None] if depthwise else before)[..., None]
        bias = bias * after
    weight = weight[:, :, None] if depthwise else weight.permute(2, 1, 0)
    return Conv(weight.contiguous(), bias, depthwise, dilation)


def _point(
    checkpoint: Checkpoint, at: str, wide: int, narrow: int, *, bias: bool = True
) -> tuple[Tensor, Tensor]:
    """A 1x1 convolution as (wide, narrow) and its bias."""
    weight = checkpoint.take_normed(f"{at}.weight", narrow, wide, 1)[:, :, 0].t()
    return weight, checkpoint.take(f"{at}.bias", narrow) if bias else torch.zeros(narrow)


def _transposed(weight: Tensor) -> Tensor:
    """The same matrix, stored by output if that rounds alike on this processor, else by input.

    By output, MKL reads it a third faster for the few rows of one frame, and rounds a row the same way wherever it
    is, which it does not for seven columns stored by input. Intel with AMX is the other way round for up to ten rows
    of wide matrices.
    """
    by_output = weight.t().contiguous().t()
    return by_output if rounds_alike(by_output) else weight.contiguous()


def rounds_alike(weight: Tensor) -> bool:
    """Whether this processor rounds a row times `weight` the same among few rows as among many."""
    rows = torch.randn(64, weight.shape[0], generator=torch.Generator().manual_seed(1))
    many = rows @ weight
    return all(torch.equal(rows[:few] @ weight, many[:few]) for few in range(MIN_ROWS, 33))


def to_device(part: _Part, device: torch.device) -> _Part:
    """A copy of a layer, or of a tree of layers, with its tensors on `device`."""
    if isinstance(part, Tensor):
        return cast(_Part, part.to(device))
    if isinstance(part, tuple):
        return cast(_Part, tuple(to_device(each, device) for each in part))
    if is_dataclass(part) and not isinstance(part, type):
        moved = {field.name: to_device(getattr(part, field.name), device) for field in fields(part)}
        return replace(part, **moved)
    return part
