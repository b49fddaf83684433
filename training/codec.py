"""codes/ and shifted/ → codec.pt and snac/: SNAC's decoder and codebooks, trained to render the codes in eight voices.

The encoder is a placeholder: nothing here or in the service encodes audio.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from snac import SNAC
from snac import layers as snac_layers
from torch import Tensor

from orpheus.vocabulary import frame_to_layers
from training import samples, voiced_waves
from training.clock import FRAME_SAMPLES, RATE_HZ
from training.files import save_checkpoint, write_atomically
from training.held import Held
from training.optimize import finite_step
from training.sound_losses import (
    Discriminators,
    discriminator_loss,
    generator_loss,
    phase_loss,
    spectral_loss,
)
from training.speakers import SPEAKERS, Speaker


@dataclass(frozen=True)
class CodecPlan:
    codes: int
    width: int = 256
    code_dim: int = 48
    steps: int = 60000
    minutes: float = 0.0
    batch: int = 6
    frames: int = 8  # of a crop, 85 ms each
    rate: float = 1e-3
    phase: float = 2.0  # weight of the tone's phase
    discriminator_rate: float = 6e-4
    adversarial_from: float = 1.1  # share of the schedule after which discriminators join; above 1: never
    compiled: bool = True  # on a CPU: a sixth off a step, for a minute's compiling
    save_minutes: float = 3.0
    stop_minutes: float = 0.0  # end here although the plan goes on; 0: never
    fall: float = 0.4  # share of the schedule over which the rate falls to nothing
    origin: Path | None = None  # a checkpoint to go on from instead of from nothing

    def config(self) -> dict[str, Any]:
        """SNAC's own configuration."""
        return {
            "sampling_rate": RATE_HZ,
            "encoder_dim": 8,  # times 16 is the latents' width
            "encoder_rates": [2, 4, 8, 8],
            "decoder_dim": self.width,
            "decoder_rates": [8, 8, 4, 2],
            "attn_window_size": None,
            "codebook_size": samples.codebook_size(self.codes),
            "codebook_dim": self.code_dim,
            "vq_strides": [4, 2, 1],
            "noise": True,
            "depthwise": False,  # full convolutions: twice the speed on CPU, and stronger
        }


def going_on(plan: CodecPlan, origin: Path) -> CodecPlan:
    """`plan` for a trained codec: its size, and a quarter of the learning rate, which falls throughout."""
    config = json.loads((origin / "config.json").read_text())
    return replace(
        plan,
        origin=origin,
        codes=samples.codes_a_slot(config["codebook_size"]),
        width=config["decoder_dim"],
        code_dim=config["codebook_dim"],
        rate=plan.rate / 4,
        fall=1.0,
    )


@dataclass(frozen=True)
class Utterance:
    """One sentence said by one speaker: frames (n, 7) with the speaker in them; int16 (n · 2048, 2), tone and breath."""

    frames: np.ndarray
    audio: np.ndarray


def utterances(out: Path, codes: int) -> list[Utterance]:
    """All shifted sentences whose codes exist."""
    by_number = {sample.number: sample for sample in samples.read(out / "codes")}
    found = []
    for file in sorted((out / "shifted").glob("*.json")):
        audio, _ = soundfile.read(file.with_suffix(".flac"), dtype="int16", always_2d=True)
        if audio.shape[1] != 2:
            raise SystemExit(
                f"{file} is a lesson of an older recipe: delete {file.parent} and run `--stage shifted` again."
            )
        for line in json.loads(file.read_text()):
            if line["id"] in by_number:
                frames = samples.said_by(line["speaker"], by_number[line["id"]].frames, codes)
                said = audio[line["start"] : line["start"] + line["samples"]]
                found.append(Utterance(frames, said[: len(frames) * FRAME_SAMPLES]))
    return found


PITCH_COLUMNS = slice(8, 12)  # of a coarse code's row: the pitch of each of its latents
_PITCH_SCALE = 3.0
_PITCH_MIDDLE_HZ = 150.0


def pitch_columns(melodies: np.ndarray, speaker: Speaker) -> np.ndarray:
    """Melodies (n, 4) as `speaker` sings them → those columns."""
    ratios: np.ndarray = np.log(speaker.pitch_hz / _PITCH_MIDDLE_HZ) + speaker.pitch_range * melodies
    return _PITCH_SCALE * ratios


