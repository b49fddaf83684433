"""Latents of several streams, each with its own memory → the samples they make final. The exact streaming core.

Knows nothing of slots, of threads or of listeners.

How it is exact. SNAC's decoder is centred convolutions, each padded with zeros at the ends of the sequence. Here
every layer keeps the inputs that later outputs still need and answers late by its own right context: n latents
in, n · hop samples out, `delay` samples behind. Positions before the first and after the last latent are set to
zero at the input of every layer that looks at its neighbours, which is exactly the padding; so a stream's start,
middle and flush are one and the same step and may share a batch.

How it is cheap. Rows are (time, stream) and columns channels: 1x1 and transposed convolutions are matrix products
over all rows, and one stream more is a larger dilation. Residual sums happen in place, in a buffer whose front is
the delay, so nothing is moved to line a sum up with its delayed operand.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from orpheus.codec.checkpoint import KERNEL, LATENTS_PER_FRAME, Checkpoint, CodecConfig, read_config
from orpheus.codec.edges import OPEN_END, Edges, RowEdges
from orpheus.codec.layers import FEWEST_ROWS, Block, Conv, Network, Snake, fold, to_device
from orpheus.codec.layout import LOOK, StateSlice, lay_out
from orpheus.codec.noise import bases, counter_offsets, noise_from_counters, quantile_table


class Decoder:
    """SNAC's quantizer and decoder with weight norm folded, float32, on one device. Stateless: memory is the caller's."""

    most_latents = 32  # streams times latents of a step worth taking: more fall out of a core's cache

    def __init__(self, shape: CodecConfig, network: Network, *, noise: bool, device: torch.device) -> None:
        self.shape, self.device = shape, device
        self.noise = noise and shape.noise
        self.hop = shape.hop
        self.network = to_device(network, device)
        self._places, self.delay = lay_out(shape, network)  # samples an output is late by
        self.floats = self._places[-1].stop  # memory of one stream
        self.tail = -(-self.delay // self.hop)  # latents of nothing that push the last sample out
        self._table = quantile_table().to(device)
        self._layer_offsets = torch.arange(3, device=device) * shape.codes
        self._counters: dict[int, tuple[Tensor, Tensor]] = {}

    @classmethod
    def load(cls, folder: Path, *, noise: bool = True, device: str = "cpu") -> Decoder:
        """From a SNAC folder. WeightsError where it is missing, damaged or of another kind."""
        shape = read_config(folder)
        return cls(shape, fold(shape, Checkpoint(folder)), noise=noise, device=torch.device(device))

    def new_memory(self, streams: int = 1) -> Tensor:
        """float32 (streams, floats): before the first latent there is nothing but zeros."""
        return torch.zeros(streams, self.floats, device=self.device)

    def fit(self, latents: int) -> int:
        """The longest step within `latents` that runs well."""
        return latents

    def warm_up(self) -> None:
        """Run one frame, so that the first listener does not pay for allocations and kernel choices."""
        self.step(self.new_memory(), torch.zeros(1, LATENTS_PER_FRAME, 3).long(), [0], [OPEN_END], [0])

    @torch.inference_mode()
    def step(
        self,
        memory: Tensor,
        codes: Tensor,
        positions: Sequence[int],
        ends: Sequence[int],
        seeds: Sequence[int],
    ) -> Tensor:
        """Advance every stream by the same number of latents.

        memory: (streams, floats), advanced in place. codes: int64 (streams, latents, 3), each latent's code of the
        three layers; whatever stands beyond a stream's end is ignored. positions: latents fed before. ends: latents
        of the whole stream, or OPEN_END. Returns float32 (streams, latents · hop): samples
        position · hop - delay and on. Those before 0 or from end · hop on are no samples.
        """
        streams, latents = codes.shape[:2]
        if (short := -(-FEWEST_ROWS // latents) - streams) > 0:  # streams that are empty make up the rows
            memories, more = torch.cat([memory, self.new_memory(short)]), [0] * short
            codes = F.pad(codes, (0, 0, 0, 0, 0, short))
            pcm = self.step(memories, codes, [*positions, *more], [*ends, *more], [*seeds, *more])
            memory.copy_(memories[:streams])
            return pcm[:streams]
        edges = RowEdges(positions, ends, latents, self.tail + 1)
        base = self.noise_bases(positions, seeds) if self.noise else None
        return self.run(memory, codes.to(self.device), edges, base)

    def noise_bases(self, positions: Sequence[int], seeds: Sequence[int]) -> Tensor:
        """int64 (blocks, streams): where each block's noise stands."""
        rate, late, starts = 1, LOOK, []
        for block in self.network.blocks:
            rate *= block.stride
            late = late * block.stride + block.pad
            starts.append([position * rate - late for position in positions])
            late += sum(LOOK * unit.conv.dilation for unit in block.units)
        return bases(seeds, starts).to(self.device)

    def run(self, memory: Tensor, codes: Tensor, edges: Edges, base: Tensor | None) -> Tensor:
        """`step` on tensors only: what a graph captures."""
        network, places = self.network, iter(self._places)
        streams, latents = codes.shape[:2]
        noises = self._noises(base, latents) if base is not None else None

        ids = (codes + self._layer_offsets).transpose(0, 1).reshape(-1, 3)
        place = next(places)
        rows = self._with_history(memory, place, latents)
        torch.sum(network.table[ids], dim=1, out=rows[place.rows :].view(-1, place.channels))
        edges.clear(rows[place.rows :], 1, 0)
        place.view(memory).copy_(rows[latents:])
        x = self._conv(network.first, rows)
        if network.widen is not None:
            x = torch.addmm(network.widen[1], x, network.widen[0])
        rate, late = 1, LOOK
        for number, block in enumerate(network.blocks):
            noise = noises[number] if noises is not None else None
            place = next(places)
            rows = self._with_history(memory, place, latents * rate)
            self._snake(block.snake, x, rows[1:])
            edges.clear(rows[1:], rate, late)
            place.view(memory).copy_(rows[-1:])
            rate *= block.stride
            late = late * block.stride + block.pad
            place = next(places)
            rows = self._upsample(block, rows, noise, self._with_history(memory, place, latents * rate))
            x = rows[place.rows :]
            start = place.rows
            for unit in block.units:
                look = LOOK * unit.conv.dilation
                history = next(places)
                seen = self._with_history(memory, history, latents * rate)
                self._snake(unit.snake, x.view(-1, history.channels), seen[2 * look :])
                edges.clear(seen[2 * look :], rate, late)
                history.view(memory).copy_(seen[latents * rate :])
                inner = self._conv(unit.conv, seen)
                _add_sine_squared(inner)
                start -= look
                late += look
                x = rows[start : start + latents * rate]
                x.view(-1, history.channels).addmm_(inner, unit.point)
            place.view(memory).copy_(rows[latents * rate :])
            x = x.view(-1, place.channels)
        place = next(places)
        rows = self._with_history(memory, place, latents * rate)
        self._snake(network.snake, x, rows[place.rows :])
        edges.clear(rows[place.rows :], rate, late)
        place.view(memory).copy_(rows[latents * rate :])
        taps = rows.view(-1, place.channels) @ network.last
        samples = latents * rate * streams
        # Tap k of output t is row t + k: a diagonal, which strides can read without moving anything.
        pcm = taps.as_strided((samples, KERNEL), (KERNEL, KERNEL * streams + 1)).sum(1)
        return pcm.add_(network.last_bias).tanh_().view(-1, streams).t()

    def _with_history(self, memory: Tensor, place: StateSlice, count: int) -> Tensor:
        """(place.rows + count, streams, channels), the first rows filled from memory."""
        rows = memory.new_empty(place.rows + count, memory.shape[0], place.channels)
        rows[: place.rows].copy_(place.view(memory))
        return rows

    @staticmethod
    def _snake(snake: Snake, x: Tensor, out: Tensor) -> None:
        out = out.view(-1, out.shape[-1])
        if snake.scale is None:
            out.copy_(x)
        elif snake.shift is None:
            torch.mul(x, snake.scale, out=out)
        else:
            torch.addcmul(snake.shift, x, snake.scale, out=out)
        _add_sine_squared(out)

    @staticmethod
    def _conv(conv: Conv, rows: Tensor) -> Tensor:
        """(history + count, streams, channels) → (count · streams, channels)."""
        streams, channels = rows.shape[1:]
        if not conv.depthwise:
            # A product for each tap: oneDNN rounds a full convolution otherwise for every length.
            step = conv.dilation * streams
            flat = rows.view(-1, channels)
            count = len(flat) - (KERNEL - 1) * step
            out = torch.addmm(conv.bias, flat[:count], conv.weight[0])
            for tap in range(1, KERNEL):
                out.addmm_(flat[tap * step : tap * step + count], conv.weight[tap])
            return out
        # Seven taps, as an image one pixel high.
        image = rows.view(1, 1, -1, channels).permute(0, 3, 1, 2)
        # The 2 dilates nothing, the kernel being one high: it keeps oneDNN to one kernel, so to one order of rounding,
        # also where a lone stream's dilation is 1.
        dilation = (2, conv.dilation * streams)
        out = F.conv2d(image, conv.weight, conv.bias, dilation=dilation, groups=channels)
        return out.permute(0, 2, 3, 1).reshape(-1, channels)

    def _upsample(self, block: Block, rows: Tensor, noise: Tensor | None, out: Tensor) -> Tensor:
        """Transposed convolution and noise of (1 + count, streams, wide), into the end of `out`."""
        streams, wide = rows.shape[1:]
        narrow = out.shape[2]
        product = rows[1:].view(-1, wide) @ block.near
        product.addmm_(rows[:-1].view(-1, wide), block.far)
        count = product.shape[0] // streams
        fresh = out[-count * block.stride :].view(count, block.stride, streams, narrow)
        torch.add(product.view(count, streams, block.stride, narrow).transpose(1, 2), block.bias, out=fresh)
        if noise is not None and block.noise is not None:
            x = fresh.view(-1, narrow)
            x.addcmul_(x @ block.noise, noise)
        return out

    def _noises(self, base: Tensor, latents: int) -> list[Tensor]:
        """Each block's noise, (samples · streams, 1), from one call for all blocks."""
        if latents not in self._counters:
            rate, blocks, offsets = 1, [], []
            for number, block in enumerate(self.network.blocks):
                rate *= block.stride
                offsets.append(counter_offsets(latents * rate))
                blocks.append(torch.full((latents * rate,), number))
            self._counters[latents] = (
                torch.cat(blocks).to(self.device),
                torch.cat(offsets)[:, None].to(self.device),
            )
        which, offset = self._counters[latents]
        values = noise_from_counters(base.index_select(0, which).add_(offset), self._table)
        lengths, rate = [], latents
        for block in self.network.blocks:
            rate *= block.stride
            lengths.append(rate)
        return [part.view(-1, 1) for part in values.split_with_sizes(lengths)]


def _add_sine_squared(y: Tensor) -> None:
    """y + sin²(y) in place. On a CPU by numpy, whose float32 sine takes 0.4 of torch's time (1.2 ns) and errs by 6e-8."""
    sine = torch.sin(y) if y.is_cuda else torch.from_numpy(np.sin(y.numpy()))
    y.addcmul_(sine, sine)
