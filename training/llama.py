"""Token ids → logits: a Llama as llama.cpp reads it, which also returns one attention head of each guided layer.

Rotary pairs are neighbours, as in GGUF, so weights are written to the file unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orpheus.vocabulary import SLOTS
from training import turns
from training.alignment import PHONES

HEAD_SIZE = 64
ROPE_BASE = 10000.0
NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class Shape:
    codes: int
    layers: int = 6
    width: int = 256
    heads: int = 4
    key_heads: int = 2
    inner: int = 704
    dropout: float = 0.0  # of no use while an hour is heard only a few times, and a twelfth of a step
    guided: tuple[int, ...] = (1, 2, 3)  # layers whose first head is taught where to look
    phone_layer: int = 3  # after which the phoneme must be readable


class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], self.weight.float(), NORM_EPSILON).to(x.dtype)


def rotation(length: int, device: torch.device) -> Tensor:
    """(length, 32, 2) cosines and sines."""
    rates = ROPE_BASE ** (-torch.arange(0, HEAD_SIZE, 2, device=device) / HEAD_SIZE)
    angles = torch.arange(length, device=device)[:, None] * rates
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Rotate neighbouring pairs of (b, heads, t, 64)."""
    first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = turn.unbind(-1)
    return (
        torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2).to(x.dtype)
    )


def look_back(q: Tensor, k: Tensor, v: Tensor, rows: int = 128) -> Tensor:
    """Causal attention (b, heads, t, 64), a few rows at a time: on a CPU a third less than torch's own."""
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    out = []
    for start in range(0, q.shape[2], rows):
        end = min(start + rows, q.shape[2])
        scores = (q[:, :, start:end] @ k[:, :, :end].transpose(2, 3)).float() / HEAD_SIZE**0.5
        ahead = torch.arange(end) > torch.arange(start, end)[:, None]
        out.append(scores.masked_fill(ahead, -1e9).softmax(dim=-1).to(v.dtype) @ v[:, :, :end])
    return torch.cat(out, dim=2)


class TransformerBlock(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.key_heads = shape.heads, shape.key_heads
        self.attn_norm, self.ffn_norm = Norm(shape.width), Norm(shape.width)
        self.attn_q = nn.Linear(shape.width, shape.heads * HEAD_SIZE, bias=False)
        self.attn_k = nn.Linear(shape.width, shape.key_heads * HEAD_SIZE, bias=False)
        self.attn_v = nn.Linear(shape.width, shape.key_heads * HEAD_SIZE, bias=False)
        self.attn_output = nn.Linear(shape.heads * HEAD_SIZE, shape.width, bias=False)
        self.ffn_gate = nn.Linear(shape.width, shape.inner, bias=False)
        self.ffn_up = nn.Linear(shape.width, shape.inner, bias=False)
        self.ffn_down = nn.Linear(shape.inner, shape.width, bias=False)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, x: Tensor, turn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(x, query of the first head (b, t, 64), its key (b, t, 64))."""
        h = self.attn_norm(x)
        q = rotate(self.attn_q(h).unflatten(-1, (self.heads, HEAD_SIZE)).transpose(1, 2), turn)
        k = rotate(self.attn_k(h).unflatten(-1, (self.key_heads, HEAD_SIZE)).transpose(1, 2), turn)
        v = self.attn_v(h).unflatten(-1, (self.key_heads, HEAD_SIZE)).transpose(1, 2)
        repeat = self.heads // self.key_heads
        mixed = look_back(q, k.repeat_interleave(repeat, dim=1), v.repeat_interleave(repeat, dim=1))
        x = x + self.dropout(self.attn_output(mixed.transpose(1, 2).flatten(2)))
        h = self.ffn_norm(x)
        x = x + self.dropout(self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h)))
        return x, q[:, 0], k[:, 0]


class Llama(nn.Module):
    """Embedding tied to the output. A code's row is the sum of its level's row and its slot's: slots 1 and 4 share
    the middle codes, 2, 3, 5 and 6 the fine ones, so that each code is seen two or four times as often."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.plain = nn.Parameter(torch.randn(turns.FIRST_CODE_ID + 1, shape.width) * 0.02)
        self.levels = nn.Parameter(torch.randn(3, shape.codes, shape.width) * 0.02)
        self.slots = nn.Parameter(torch.randn(SLOTS, 1, shape.width) * 0.02)
        self.blocks = nn.ModuleList(TransformerBlock(shape) for _ in range(shape.layers))
        self.output_norm = Norm(shape.width)
        self.phones = nn.Linear(shape.width, PHONES)  # helps learning only; not written out
        self.dropout = nn.Dropout(shape.dropout)
        for name, weight in self.blocks.named_parameters():
            if weight.dim() == 2:
                deep = name.endswith(("attn_output.weight", "ffn_down.weight"))
                nn.init.normal_(weight, std=0.02 / (2 * shape.layers) ** 0.5 if deep else 0.02)

    def rows(self) -> Tensor:
        """(vocabulary, width): the tied matrix as the file holds it."""
        codes = self.levels[torch.as_tensor(turns.SLOT_LEVEL, device=self.levels.device)] + self.slots
        return torch.cat([self.plain[:-1], codes.flatten(0, 1), self.plain[-1:]])

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        """(hidden (b, t, width) before the output matrix, phoneme logits (b, t, phones), guided queries and keys)."""
        x = self.dropout(F.embedding(ids, self.rows()))
        turn = rotation(ids.shape[1], ids.device)
        guided, phones = [], x
        for number, block in enumerate(self.blocks):
            x, query, key = block(x, turn)
            if number in self.shape.guided:
                guided.append((query, key))
            if number == self.shape.phone_layer:
                phones = x
        return self.output_norm(x), self.phones(phones), guided
