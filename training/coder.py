"""Envelope frames → middle and fine codes → envelope frames: a small vector-quantizing network, trained end to end.

SNAC's decoder later learns to turn the same codes into audio.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.speakers import SPEAKERS

_DECAY = 0.98  # of the moving averages behind the codebooks
_STALE = 0.05  # a centre used less than this share of an even use is moved onto a sample


@dataclass(frozen=True)
class Size:
    codes: int  # a slot, of each kind
    width: int = 192
    dim: int = 32
    steps: int = 8000
    batch: int = 24
    latents: int = 96  # of a crop
    shards: int = 40  # trained on: two hours are plenty for a network this small

    @property
    def melodies(self) -> int:
        return self.codes // len(SPEAKERS)


@dataclass(frozen=True)
class Recovery:
    """What it takes to recover the coder of a finished voice."""

    sentences: int = 1848  # said by the voice: an hour and a half
    meaning_steps: int = 2500
    choosing_steps: int = 4000
    batch: int = 24
    latents: int = 64  # of a crop
    rate: float = 2e-3


class Codebook(nn.Module):
    """k-means by moving averages; the gradient goes straight through. (b, d, t) → (b, d, t), codes (b, t)."""

    centres: Tensor
    sums: Tensor
    counts: Tensor
    started: Tensor

    def __init__(self, codes: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("centres", torch.randn(codes, dim))
        self.register_buffer("sums", torch.zeros(codes, dim))
        self.register_buffer("counts", torch.zeros(codes))
        self.register_buffer("started", torch.zeros(()))

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        flat = latents.transpose(1, 2).reshape(-1, latents.shape[1])
        if self.training and not self.started:
            self._start(flat)
        codes = torch.cdist(flat, self.centres).argmin(dim=1)
        if self.training:
            self._move(flat.detach(), codes)
        centres = self.centres[codes].reshape(latents.shape[0], -1, latents.shape[1]).transpose(1, 2)
        distance = F.mse_loss(latents, centres)
        return latents + (centres - latents).detach(), codes.reshape(latents.shape[0], -1), distance

    @torch.no_grad()
    def _start(self, flat: Tensor) -> None:
        picks = flat[torch.randint(len(flat), (len(self.centres),), device=flat.device)]
        self.centres.copy_(picks + 0.01 * torch.randn_like(picks))
        self.sums.copy_(self.centres)
        self.counts.fill_(1.0)
        self.started.fill_(1.0)

    @torch.no_grad()
    def _move(self, flat: Tensor, codes: Tensor) -> None:
        used = torch.zeros_like(self.counts).index_add_(0, codes, torch.ones_like(codes, dtype=flat.dtype))
        sums = torch.zeros_like(self.sums).index_add_(0, codes, flat)
        self.counts.mul_(_DECAY).add_(used, alpha=1 - _DECAY)
        self.sums.mul_(_DECAY).add_(sums, alpha=1 - _DECAY)
        stale = self.counts < _STALE * len(flat) / len(self.counts)
        if stale.any():
            picks = flat[torch.randint(len(flat), (int(stale.sum()),), device=flat.device)]
            self.sums[stale], self.counts[stale] = picks, torch.ones_like(self.counts[stale])
        self.centres.copy_(self.sums / self.counts[:, None].clamp_min(1e-5))


class Coder(nn.Module):
    """(b, features, t) ↔ middle codes (b, t/2) and fine codes (b, t); t even."""

    def __init__(self, features: int, codes: int, width: int, dim: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv1d(features, width, 5, padding=2),
            nn.GELU(),
            nn.Conv1d(width, width, 3, padding=1),
            nn.GELU(),
        )
        self.to_middle = nn.Conv1d(width, dim, 2, stride=2)
        self.from_middle = nn.ConvTranspose1d(dim, width, 2, stride=2)
        self.to_fine = nn.Conv1d(2 * width, dim, 1)
        self.from_fine = nn.Conv1d(dim, width, 1)
        self.middle, self.fine = Codebook(codes, dim), Codebook(codes, dim)
        self.decoder = nn.Sequential(
            nn.Conv1d(width, width, 5, padding=2),
            nn.GELU(),
            nn.Conv1d(width, width, 5, padding=2),
            nn.GELU(),
            nn.Conv1d(width, features, 1),
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(rebuilt features, middle codes, fine codes, commitment loss)."""
        hidden = self.encoder(features)
        middle, middle_codes, middle_distance = self.middle(self.to_middle(hidden))
        coarse = self.from_middle(middle)
        fine, fine_codes, fine_distance = self.fine(self.to_fine(torch.cat([hidden, coarse], dim=1)))
        rebuilt = self.decoder(coarse + self.from_fine(fine))
        return rebuilt, middle_codes, fine_codes, middle_distance + fine_distance

    def rebuild(self, middle_codes: Tensor, fine_codes: Tensor) -> Tensor:
        """Features (b, features, t) from codes alone."""
        middle = self.middle.centres[middle_codes].transpose(1, 2)
        fine = self.fine.centres[fine_codes].transpose(1, 2)
        rebuilt: Tensor = self.decoder(self.from_middle(middle) + self.from_fine(fine))
        return rebuilt
