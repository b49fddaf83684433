"""What a step of tier 1 reads and computes, and how long a card takes for it: the arithmetic of `benchmarks.roofline`.

    step = bytes / bandwidth + operations / arithmetic + logits / PCIe + the host's share

Bytes: every weight once, the cache of every stream, and the weights again for the prompts that join, one at a time.
Sums, not the greater of the two: llama.cpp's kernels hide little of one behind the other, by the figures below.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import gguf

from orpheus.gpu import BANDWIDTH_SHARE
from orpheus.llama.backend import ModelShape, read_shape
from orpheus.llama.batches import SPARE
from orpheus.llama.engine_config import EngineConfig
from orpheus.llama.gpu_memory import GIB, MemoryPlan
from orpheus.vocabulary import END_OF_SPEECH, LAST_CODE, TOKENS_PER_S
from training.random_gguf import ORPHEUS_3B, VOCABULARY, Body

Kv = Literal["f16", "q8_0"]
Quantization = Literal["Q8_0", "Q4_K_M"]

REAL_TIME_MS = 1000 / TOKENS_PER_S  # a step, in which every stream gets a token: 12.19
KV_BYTES: dict[Kv, float] = {"f16": 2.0, "q8_0": 34 / 32}  # a value of the cache
KEPT_ROWS = LAST_CODE + 1 - END_OF_SPEECH  # of the trimmed head
PROMPT_TOKENS = 60  # of a sentence and its voice
MOST_STREAMS = 256 - SPARE  # llama.cpp's bound on sequences

# The share of the data sheet's arithmetic that llama.cpp reaches, on an RTX 4090 (660 int8 TOPS dense), as that of the
# bandwidth, 98 tokens a second of a 7B at Q8_0, 703 of 1,008 GB/s, is: BANDWIDTH_SHARE.
# An 8B at IQ4_XS takes 8.12, 9.36 and 11.65 ms for 16, 32 and 63 rows: 75 µs for one more row of 16 G operations:
# https://github.com/ggml-org/llama.cpp/pull/8278
ARITHMETIC_SHARE = 0.32
PUBLISHED_STEPS_MS = {16: 8.12, 32: 9.36, 63: 11.65}
PUBLISHED_STEPS_BYTES, PUBLISHED_STEPS_WEIGHTS = 4.45e9, 8.03e9


@dataclass(frozen=True)
class Card:
    """Figures of a data sheet; int8 and fp16 dense, without sparsity, fp16 with fp32 accumulation."""

    name: str
    gib: float
    gb_s: float
    fp16_tflops: float
    int8_tops: float
    pcie_gb_s: float = 32.0  # of an x16 slot: 4.0, or 5.0 of the H100

    def half(self) -> Card:
        """One of two instances that the card is divided into (MIG)."""
        halves = (self.gib / 2, self.gb_s / 2, self.fp16_tflops / 2, self.int8_tops / 2)
        return Card(f"{self.name}, half", *halves, self.pcie_gb_s / 2)


CARDS = (
    # https://www.nvidia.com/en-us/data-center/l4/
    Card("L4", 24, 300, 121, 242),
    # https://d1.awsstatic.com/product-marketing/ec2/NVIDIA_AWS_A10G_DataSheet_FINAL_02_17_2022.pdf
    Card("A10G", 24, 600, 70, 140),
    # https://www.nvidia.com/en-us/data-center/l40s/
    Card("L40S", 48, 864, 362, 733),
    # https://www.nvidia.com/en-us/data-center/a100/ (SXM)
    Card("A100-80", 80, 2039, 312, 624),
    # https://www.nvidia.com/en-us/data-center/h100/ (SXM)
    Card("H100", 80, 3350, 989, 1979, 64.0),
)
RTX_4090 = Card("RTX 4090", 24, 1008, 165, 660)


def find_card(name: str) -> Card | None:
    """The one that a driver calls "NVIDIA L40S" or "NVIDIA A100-SXM4-80GB"; None if it is another."""
    words = name.replace("SXM4-80GB", "80").removeprefix("NVIDIA ").removeprefix("GeForce ").split()
    return next((card for card in (*CARDS, RTX_4090) if card.name in (*words, " ".join(words))), None)


@dataclass(frozen=True)
class TensorSize:
    name: str
    weights: int
    bytes: int


@dataclass(frozen=True)
class Model:
    """What a step needs to know of a model."""

    name: str
    file_bytes: int
    body_bytes: int  # read in every step: all but the embeddings and the head
    body_weights: int
    head_bytes: int
    rows: int  # of the head
    width: int
    shape: ModelShape
    head_share: float = 1.0  # of its rows that are kept

    def trimmed(self) -> Model | None:
        """With the rows alone that can be said; None if it is another vocabulary than Orpheus'."""
        if self.rows != VOCABULARY:
            return None
        dropped = round(self.head_bytes * (1 - KEPT_ROWS / VOCABULARY))
        return replace(self, head_share=KEPT_ROWS / VOCABULARY, file_bytes=self.file_bytes - dropped)

    @property
    def bytes(self) -> float:
        """That a pass reads."""
        return self.body_bytes + self.head_bytes * self.head_share

    @property
    def logits_bytes(self) -> float:
        """Of one row."""
        return self.rows * self.head_share * 4

    def kv_bytes(self, kv: Kv) -> float:
        """Of a token of context."""
        return 2 * self.shape.layers * self.shape.kv_channels * KV_BYTES[kv]

    def operations(self, context: float) -> float:
        """Of a row: each weight multiplies and adds, and so does each value of the context, for scores and for sums."""
        weights = self.body_weights + self.rows * self.head_share * self.width
        return 2 * weights + 4 * self.shape.layers * self.width * context


