"""The decoder for CUDA: steps of fixed shapes, each captured once as a graph and replayed.

A step is some 300 small kernels: launched one by one they take the GPU longer to launch than to compute, whatever the
batch; a replay is one launch. So a batch is rounded up to a captured size with empty streams, and only the codes, the
positions and the memories are copied between replays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from orpheus.codec.checkpoint import LATENTS_PER_FRAME, CodecConfig
from orpheus.codec.decoder import Decoder
from orpheus.codec.edges import MaskEdges
from orpheus.codec.layers import Network

BATCHES = (1, 2, 4, 8, 16, 32, 64)
LATENTS = (LATENTS_PER_FRAME // 2, LATENTS_PER_FRAME)
_WARM_UPS = 3  # runs before a capture, in which cuDNN and cuBLAS choose kernels and allocate

Capture = Callable[[Callable[[], Tensor]], tuple[Callable[[], object], Tensor]]


def capture_graph(run: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
    """Capture `run` on the current device → (replay, the tensor that it fills)."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    return graph.replay, out


@dataclass(frozen=True)
class _Captured:
    memory: Tensor
    codes: Tensor
    positions: Tensor
    ends: Tensor
    base: Tensor | None
    replay: Callable[[], object]
    out: Tensor


class GraphedDecoder(Decoder):
    """A Decoder whose steps of 2 and 4 latents are graphs; other steps run as they are."""

    max_latents = BATCHES[-1] * LATENTS[-1]

    def __init__(
        self,
        config: CodecConfig,
        network: Network,
        *,
        noise: bool,
        device: torch.device,
        batches: Sequence[int] = BATCHES,
        capture: Capture = capture_graph,
    ) -> None:
        super().__init__(config, network, noise=noise, device=device)
        self._batches = tuple(sorted(batches))
        self._capture = capture
        self._captured: dict[tuple[int, int], _Captured] = {}

    def fit(self, latents: int) -> int:
        """The longest captured step of at most `latents`; `latents` if none is that short."""
        return max((count for count in LATENTS if count <= latents), default=latents)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Capture a step of every shape, largest first, so that the smaller ones reuse its memory."""
        for batch in reversed(self._batches):
            for latents in reversed(LATENTS):
                self._captured[batch, latents] = self._capture_step(batch, latents)

    def _capture_step(self, batch: int, latents: int) -> _Captured:
        memory = self.new_memory(batch)
        codes = torch.zeros(batch, latents, 3, dtype=torch.int64, device=self.device)
        positions = torch.zeros(batch, dtype=torch.int64, device=self.device)
        ends = torch.zeros_like(positions)
        base = self.noise_bases([0] * batch, [0] * batch) if self.noise else None
        edges = MaskEdges(positions, ends)
        replay, out = self._capture(lambda: self.run(memory, codes, edges, base))
        return _Captured(memory, codes, positions, ends, base, replay, out)

    @torch.inference_mode()
    def step(
        self,
        memory: Tensor,
        codes: Tensor,
        positions: Sequence[int],
        ends: Sequence[int],
        seeds: Sequence[int],
    ) -> Tensor:
        streams, latents = codes.shape[:2]
        batch = next((size for size in self._batches if size >= streams), 0)
        graph = self._captured.get((batch, latents))
        if graph is None:
            return super().step(memory, codes, positions, ends, seeds)
        graph.memory[:streams].copy_(memory)
        graph.codes[:streams].copy_(codes)
        # Unused streams end at 0, which clears what an earlier step left in them before it can grow.
        bounds = torch.zeros(2, batch, dtype=torch.int64)
        bounds[:, :streams] = torch.tensor([list(positions), list(ends)])
        graph.positions.copy_(bounds[0])
        graph.ends.copy_(bounds[1])
        if graph.base is not None:
            graph.base[:, :streams].copy_(self.noise_bases(positions, seeds))
        graph.replay()
        memory.copy_(graph.memory[:streams])
        return graph.out[:streams].clone()