def begin(plan: CodecPlan, out: Path, found: list[Utterance]) -> tuple[SNAC, Held]:
    """A SNAC in which the voice's waves are laid, and what of it they are. A new one's codebooks start from what the codes mean: the
    coder's centres, each speaker's pitches."""
    snac = SNAC(**plan.config())
    state = torch.load(out / "codes" / "coder.pt", map_location="cpu")
    melodies = state["melodies"].numpy()
    with torch.no_grad():
        middle, fine = (
            snac.quantizer.quantizers[1].codebook.weight,
            snac.quantizer.quantizers[2].codebook.weight,
        )
        for target, centres in (
            (middle, state["coder"]["middle.centres"]),
            (fine, state["coder"]["fine.centres"]),
        ):
            target.zero_()[:, : centres.shape[1]] = centres.repeat(2, 1) / centres.std()
        coarse = snac.quantizer.quantizers[0].codebook.weight
        coarse.normal_(std=0.01)
        for number, speaker in enumerate(SPEAKERS):
            rows = coarse[number * len(melodies) : (number + 1) * len(melodies)]
            columns = torch.from_numpy(pitch_columns(melodies, speaker)).float()
            rows[:, number] += 2.0
            rows[:, PITCH_COLUMNS] += columns
            pitch = columns / _PITCH_SCALE
            for octave in range(2):  # waves over the pitch, so that near pitches are told apart
                rows[:, 12 + 8 * octave : 16 + 8 * octave] += torch.sin(4 * 3**octave * pitch)
                rows[:, 16 + 8 * octave : 20 + 8 * octave] += torch.cos(4 * 3**octave * pitch)
    sequences = [one.frames[:, 0] % len(melodies) for one in found[:100]]
    held = voiced_waves.lay(snac, melodies, sequences)
    if plan.origin:
        # Its waves are as they were laid in it, and stand where they do in any.
        snac.load_state_dict(SNAC.from_pretrained(str(plan.origin)).state_dict())
    return snac, held


def decode(snac: SNAC, frames: np.ndarray) -> np.ndarray:
    """(n, 7) codes → float32 audio (n · 2048,)."""
    with torch.inference_mode():
        layers = [torch.from_numpy(layer)[None] for layer in frame_to_layers(frames)]
        audio: np.ndarray = snac.decode(layers)[0, 0].numpy()
    return audio


def _snake(x: Tensor, alpha: Tensor) -> Tensor:
    """The package's activation."""
    return x + (alpha + 1e-9).reciprocal() * torch.sin(alpha * x).square()


def compiled(snac: SNAC) -> Callable[[Tensor], Tensor]:
    """Its decoder, with what stands between two convolutions as one pass over memory."""
    snac_layers.snake = _snake  # the package's own is TorchScript, which the compiler cannot see into
    decoder: Callable[[Tensor], Tensor] = torch.compile(snac.decoder, dynamic=False)
    return decoder


def draw_batch(
    found: list[Utterance], plan: CodecPlan, draw: np.random.Generator, device: str
) -> tuple[list[Tensor], Tensor, Tensor]:
    """SNAC's three code rows (b, n·…), the audio (b, samples) and its tone alone, of random excerpts of equal length."""
    frames, audio = [], []
    weights = np.array([len(utterance.frames) for utterance in found], float)
    for choice in draw.choice(len(found), plan.batch, p=weights / weights.sum()):
        utterance = found[choice]
        start = int(draw.integers(0, len(utterance.frames) - plan.frames + 1))
        frames.append(utterance.frames[start : start + plan.frames])
        audio.append(utterance.audio[start * FRAME_SAMPLES : (start + plan.frames) * FRAME_SAMPLES])
    rows = [frame_to_layers(one) for one in frames]
    layers = [torch.from_numpy(np.stack(level)).to(device) for level in zip(*rows, strict=True)]
    tone, breath = torch.from_numpy(np.stack(audio).astype(np.float32) / 32768).to(device).unbind(-1)
    return layers, tone + breath, tone


