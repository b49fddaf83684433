"""The exact streaming decoder: codes of several streams, each with its own memory → the samples that became final.

How it is exact. SNAC's decoder is made of centred convolutions, each padded with zeros at the ends of the sequence.
Here every layer keeps the inputs that later outputs still need, and its output is delayed by its right context: n
latents in, n · hop samples out, `delay` samples behind. Positions before the first and after the last latent are set
to zero at the input of every layer that looks at its neighbours, which is exactly the padding. So a stream's start,
middle and flush are the same step and may share a batch.

How it is fast. Rows are (time, stream) and columns are channels: 1x1 and transposed convolutions are matrix products
over all rows, and one more stream is a larger dilation. Residual sums happen in place, in a buffer whose front is the
delay, so nothing is moved to align a sum with its delayed operand.
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
from orpheus.codec.layers import MIN_ROWS, Conv, DecoderBlock, Network, Snake, fold, to_device
from orpheus.codec.layout import PADDING, StateSlice, state_layout
from orpheus.codec.noise import bases, counter_offsets, noise_from_counters, quantile_table

# More latents in a step cost as much each (0.7 ms, embedded size, AMD EPYC, one core, 2026-11-30), and the most urgent stream
# would wait for the others. Of the published size 32 cost less: 4 to 5% on one thread, 8 to 11% on two (8 and 16 streams).
BRISK_LATENTS = 16
WIDE_CHANNELS = 1024


class Decoder:
    """SNAC's quantizer and decoder, float32, on one device. Stateless: the caller keeps each stream's memory."""

    def __init__(self, config: CodecConfig, network: Network, *, noise: bool, device: torch.device) -> None:
        if device.type == "cuda" and device.index is None:
            # "cuda" is the device that is current in a thread, and llama.cpp leaves its last one current where it loads.
            device = torch.device("cuda", 0)
        self.config, self.device = config, device
        self.noise = noise and config.noise
        self.hop = config.hop
        self.network = to_device(network, device)
        self._histories, self.delay = state_layout(config, network)  # the delay of an output in samples
        self.floats = self._histories[-1].stop  # memory of one stream
        # In one step, over all streams: four frames of one, or eight of a codec whose weights are read from memory anew.
        self.max_latents = 2 * BRISK_LATENTS if config.channels >= WIDE_CHANNELS else BRISK_LATENTS
        self.max_latents_before_first = BRISK_LATENTS  # while a listener waits for the first audio
        self.max_streams = self.max_latents
        self.tail = -(-self.delay // self.hop)  # empty latents that push the last sample out
        self._table = quantile_table().to(device)
        self._layer_offsets = torch.arange(3, device=device) * config.codes
        self._counters: dict[int, tuple[Tensor, Tensor]] = {}

    @classmethod
    def load(cls, folder: Path, *, noise: bool = True, device: str = "cpu") -> Decoder:
        """From a SNAC folder. WeightsError if it is missing, damaged, or a codec that cannot be streamed."""
        config = read_config(folder)
        return cls(config, fold(config, Checkpoint(folder)), noise=noise, device=torch.device(device))

    def new_memory(self, streams: int = 1) -> Tensor:
        """float32 (streams, floats), zeros: the memory before the first latent."""
        return torch.zeros(streams, self.floats, device=self.device)

    def fit(self, latents: int) -> int:
        """The longest step of at most `latents` that runs well."""
        return latents

    def split(self, latents: int) -> list[int]:
        """The steps that together decode `latents`, or a few more."""
        return [latents]

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

        memory: (streams, floats), advanced in place. codes: int64 (streams, latents, 3), each latent's code in the
        three layers; codes beyond a stream's end are ignored. positions: latents decoded before. ends: latents of the
        whole stream, or OPEN_END. Returns float32 (streams, latents · hop): the samples from position · hop - delay
        on, of which those before 0 and from end · hop on are to be ignored.
        """
        streams, latents = codes.shape[:2]
        if (missing := -(-MIN_ROWS // latents) - streams) > 0:  # made up by empty streams
            memories, zeros = torch.cat([memory, self.new_memory(missing)]), [0] * missing
            codes = F.pad(codes, (0, 0, 0, 0, 0, missing))
            pcm = self.step(memories, codes, [*positions, *zeros], [*ends, *zeros], [*seeds, *zeros])
            memory.copy_(memories[:streams])
            return pcm[:streams]
        edges = RowEdges(positions, ends, latents, self.tail + 1)
        base = self.noise_bases(positions, seeds).to(self.device) if self.noise else None
        return self.run(memory, codes.to(self.device), edges, base)

    def noise_bases(self, positions: Sequence[int], seeds: Sequence[int]) -> Tensor:
        """int64 (blocks, streams), on the CPU: the counter at which each block's noise begins in this step."""
        rate, delay, starts = 1, PADDING, []
        for block in self.network.blocks:
            rate *= block.stride
            delay = delay * block.stride + block.padding
            starts.append([position * rate - delay for position in positions])
            delay += sum(PADDING * unit.conv.dilation for unit in block.units)
        return bases(seeds, starts)

    def run(self, memory: Tensor, codes: Tensor, edges: Edges, base: Tensor | None) -> Tensor:
        """`step` on tensors only: what a graph captures."""
        network, histories = self.network, iter(self._histories)
        streams, latents = codes.shape[:2]
        blocks = self._reached(edges)
        noises = self._noises(base, latents, len(blocks)) if base is not None else None

        ids = (codes + self._layer_offsets).transpose(0, 1).reshape(-1, 3)
        history = next(histories)
        rows = self._with_history(memory, history, latents)
        torch.sum(network.table[ids], dim=1, out=rows[history.rows :].view(-1, history.channels))
        edges.clear(rows[history.rows :], 1, 0)
        history.view(memory).copy_(rows[latents:])
        x = self._conv(network.first, rows)
        if network.widen is not None:
            x = torch.addmm(network.widen[1], x, network.widen[0])
        rate, delay = 1, PADDING
        for number, block in enumerate(blocks):
            noise = noises[number] if noises is not None else None
            history = next(histories)
            rows = self._with_history(memory, history, latents * rate)
            self._snake(block.snake, x, rows[1:])
            edges.clear(rows[1:], rate, delay)
            history.view(memory).copy_(rows[-1:])
            rate *= block.stride
            delay = delay * block.stride + block.padding
            sums = next(histories)
            rows = self._upsample(block, rows, noise, self._with_history(memory, sums, latents * rate))
            x = rows[sums.rows :]
            start = sums.rows
            for unit in block.units:
                padding = PADDING * unit.conv.dilation
                history = next(histories)
                inputs = self._with_history(memory, history, latents * rate)
                self._snake(unit.snake, x.view(-1, history.channels), inputs[2 * padding :])
                edges.clear(inputs[2 * padding :], rate, delay)
                history.view(memory).copy_(inputs[latents * rate :])
                inner = self._conv(unit.conv, inputs)
                _add_sine_squared(inner)
                start -= padding
                delay += padding
                x = rows[start : start + latents * rate]
                x.view(-1, history.channels).addmm_(inner, unit.point)
            sums.view(memory).copy_(rows[latents * rate :])
            x = x.view(-1, sums.channels)
        if len(blocks) < len(network.blocks):
            return x.new_zeros(streams, latents * self.hop)
        history = next(histories)
        rows = self._with_history(memory, history, latents * rate)
        self._snake(network.snake, x, rows[history.rows :])
        edges.clear(rows[history.rows :], rate, delay)
        history.view(memory).copy_(rows[latents * rate :])
        taps = rows.view(-1, history.channels) @ network.last
        samples = latents * rate * streams
        # Tap k of output t is row t + k: a diagonal, which strides can read without moving anything.
        pcm = taps.as_strided((samples, KERNEL), (KERNEL, KERNEL * streams + 1)).sum(1)
        return pcm.add_(network.last_bias).tanh_().view(-1, streams).t()

    def _reached(self, edges: Edges) -> list[DecoderBlock]:
        """The blocks that this step's latents reach. At a stream's beginning the later ones, which are the dearer,
        still lie before its first sample: they would compute zeros and keep the zeros they have.
        """
        rate, delay, reached = 1, PADDING, []
        for block in self.network.blocks:
            if edges.all_before(rate, delay):
                break
            reached.append(block)
            rate *= block.stride
            delay = delay * block.stride + block.padding
            delay += sum(PADDING * unit.conv.dilation for unit in block.units)
        return reached

    def _with_history(self, memory: Tensor, history: StateSlice, count: int) -> Tensor:
        """(history.rows + count, streams, channels), the first rows filled from memory."""
        rows = memory.new_empty(history.rows + count, memory.shape[0], history.channels)
        rows[: history.rows].copy_(history.view(memory))
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
            # A product for each tap: oneDNN rounds a full convolution differently for every length.
            step = conv.dilation * streams
            flat = rows.view(-1, channels)
            count = len(flat) - (KERNEL - 1) * step
            out = torch.addmm(conv.bias, flat[:count], conv.weight[0])
            for tap in range(1, KERNEL):
                out.addmm_(flat[tap * step : tap * step + count], conv.weight[tap])
            return out
        # Over time, as an image one pixel high.
        image = rows.view(1, 1, -1, channels).permute(0, 3, 1, 2)
        if not rows.is_cpu:
            # torch gives every depthwise convolution with channels last to cuDNN, in TF32, and cuDNN has no kernel for
            # some in float32. A plain copy goes to torch's own, in float32 (Convolution.cpp, `use_cudnn_depthwise`).
            image = image.contiguous()
        # The 2 has no effect on a kernel one pixel high, but keeps oneDNN to one implementation, and so to one order of
        # rounding, even for a lone stream with dilation 1.
        dilation = (2, conv.dilation * streams)
        out = F.conv2d(image, conv.weight, conv.bias, dilation=dilation, groups=channels)
        return out.permute(0, 2, 3, 1).reshape(-1, channels)

    def _upsample(self, block: DecoderBlock, rows: Tensor, noise: Tensor | None, out: Tensor) -> Tensor:
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

    def _noises(self, base: Tensor, latents: int, count: int) -> list[Tensor]:
        """The noise of the first `count` blocks, each (samples · streams, 1), from one call for all."""
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
        lengths, rate = [], latents
        for block in self.network.blocks[:count]:
            rate *= block.stride
            lengths.append(rate)
        which, offset = (part[: sum(lengths)] for part in self._counters[latents])
        values = noise_from_counters(base.index_select(0, which).add_(offset), self._table)
        return [part.view(-1, 1) for part in values.split_with_sizes(lengths)]


def _add_sine_squared(y: Tensor) -> None:
    """y + sin²(y) in place. On a CPU by NumPy, whose float32 sine takes 0.4 of torch's time (1.2 ns) and errs by 6e-8."""
    sine = torch.from_numpy(np.sin(y.numpy())) if y.is_cpu else torch.sin(y)
    y.addcmul_(sine, sine)
