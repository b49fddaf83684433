"""A voice's rendition of a sentence → how far it is from the teacher's.

A recognizer only tells right from wrong; this distance is graded and defined for every frame. Across tries of one
sentence it agrees with either recognizer about as well as they agree with each other (benchmarks/LOG.md).
"""

from __future__ import annotations

import numpy as np
from snac import SNAC

from training import codec, codes, features, shift
from training.clock import FRAME_SAMPLES, HOP_SAMPLES
from training.samples import codes_a_slot, said_by
from training.speakers import SPEAKERS

SPEAKER = 3  # who says it: the one least moved from the teacher, by pitch and formants alone
_SHAPES = 20  # cosines compared; the finer ones are ripple
_HOPS = FRAME_SAMPLES // HOP_SAMPLES  # in a code frame


def described(snac: SNAC, mute: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `features.describe` would return for the teacher saying `mute`: (n, 7) codes from 0 in every slot, without a
    speaker."""
    return describe(codec.decode(snac, said_by(SPEAKER, mute, codes_a_slot(snac.codebook_size))))


def describe(audio: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of what SPEAKER says in `audio`, 24 kHz float."""
    speaker = SPEAKERS[SPEAKER]
    height = speaker.pitch_hz / shift.TEACHER_PITCH_HZ
    f0, envelope = shift.pitch_and_envelope(shift.level(audio.astype(np.float64)), height)
    bins = np.arange(envelope.shape[1])
    formants = np.minimum(bins * speaker.formants, bins[-1])  # the way back of `shift.move`
    back = np.exp([np.interp(formants, bins, np.log(one)) for one in np.maximum(envelope, 1e-16)])
    return features.described(f0 / height, back)


def away(said: np.ndarray, taught: np.ndarray) -> np.ndarray | None:
    """Bands (n, 80) and (m, 80) of one sentence → how far each code frame of the first is from what it stands for in the second,
    (n / 8,); None if one takes twice as long as the other."""
    a, b = (codes.shapes(one, one.mean(axis=0))[:, :_SHAPES] for one in (said, taught))
    apart = np.sqrt((np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * a @ b.T).clip(0))
    path = align(apart)
    if path is None:
        return None
    hops = np.bincount(path[:, 0], apart[path[:, 0], path[:, 1]], len(a)) / np.bincount(path[:, 0])
    mean: np.ndarray = hops[: len(hops) // _HOPS * _HOPS].reshape(-1, _HOPS).mean(axis=1)
    return mean


def align(apart: np.ndarray) -> np.ndarray | None:
    """Distances (n, m) → the nearest path from corner to corner, (steps, 2) rising, which takes every row and column and passes
    nowhere more than twice as fast as elsewhere; None if there is none.

    Dynamic time warping with Sakoe and Chiba's (1978) steps of slope one half, one and two.
    """
    rows, columns = apart.shape
    total = np.full(
        (rows + 2, columns + 2), np.inf
    )  # two of margin, so that every step has somewhere to come from
    came = np.zeros((rows, columns), np.int8)
    for row in range(rows):
        straight = total[row + 1, 1:-1]
        over = total[row + 1, :-2] + np.append(0, apart[row, :-1])
        down = total[row, 1:-1] + (apart[row - 1] if row else 0)
        ways = np.stack([straight, over, down])
        came[row] = ways.argmin(axis=0)
        total[row + 2, 2:] = ways.min(axis=0) + apart[row]
        if row == 0:
            total[2, 2] = apart[0, 0]
    if not np.isfinite(total[-1, -1]):
        return None
    row, column = rows - 1, columns - 1
    path = [(row, column)]
    while row > 0 or column > 0:
        step = came[row, column]
        if step == 1:
            path.append((row, column - 1))
        elif step == 2:
            path.append((row - 1, column))
        row, column = row - 1 - (step == 2), column - 1 - (step == 1)
        path.append((row, column))
    return np.array(path[::-1])
