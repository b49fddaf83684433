"""Sets weights of SNAC's decoder that turn the codes' melody into waves in phase with the voice; they are not trained.

Every code frame of the training audio holds a whole number of periods (melody.py), so its coarse code determines the
phase at any moment in it. But a decoder hardly ever learns that by itself, and it blurs what it cannot time into noise.
So the decoder begins with channels that hold the phase, and others with its cosine and sine and those of some harmonics:
the excitation of a source-filter vocoder (Wang, Takaki and Yamagishi 2019), made of SNAC's own layers.

    stem         start and slope of the phase in each latent, picked by the latent's position in its frame
    levels 1, 2  the phase as a ramp in cycles, at 64 and then 8 samples
    levels 2, 3  cosine and sine of it and of its multiples, which the rest of the decoder learns to use

The codes show a latent's position in its frame: the second of a pair comes from the other half of the codebook.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from snac import SNAC
from torch import Tensor

from training import melody
from training.clock import FRAME_SAMPLES, LATENT_SAMPLES, LATENTS, RATE_HZ
from training.held import Held, clear_outputs, set_inputs, set_rows
from training.speakers import SPEAKERS, Speaker

FIRST = 32  # dimension of the codebooks from which on they hold what is laid here
COLUMNS = LATENTS - 1 + 2 * LATENTS  # of a coarse code: three starts, four slopes, four pitches
_HALF, _ODD = COLUMNS, COLUMNS + 1  # latent channels: second half of the frame, second of a pair
_SMALL = 0.2  # a snake's frequency at which the sine of a phase is nearly the phase; less would cost float32 digits
_STRAIGHT = 2e-5  # one at which a snake does nothing
HARMONICS = {2: (1, 2, 3, 4), 3: (1, 4, 8)}  # by level
_PITCH_SCALE = 100.0  # Hz
_CALM = 1e-6  # of the ridge: pitches of neighbours are much alike


def columns(speaker: Speaker, melodies: np.ndarray) -> np.ndarray:
    """(melodies, 11): cycles at the starts of the last three latents, to the nearest whole; cycles in each latent; pitch in each,
    as 100 Hz from the speaker's own."""
    hz = melody.evened(melody.alone(melodies, speaker), melody.whole_periods(melodies, speaker))
    starts, slopes = _latents(hz)
    pitch = (speaker.pitch(melodies) - speaker.pitch_hz) / _PITCH_SCALE
    return np.concatenate([starts[:, 1:], slopes, pitch], axis=1)


def melodies_told(rows: np.ndarray, speaker: Speaker) -> np.ndarray:
    """Rows of a codebook with these columns laid in → the melodies that they are of. Held while a codec learns, they still tell them,
    by which a lesson must be sung for its pulses to be where the waves have theirs."""
    pitch = rows[:, FIRST + 2 * LATENTS - 1 : FIRST + COLUMNS] * _PITCH_SCALE + speaker.pitch_hz
    told: np.ndarray = np.log(pitch / speaker.pitch_hz) / speaker.pitch_range
    return told