def describe(body: Body = ORPHEUS_3B, quantization: Quantization = "Q8_0") -> list[TensorSize]:
    """The tensors of a file of that shape, as llama.cpp quantizes them.

    Q4_K_M has Q6_K for the head and for the values and down-projections of half the layers.
    """
    head = body.width // body.heads
    found: list[TensorSize] = []

    def matrix(name: str, rows: int, columns: int, kind: gguf.GGMLQuantizationType) -> None:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        found.append(TensorSize(f"{name}.weight", rows * columns, rows * columns // block * size))

    def norm(name: str) -> None:
        matrix(name, 1, body.width, gguf.GGMLQuantizationType.F32)

    types = gguf.GGMLQuantizationType
    most, best = (types.Q8_0, types.Q8_0) if quantization == "Q8_0" else (types.Q4_K, types.Q6_K)
    matrix("token_embd", VOCABULARY, body.width, best)
    norm("output_norm")
    for layer in range(body.layers):
        eighth = body.layers // 8
        better = (
            layer < eighth or layer >= 7 * eighth or (layer - eighth) % 3 == 2
        )  # llama-quant's use_more_bits
        named = f"blk.{layer}."
        norm(f"{named}attn_norm")
        norm(f"{named}ffn_norm")
        matrix(f"{named}attn_q", body.width, body.width, most)
        matrix(f"{named}attn_k", body.kv_heads * head, body.width, most)
        matrix(f"{named}attn_v", body.kv_heads * head, body.width, best if better else most)
        matrix(f"{named}attn_output", body.width, body.width, most)
        matrix(f"{named}ffn_gate", body.ffn, body.width, most)
        matrix(f"{named}ffn_up", body.ffn, body.width, most)
        matrix(f"{named}ffn_down", body.width, body.ffn, best if better else most)
    return found


def described(quantization: Quantization, body: Body = ORPHEUS_3B) -> Model:
    """Orpheus-3B without its file."""
    shape = ModelShape(body.layers, body.kv_heads * (body.width // body.heads))
    return _model(f"Orpheus-3B {quantization}", describe(body, quantization), body.width, shape)


def sizes_in(path: Path) -> list[TensorSize]:
    """The tensors of a GGUF."""
    return [
        TensorSize(tensor.name, int(tensor.n_elements), int(tensor.n_bytes))
        for tensor in gguf.GGUFReader(path).tensors
    ]


def from_gguf(path: Path) -> Model:
    sizes = sizes_in(path)
    norm = next(size.weights for size in sizes if size.name == "output_norm.weight")
    return _model(path.name, sizes, norm, read_shape(path))


def _model(name: str, sizes: list[TensorSize], width: int, shape: ModelShape) -> Model:
    named = {size.name: size for size in sizes}
    head = named.get("output.weight") or named["token_embd.weight"]  # or the embeddings are the head as well
    body = [size for size in sizes if size.name not in ("output.weight", "token_embd.weight")]
    return Model(
        name,
        sum(size.bytes for size in sizes),
        sum(size.bytes for size in body),
        sum(size.weights for size in body),
        head.bytes,
        head.weights // width,
        width,
        shape,
    )


@dataclass(frozen=True)
class Machine:
    """What a step runs on. Bytes and operations a second that are reached, and the host's ms by streams."""

    bytes_s: float
    operations_s: float
    logits_bytes_s: float = math.inf
    host_ms: Callable[[int], float] = lambda streams: 0.0

    @classmethod
    def of(cls, card: Card, host_ms: Callable[[int], float], share: float = BANDWIDTH_SHARE) -> Machine:
        arithmetic = card.int8_tops * 1e12 * ARITHMETIC_SHARE
        return cls(card.gb_s * 1e9 * share, arithmetic, card.pcie_gb_s * 1e9 * share, host_ms)


def step_ms(
    model: Model, machine: Machine, streams: int, context: float, kv: Kv, *, joining: bool = True
) -> float:
    """Milliseconds of a step of so many streams with `context` tokens on average; `joining`: prompts are read as well.

    Streams are half way through on average, so one in 2 · context ends in a step, and another begins.
    """
    prompts = streams / (2 * context) if joining else 0.0
    size = model.bytes * (1 + prompts) + streams * context * model.kv_bytes(kv)
    operations = streams * model.operations(context) + prompts * PROMPT_TOKENS * model.operations(
        PROMPT_TOKENS / 2
    )
    card_s = size / machine.bytes_s + operations / machine.operations_s
    return 1e3 * (card_s + streams * model.logits_bytes / machine.logits_bytes_s) + machine.host_ms(streams)


def most_in_time(model: Model, machine: Machine, context: float, kv: Kv) -> int:
    """The most streams whose step ends in real time, memory aside; 0 if not even one's does."""
    streams = 0
    while streams < 4096 and step_ms(model, machine, streams + 1, context, kv) <= REAL_TIME_MS:
        streams += 1
    return streams


def most_in_memory(model: Model, card: Card, kv: Kv) -> int:
    """The most streams that fit a card of which 95% is free, codec beside them, as tier 1 counts them."""
    per_stream = round(model.kv_bytes(kv) * EngineConfig.context_tokens)
    plan = MemoryPlan(model.file_bytes, per_stream, 1, round(card.gib * 0.95 * GIB))
    return max(0, min(plan.fitting_streams, MOST_STREAMS))


def published_check() -> dict[int, float]:
    """Milliseconds by rows that this arithmetic gives for PUBLISHED_STEPS_MS, whose caches are not known."""
    machine = Machine.of(RTX_4090, lambda streams: 0.0)
    rows_s = 2 * PUBLISHED_STEPS_WEIGHTS / machine.operations_s
    return {
        rows: 1e3 * (PUBLISHED_STEPS_BYTES / machine.bytes_s + rows * rows_s) for rows in PUBLISHED_STEPS_MS
    }
