"""Losses between two waveforms: spectra at several resolutions, and discriminators for an adversarial loss."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.bands import mel_weights
from training.clock import RATE_HZ

# The longest tells the harmonics of the lowest voice (87 Hz) apart, without which it is learned an octave off.
WINDOWS = (128, 256, 512, 1024, 2048, 4096)
PHASE_WINDOWS = (256, 1024)
_QUIET = 1e-3


def complex_spectrum(audio: Tensor, window: int) -> Tensor:
    """(b, t) → (b, bins, frames, 2) real and imaginary parts, hop a quarter of the window."""
    shape = torch.hann_window(window, device=audio.device)
    return torch.view_as_real(torch.stft(audio, window, window // 4, window=shape, return_complex=True))


def magnitude(spectrum: Tensor) -> Tensor:
    """(…, 2) → (…,)."""
    return spectrum.square().sum(-1).clamp_min(1e-9).sqrt()


def spectrum(audio: Tensor, window: int) -> Tensor:
    """(b, t) → (b, bins, frames) magnitudes."""
    return magnitude(complex_spectrum(audio, window))


def spectral_loss(made: Tensor, real: Tensor) -> Tensor:
    """Log distance and spectral convergence, mean over windows, linear and mel."""
    total = made.new_zeros(())
    for window in WINDOWS:
        a, b = spectrum(made, window), spectrum(real, window)
        total = total + (torch.log(a + _QUIET) - torch.log(b + _QUIET)).abs().mean()
        total = total + torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b).clamp_min(1e-3)
        if window >= 512:
            mel = torch.from_numpy(mel_weights(window // 2 + 1, 40 if window == 512 else 80)).to(made)
            bands_a, bands_b = (torch.log(x.transpose(1, 2) @ mel + _QUIET) for x in (a, b))
            total = total + (bands_a - bands_b).abs().mean()
    return total / len(WINDOWS)


def phase_loss(made: Tensor, real: Tensor, tone: Tensor) -> Tensor:
    """Distance of the complex spectra over the sum of their magnitudes, where the real one is tone; what is breath has
    no phase to keep. 0: the same; 1: silence, or the opposite; 0.64: any phase.

    A harmonic counts the same however soft it is, and the less the higher: the low ones are where a phase is found first.
    """
    total = made.new_zeros(())
    for window in PHASE_WINDOWS:
        a, b, c = (complex_spectrum(audio, window) for audio in (made, real, tone))
        tonal = magnitude(c) / (magnitude(c) + magnitude(b - c) + _QUIET)
        hz = torch.arange(tonal.shape[1], device=tonal.device) * (RATE_HZ / window)
        tonal = tonal / (hz[:, None] + 300)
        away = magnitude(a - b) / (magnitude(a) + magnitude(b) + _QUIET)
        total = total + (tonal * away).sum() / tonal.sum().clamp_min(1e-3)
    return total / len(PHASE_WINDOWS)


class Discriminator(nn.Module):
    """A complex spectrum's image → how real each patch looks. Twice the width is four times the work of a step."""

    def __init__(self, window: int, width: int = 16) -> None:
        super().__init__()
        self.window = window
        norm = nn.utils.parametrizations.weight_norm
        widths = [2, width, width, width, width]
        self.layers = nn.ModuleList(
            norm(nn.Conv2d(a, b, (7, 5), stride=(2, 1), padding=(3, 2))) for a, b in pairwise(widths)
        )
        self.verdict = norm(nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, audio: Tensor) -> list[Tensor]:
        """Each layer's output; the last is the verdict."""
        x = complex_spectrum(audio, self.window).permute(0, 3, 1, 2)
        # Loud and quiet parts alike: the square root of the magnitude keeps the phase.
        x = x / (x.square().sum(1, keepdim=True) + 1e-7) ** 0.25
        seen = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            seen.append(x.float())
        return [*seen, self.verdict(x).float()]


class Discriminators(nn.Module):
    """One discriminator per window length."""

    def __init__(self) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(Discriminator(window) for window in (2048, 1024, 512, 256))

    def forward(self, audio: Tensor) -> list[list[Tensor]]:
        return [discriminator(audio) for discriminator in self.discriminators]


def discriminator_loss(real: list[list[Tensor]], made: list[list[Tensor]]) -> Tensor:
    """Least squares: real is 1, made is 0."""
    return torch.stack(
        [(1 - a[-1]).square().mean() + b[-1].square().mean() for a, b in zip(real, made, strict=True)]
    ).mean()


def generator_loss(real: list[list[Tensor]], made: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """(how far the discriminators are from taking made for real, how far their inner views of the two differ)."""
    fooled = torch.stack([(1 - b[-1]).square().mean() for b in made]).mean()
    views = [
        (x - y).abs().mean() / x.abs().mean().clamp_min(1e-3)
        for a, b in zip(real, made, strict=True)
        for x, y in zip(a[:-1], b[:-1], strict=True)
    ]
    return fooled, torch.stack(views).mean()