def _latents(hz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(frames, 2048) Hz → cycles at the start of each latent, to the nearest whole, and cycles in it: both (frames, 4)."""
    ends = np.cumsum(hz, axis=1)[:, LATENT_SAMPLES - 1 :: LATENT_SAMPLES] / RATE_HZ
    starts = np.concatenate([np.zeros((len(hz), 1)), ends[:, :-1]], axis=1)
    return starts - np.round(starts), ends - starts


def neighbours_part(sequences: list[np.ndarray], melodies: np.ndarray) -> np.ndarray:
    """(4 positions, 2 of start and slope, 13): what the pitches of the frame before, the frame itself and the frame after, and 1,
    add to what a code tells by itself, by ridge regression over melodies as they come. A latent near one end of its frame cannot see
    past the other: the kernel of the stem ends there."""
    seen, missing = [], []
    for speaker in SPEAKERS:
        told = columns(speaker, melodies)
        for coarse in sequences:
            starts, slopes = _latents(melody.pitch(coarse, melodies, speaker).reshape(-1, FRAME_SAMPLES))
            own = told[coarse]
            away = starts[:, 1:] - own[:, :3]
            pitch = np.pad(own[:, 7:], ((1, 1), (0, 0)), mode="edge")
            around = [pitch[:-2], pitch[1:-1], pitch[2:], np.ones((len(coarse), 1))]
            seen.append(np.concatenate(around, axis=1)[1:-1])
            starts_off = np.concatenate([np.zeros((len(coarse), 1)), away - np.round(away)], axis=1)
            missing.append(np.stack([starts_off, slopes - own[:, 3:7]], axis=2)[1:-1])
    inputs, wanted = np.concatenate(seen), np.concatenate(missing)
    found = np.zeros((LATENTS, 2, inputs.shape[1]))
    for position in range(LATENTS):
        visible = np.ones(inputs.shape[1], bool)
        visible[8:12] = position > 0
        visible[0:4] = position < LATENTS - 1
        there = inputs[:, visible]
        square = there.T @ there / len(there) + _CALM * np.eye(there.shape[1])
        found[position][:, visible] = np.linalg.solve(square, there.T @ wanted[:, position] / len(there)).T
    return found


def lay(snac: SNAC, melodies: np.ndarray, sequences: list[np.ndarray]) -> Held:
    """Write these weights into the first channels of each of `snac`'s layers; `sequences` are melody codes of sentences."""
    held = Held({})
    with torch.no_grad():
        _lay_codes(snac, melodies, held)
        stem, *blocks = [snac.decoder.model[position] for position in range(4)]
        _lay_stem(stem, neighbours_part(sequences, melodies), held)
        _lay_first_block(blocks[0].block, held)
        _lay_finer(blocks[1].block, 8, 2, HARMONICS[2], held)
        _lay_finer(blocks[2].block, 4, 1, HARMONICS[3], held)
        _lay_units(blocks[0].block, 2, (), held)
        _lay_units(blocks[1].block, 2, HARMONICS[2], held)
        _lay_units(blocks[2].block, 1, HARMONICS[3], held)
        last = snac.decoder.model[4].block
        set_inputs(last[1], {0: torch.zeros_like(last[1].weight[0])}, held)
    return held


def _lay_codes(snac: SNAC, melodies: np.ndarray, held: Held) -> None:
    coarse, middle, fine = snac.quantizer.quantizers
    told = np.concatenate([columns(speaker, melodies) for speaker in SPEAKERS])
    books = ((coarse, told), (middle, _second_half(middle)), (fine, _second_half(fine)))
    for number, (quantizer, values) in enumerate(books):
        book = quantizer.codebook.weight
        here = slice(FIRST, FIRST + values.shape[1])
        book[: len(values), here] = torch.from_numpy(values).to(book)
        held.hold(book, slice(None), here)
        weight = quantizer.out_proj.weight.clone()
        weight[: COLUMNS + 2] = 0
        weight[COLUMNS + 2 :, FIRST:] = 0
        first = (0, _HALF, _ODD)[number]
        for position in range(values.shape[1]):
            weight[first + position, FIRST + position] = 1
        set_rows(quantizer.out_proj, weight, COLUMNS + 2, held)
        quantizer.out_proj.bias[: COLUMNS + 2] = 0
        held.hold(quantizer.out_proj.bias, slice(0, COLUMNS + 2))


def _second_half(quantizer: Any) -> np.ndarray:
    codes = len(quantizer.codebook.weight)
    return (np.arange(codes) >= codes // 2).astype(float)[:, None]


def _lay_stem(stem: Any, part: np.ndarray, held: Held) -> None:
    """Channels 0 to 6 for the start of the phase in the latent, 7 to 13 for its slope.

    Which of four values holds is a matter of the latent's position, a product, which a snake of frequency a can form:
    snake(x + s) - snake(-x + s) = 2 x + sin(2 a x) sin(2 a s) / a, and for small a x the second part is 2 x sin(2 a s). With s from
    the flags (neither, one or both) so that 2 a s is a quarter turn a flag, the sine is 1 for one flag and 0 for none or
    two of them. So three pairs, of the odd flag, the half flag and both together, pick what each position adds to position 0;
    the seventh channel of a group is the 2 x of its pairs, to be taken off again, and the value of position 0.
    """
    weight, bias = stem.weight.clone(), stem.bias
    weight[:14], bias[:14] = 0, 0
    for group in range(2):
        value = [_value(group, position, part) for position in range(LATENTS)]
        off = [one - value[0] for one in value]
        pairs = (
            (off[1] + off[3] - off[2]) / 2,
            (off[2] + off[3] - off[1]) / 2,
            (off[1] + off[2] - off[3]) / 2,
        )
        rest = sum(pairs) - value[0]
        for number, (one, flags) in enumerate(zip(pairs, ((_ODD,), (_HALF,), (_ODD, _HALF)), strict=True)):
            for sign in (0, 1):
                row = 7 * group + 2 * number + sign
                weight[row, :COLUMNS] = (1 - 2 * sign) * one[:-1].T
                bias[row] = (1 - 2 * sign) * one[-1, 0]
                for flag in flags:
                    weight[row, flag, 3] = np.pi / 4 / _SMALL
        weight[7 * group + 6, :COLUMNS] = rest[:-1].T
        bias[7 * group + 6] = rest[-1, 0]
    set_rows(stem, weight, 14, held)
    held.hold(bias, slice(0, 14))


def _value(group: int, position: int, part: np.ndarray) -> Tensor:
    """(8, 11): start (0) or slope (1) of a latent at `position` as taps of the stem over the coarse code's columns; the last row's
    first is the bias."""
    taps = torch.zeros(8, COLUMNS)
    if group == 1:
        taps[3, 3 + position] = 1
    elif position > 0:
        taps[3, position - 1] = 1
    before, own, after, one = np.split(part[position, group], [4, 8, 12])
    if position < LATENTS - 1:
        taps[3 - position - 1, 7:] += torch.from_numpy(before)
    taps[3, 7:] += torch.from_numpy(own)
    if position > 0:
        taps[3 + LATENTS - position, 7:] += torch.from_numpy(after)
    taps[7, 0] = float(one[0])
    return taps


def _lay_first_block(block: Any, held: Held) -> None:
    """The stem's pairs → ramp (channel 0) and slope (1) at 64 samples."""
    snake, up = block[0], block[1]
    snake.alpha[0, :14], snake.alpha[0, [6, 13]] = _SMALL, _STRAIGHT
    held.hold(snake.alpha, 0, slice(0, 14))
    inputs = {}
    within = (torch.arange(8) + 0.5) / 8
    for row in range(14):
        kernel = torch.zeros_like(up.weight[0])
        sign = -1.0 if row % 7 == 6 else 0.5 * (1 - 2 * (row % 7 % 2))
        if row < 7:
            kernel[0, 4:12] = sign
        else:
            kernel[0, 4:12], kernel[1, 4:12] = sign * within, sign / 8
        inputs[row] = kernel
    set_inputs(up, inputs, held)
    clear_outputs(up, 14, 2, held)


def _lay_finer(block: Any, stride: int, ramps: int, harmonics: tuple[int, ...], held: Held) -> None:
    """Ramp and slope → ramp, and with two `ramps` slope, `stride` times finer; and room for the harmonics."""
    snake, up = block[0], block[1]
    snake.alpha[0, :2] = _STRAIGHT
    held.hold(snake.alpha, 0, slice(0, 2))
    taps = slice(stride // 2, stride // 2 + stride)
    ramp, slope = torch.zeros_like(up.weight[0]), torch.zeros_like(up.weight[0])
    ramp[0, taps] = 1
    slope[0, taps] = (torch.arange(stride) + 0.5) / stride - 0.5
    if ramps == 2:
        slope[1, taps] = 1 / stride
    set_inputs(up, {0: ramp, 1: slope}, held)
    clear_outputs(up, 2, ramps + 2 * len(harmonics), held)


def _lay_units(block: Any, ramps: int, harmonics: tuple[int, ...], held: Held) -> None:
    """The harmonics, in a level's first residual unit. In its noise and all its units nothing is added to its first `ramps`
    channels, and nothing but the harmonics reads them.

    A cosine is 1 - snake(x) - snake(-x), with x half the angle and a frequency of 1; a sine the like an eighth of a turn on.
    """
    noise = block[2].linear
    laid = ramps + 2 * len(harmonics)
    weight = noise.weight.clone()
    weight[:laid] = 0
    weight[:, :ramps] = 0
    set_rows(noise, weight, laid, held)
    held.hold(noise.parametrizations.weight.original1, slice(None), slice(0, ramps))
    for number, unit in enumerate(block[3:]):
        snake, into, inner, out = unit.block
        hidden = 4 * len(harmonics) if number == 0 else 0
        weight, bias = into.weight.clone(), into.bias
        weight[:, :ramps] = 0
        weight[:hidden], bias[:hidden] = 0, 0
        back, back_bias = out.weight.clone(), out.bias
        kept = laid if number == 0 else ramps
        back[:kept], back_bias[:kept] = 0, 0
        back[:, :hidden] = 0
        for position, harmonic in enumerate(harmonics if number == 0 else ()):
            for row in range(4):  # ± the angle; ± the angle and an eighth of a turn
                sign, late = 1 - 2 * (row % 2), row // 2
                weight[4 * position + row, 0, 3] = sign * np.pi * harmonic
                bias[4 * position + row] = sign * late * np.pi / 4
                target = ramps + 2 * position + late
                back[target, 4 * position + row] = 2 * late - 1
                back_bias[target] = 1 - 2 * late
        inner.alpha[0, :hidden] = 1
        snake.alpha[0, :ramps] = _STRAIGHT
        set_rows(into, weight, hidden, held)
        set_rows(out, back, kept, held)
        held.hold(into.parametrizations.weight.original1, slice(None), slice(0, ramps))
        held.hold(out.parametrizations.weight.original1, slice(None), slice(0, hidden))
        held.hold(bias, slice(0, hidden))
        held.hold(back_bias, slice(0, kept))
        held.hold(inner.alpha, 0, slice(0, hidden))
        held.hold(snake.alpha, 0, slice(0, ramps))
