"""The decoder for CUDA: steps of fixed shapes, each captured once as a graph and replayed.

A step is some 300 small kernels: launched one by one they take the GPU longer to launch than to compute, whatever the
batch; a replay is one launch. So a batch is rounded up to a captured size with empty streams, and only the streams'
memories and one packed tensor of codes, positions and noise counters are copied between replays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orpheus.codec.checkpoint import LATENTS_PER_FRAME, VQ_STRIDES, CodecConfig
from orpheus.codec.decoder import Decoder
from orpheus.codec.edges import OPEN_END, MaskEdges
from orpheus.codec.layers import Network
from orpheus.errors import SetupError

BATCHES = (1, 2, 4, 8, 16, 32, 64)
LATENTS = (LATENTS_PER_FRAME // 2, LATENTS_PER_FRAME)
_WARM_UPS = 3  # runs before a capture, in which cuBLAS chooses kernels and allocates
_TOLERANCE = 1e-3  # between a replay and the same step without a graph, whose kernels may differ

Capture = Callable[[Callable[[], Tensor]], tuple[Callable[[], object], Tensor]]


class GraphCapture:
    """Captures steps of one device → (replay, the tensor that it fills).

    All graphs share one memory pool and were warmed up on one stream: a replay ends before the next begins, and each
    pool or stream of its own would keep tens of megabytes.
    """

    def __init__(self, device: torch.device) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            for _ in range(_WARM_UPS):
                run()
        torch.cuda.current_stream().wait_stream(self._side)
        graph = torch.cuda.CUDAGraph()
        # Only this thread's calls matter to it: by default one of llama.cpp's, in another thread, would end the capture.
        mode = "thread_local"
        with torch.cuda.graph(graph, pool=self._pool, stream=self._side, capture_error_mode=mode):
            out = run()
        return graph.replay, out


class _Inputs:
    """The integers of a step, packed: written on the host, copied to the device in one go, read there as views."""

    def __init__(self, batch: int, latents: int, blocks: int, device: torch.device) -> None:
        """`blocks`: rows of noise counters, 0 for none."""
        shapes = ((batch, latents, len(VQ_STRIDES)), (batch,), (batch,), (blocks, batch))
        sizes = [int(np.prod(shape)) for shape in shapes]
        pinned = device.type == "cuda"  # else the copy would wait for the host
        self._host = torch.zeros(sum(sizes), dtype=torch.int64, pin_memory=pinned)
        self._device = self._host.to(device)
        self._copied = torch.cuda.Event() if pinned else None  # type: ignore[no-untyped-call]

        def views(packed: Tensor) -> list[Tensor]:
            return [part.view(shape) for part, shape in zip(torch.split(packed, sizes), shapes, strict=True)]

        self.codes, self.positions, self.ends, self.bases = views(self._device)
        self._host_views: list[NDArray[np.int64]] = [view.numpy() for view in views(self._host)]

    def write(
        self, codes: Tensor, positions: Sequence[int], ends: Sequence[int], bases: Tensor | None
    ) -> None:
        """Set the first streams. Unused ones end at 0, which clears what an earlier step left in them."""
        if self._copied is not None:
            self._copied.synchronize()  # the last copy may not have read the host's memory yet
        streams = len(positions)
        host_codes, host_positions, host_ends, host_bases = self._host_views
        host_codes[:streams] = codes.numpy()
        for host, given in ((host_positions, positions), (host_ends, ends)):
            host[:] = 0
            host[:streams] = given
        if bases is not None:
            host_bases[:, :streams] = bases.numpy()
        self._device.copy_(self._host, non_blocking=True)
        if self._copied is not None:
            self._copied.record()


@dataclass(frozen=True)
class _Captured:
    memory: Tensor
    inputs: _Inputs
    replay: Callable[[], object]
    out: Tensor


class GraphedDecoder(Decoder):
    """A Decoder whose steps of 2 and 4 latents are graphs; other steps run as they are."""

    def __init__(
        self,
        config: CodecConfig,
        network: Network,
        *,
        noise: bool,
        device: torch.device,
        batches: Sequence[int] = BATCHES,
        capture: Capture | None = None,
    ) -> None:
        super().__init__(config, network, noise=noise, device=device)
        self._batches = tuple(sorted(batches))
        self.max_streams = self._batches[-1]
        self.max_latents = self.max_latents_before_first = self.max_streams * max(LATENTS)
        self._capture = capture
        self._captured: dict[tuple[int, int], _Captured] = {}

    def fit(self, latents: int) -> int:
        """The longest captured step of at most `latents`; `latents` if none is that short."""
        return max((count for count in LATENTS if count <= latents), default=latents)

    def split(self, latents: int) -> list[int]:
        """As many of the longest captured steps as fit, and the shortest that covers the rest."""
        longest = max(LATENTS)
        whole, rest = divmod(latents, longest)
        return [longest] * whole + [min(count for count in LATENTS if count >= rest)] * (rest > 0)

    def new_memory(self, streams: int = 1) -> Tensor:
        with self._on_device():
            return super().new_memory(streams)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Capture a step of every shape, largest first: the smaller ones reuse its memory.

        SetupError if they do not compute what they should.
        """
        with self._on_device():
            capture = self._capture or GraphCapture(self.device)
            for batch in reversed(self._batches):
                for latents in reversed(LATENTS):
                    self._captured[batch, latents] = self._capture_step(batch, latents, capture)

    def _capture_step(self, batch: int, latents: int, capture: Capture) -> _Captured:
        memory = self.new_memory(batch)
        inputs = _Inputs(batch, latents, len(self.network.blocks) if self.noise else 0, self.device)
        base = inputs.bases if self.noise else None

        def run() -> Tensor:
            edges = MaskEdges(inputs.positions, inputs.ends, latents, self.tail + 1)
            return self.run(memory, inputs.codes, edges, base)

        replay, out = capture(run)
        captured = _Captured(memory, inputs, replay, out)
        self._check(captured, batch, latents)
        return captured

    def _check(self, captured: _Captured, batch: int, latents: int) -> None:
        """SetupError unless a replay computes what the same step does without a graph."""
        codes = torch.arange(batch * latents * len(VQ_STRIDES)).view(batch, latents, -1) % self.config.codes
        # Far enough for every layer: at a stream's beginning the step without a graph leaves out what is still zero.
        arguments = (codes, [self.tail] * batch, [OPEN_END] * batch, [0] * batch)
        captured.memory.zero_()
        memory = self.new_memory(batch)
        got = self._replay(captured, captured.memory, *arguments)
        expected = super().step(memory, *arguments)
        # The first samples are still empty, whatever was captured: the memory that the step leaves is not.
        pairs = ((got, expected), (captured.memory, memory))
        if not all(torch.allclose(one, other, rtol=_TOLERANCE, atol=_TOLERANCE) for one, other in pairs):
            raise SetupError(
                f"The codec's CUDA graphs compute nothing of use on {self.device}: set ORPHEUS_CODEC_DEVICE=cpu, and "
                "report it with the output of `orpheus doctor`."
            )

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
        with self._on_device():
            if graph is None:
                return super().step(memory, codes, positions, ends, seeds)
            return self._replay(graph, memory, codes, positions, ends, seeds)

    def _replay(
        self,
        graph: _Captured,
        memory: Tensor,
        codes: Tensor,
        positions: Sequence[int],
        ends: Sequence[int],
        seeds: Sequence[int],
    ) -> Tensor:
        streams = len(codes)
        if memory is not graph.memory:
            graph.memory[:streams].copy_(memory)
        graph.inputs.write(codes, positions, ends, self.noise_bases(positions, seeds) if self.noise else None)
        graph.replay()
        if memory is not graph.memory:
            memory.copy_(graph.memory[:streams])
        return graph.out[:streams].clone()

    @contextlib.contextmanager
    def _on_device(self) -> Iterator[None]:
        """Streams and graphs belong to the current device, whatever device their tensors are on."""
        if self.device.type != "cuda":
            yield
            return
        with torch.cuda.device(self.device):
            yield
