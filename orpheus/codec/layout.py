"""How a stream's memory is laid out: where each layer keeps its history, and how much the output is delayed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from orpheus.codec.checkpoint import KERNEL, CodecConfig
from orpheus.codec.layers import Network

PADDING = KERNEL // 2  # of a convolution of dilation 1: samples it looks at on each side


@dataclass(frozen=True)
class StateSlice:
    """Where one layer's history lies in a stream's memory."""

    start: int  # floats
    rows: int
    channels: int

    @property
    def stop(self) -> int:
        return self.start + self.rows * self.channels

    def view(self, memory: Tensor) -> Tensor:
        """(rows, streams, channels) of memory (streams, floats)."""
        part = memory[:, self.start : self.stop]
        return part.view(memory.shape[0], self.rows, self.channels).transpose(0, 1)


def state_layout(config: CodecConfig, network: Network) -> tuple[list[StateSlice], int]:
    """Every history in the order in which a step uses it, and the delay of the last layer's output in samples."""
    histories: list[StateSlice] = []

    def add(rows: int, channels: int) -> None:
        histories.append(StateSlice(histories[-1].stop if histories else 0, rows, channels))

    delay = PADDING
    add(2 * PADDING, config.latent_channels)
    for number, block in enumerate(network.blocks):
        narrow = config.channels_after(number + 1)
        add(1, config.channels_after(number))
        paddings = [PADDING * unit.conv.dilation for unit in block.units]
        add(sum(paddings), narrow)  # the residual sum, once for all three units
        for padding in paddings:
            add(2 * padding, narrow)
        delay = delay * block.stride + block.padding + sum(paddings)
    add(2 * PADDING, config.channels_after(len(config.strides)))
    return histories, delay + PADDING