def train(out: Path, found: list[Utterance], plan: CodecPlan, seed: int) -> Path:
    """Train until the plan is done; `out`/codec.pt is the state at any moment, `out`/snac the checkpoint."""
    target = out / "codec.pt"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(seed)
    snac, held = begin(plan, out, found)
    discriminators = Discriminators().to(device)
    snac.to(device)
    held.guard()
    torch.backends.cudnn.allow_tf32 = False  # the phase is a small difference of large numbers
    learned = [
        *snac.decoder.parameters(),
        *(p for q in snac.quantizer.quantizers for p in q.codebook.parameters()),
    ]
    learned += [p for q in snac.quantizer.quantizers for p in q.out_proj.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=plan.rate, betas=(0.8, 0.99), weight_decay=0.0)
    discriminator_optimizer = torch.optim.AdamW(
        discriminators.parameters(), lr=plan.discriminator_rate, betas=(0.8, 0.99)
    )
    step, progress = 0, 0.0
    if target.exists():
        state = torch.load(target, map_location=device)
        snac.load_state_dict(state["snac"])
        discriminators.load_state_dict(state["discriminators"])
        optimizer.load_state_dict(state["optimizer"])
        discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])
        discriminator_optimizer.param_groups[0]["lr"] = plan.discriminator_rate
        step = state["step"]
        progress = state["progress"] if plan.minutes else step / plan.steps  # so that a longer plan goes on
    long_enough = [one for one in found if len(one.frames) >= plan.frames]

    def save() -> None:
        parts = {
            "snac": snac,
            "discriminators": discriminators,
            "optimizer": optimizer,
            "discriminator_optimizer": discriminator_optimizer,
        }
        state = {name: part.state_dict() for name, part in parts.items()}
        save_checkpoint(target, {**state, "step": step, "progress": progress})
        write_snac(snac, plan, out / "snac")

    decoder = compiled(snac) if plan.compiled and device == "cpu" else snac.decoder
    # The noise of SNAC's decoder hides small gradients at first; it is part of the format and stays on.
    began = saved = last = time.monotonic()
    # Half the precision for the discriminators alone: the decoder's own loss stays 0.2 higher with it.
    precise = torch.autocast(device, dtype=torch.bfloat16)
    heard: list[tuple[float, float]] = []
    fools: list[float] = []
    skipped = 0
    while progress < 1 and not (plan.stop_minutes and last - began > plan.stop_minutes * 60):
        rate = plan.rate * min(1.0, (step + 1) / 100, (1 - progress) / plan.fall)
        for group in optimizer.param_groups:
            group["lr"] = rate
        draw = np.random.default_rng([seed, step])
        layers, real, tone = draw_batch(long_enough, plan, draw, device)
        made = decoder(snac.quantizer.from_codes(layers))[:, 0]
        spectral, phase = spectral_loss(made, real), phase_loss(made, real, tone)
        loss = spectral + plan.phase * phase
        if progress >= plan.adversarial_from:
            with precise:
                verdict = discriminator_loss(discriminators(real), discriminators(made.detach()))
            discriminator_optimizer.zero_grad(set_to_none=True)
            verdict.backward()
            skipped += not finite_step(discriminator_optimizer)
            with precise:
                with torch.no_grad():
                    wanted = discriminators(real)
                fooled, views = generator_loss(wanted, discriminators(made))
            loss = loss + 0.5 * fooled + 2.0 * views
            fools.append(fooled.item())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if finite_step(optimizer, 5.0):
            heard.append((spectral.item(), phase.item()))
        else:
            skipped += 1
        step += 1
        now = time.monotonic()
        progress = progress + (now - last) / 60 / plan.minutes if plan.minutes else step / plan.steps
        last = now
        if step % 100 == 0 or progress >= 1:
            doubt = f"discriminators' doubt {np.mean(fools[-100:]):.3f}, " if fools else ""
            print(
                "codec step {} ({:.1%}): spectral {:.3f}, phase {:.3f}".format(
                    step, progress, *np.mean(heard[-100:] or [(np.nan, np.nan)], axis=0)
                ),
                f"{doubt}{skipped} skipped as not finite",
                sep=", ",
                flush=True,
            )
        if now - saved > plan.save_minutes * 60:
            save()
            saved = now
    save()
    return target


def write_snac(snac: SNAC, plan: CodecPlan, folder: Path) -> None:
    """The checkpoint SNAC.from_pretrained loads; halves on disk, which its loader widens again."""
    buffer = io.BytesIO()
    torch.save({name: value.cpu().half() for name, value in snac.state_dict().items()}, buffer)
    write_atomically(folder / "config.json", json.dumps(plan.config(), indent=2).encode())
    write_atomically(folder / "pytorch_model.bin", buffer.getvalue())
