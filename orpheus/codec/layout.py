"""A network → where each layer's history lies in a stream's memory, and by how much its output is late.

Knows nothing of what is computed with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from orpheus.codec.checkpoint import KERNEL, CodecConfig
from orpheus.codec.layers import Network

LOOK = KERNEL // 2  # samples that a convolution of dilation 1 looks to each side


@dataclass(frozen=True)
class StateSlice:
    """Where in a stream's memory one history lies."""

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


def lay_out(shape: CodecConfig, network: Network) -> tuple[list[StateSlice], int]:
    """Every history in the order it is used, and the samples the last layer's output is late by."""
    places: list[StateSlice] = []

    def place(rows: int, channels: int) -> None:
        places.append(StateSlice(places[-1].stop if places else 0, rows, channels))

    late = LOOK
    place(2 * LOOK, shape.latent_channels)
    for number, block in enumerate(network.blocks):
        narrow = shape.channels_after(number + 1)
        place(1, shape.channels_after(number))
        looks = [LOOK * unit.conv.dilation for unit in block.units]
        place(sum(looks), narrow)  # the residual sum, once for all three units
        for look in looks:
            place(2 * look, narrow)
        late = late * block.stride + block.pad + sum(looks)
    place(2 * LOOK, shape.channels_after(len(shape.strides)))
    return places, late + LOOK
