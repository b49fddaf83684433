"""A sentence, a speaker and our voice's rendition → the verdicts of five judges on it, on its teacher and on the codec.

The judges are pocketsphinx and Whisper (words), DNSMOS (quality, 1 to 5), resemblyzer (speaker identity), and a clock.
Their weights come with their packages. Runs in separate processes.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training import codes, features, listen, shift, speech, whisper
from training.clock import RATE_HZ, TEACHER_HZ
from training.features import Sentence
from training.listen import LISTENER_HZ, for_listener
from training.samples import said_by
from training.speakers import SPEAKERS

MOS_SAMPLES = int(9.01 * LISTENER_HZ)  # DNSMOS' own window; shorter speech is repeated to fill it
LISTENERS = {"pocketsphinx": listen.hear, "whisper": whisper.hear}
AUDIBLE = 0.01  # of full scale
EARLY = 0.7  # speech shorter than this share of the teacher's has left words out
SILENCE_S = 0.25  # before and after what is listened to
ROOM = 3e-4  # RMS of the noise listened in: -70 dB, a quiet room

Audio = NDArray[np.float32]


@dataclass(frozen=True)
class Verdict:
    """Of one utterance."""

    heard: dict[str, str]  # by each of `LISTENERS`
    mos: float
    identity: NDArray[np.float32]  # (256,), length one
    sound_s: float  # from the first to the last audible sample


@dataclass(frozen=True)
class Task:
    """One sentence by one voice. `ours` is what came of the pipeline, None if nothing did."""

    speaker: int
    text: str
    ours: NDArray[np.int16] | None
    recipe: Path | None  # the folder of the recipe, for codes; the codec is not judged alone without it
    codec: Path
    keep: bool = False  # send the audio back, for a picture


@dataclass(frozen=True)
class Row:
    """What is known of one sentence by one voice: a verdict for each of "teacher", "codec" and "voice" there is."""

    voice: str
    text: str
    verdicts: dict[str, Verdict]
    audio: dict[str, Audio]

    @property
    def early(self) -> bool:
        """Whether our voice stopped before the sentence ended."""
        ours = self.verdicts.get("voice")
        return ours is not None and ours.sound_s < EARLY * self.verdicts["teacher"].sound_s


def sound_s(samples: Audio) -> float:
    """Seconds from the first to the last audible sample at 24 kHz; 0 for silence."""
    positions = np.flatnonzero(np.abs(samples) > AUDIBLE)
    return float(positions[-1] - positions[0] + 1) / RATE_HZ if len(positions) else 0.0


def in_a_room(samples: Audio) -> Audio:
    """`samples` with a little before and after them, and the faint noise that no room is without.

    pocketsphinx often loses a word that the samples begin or end with, and it judges sounds by the mean of all it hears:
    beside digital silence, which is 90 dB and more below speech, it mistakes more words of the same samples.
    """
    quiet = np.pad(samples, round(SILENCE_S * RATE_HZ))
    noise = np.random.default_rng(0).normal(0, ROOM, len(quiet))
    return (quiet + noise).astype(np.float32)


def verdict(samples: Audio) -> Verdict:
    """What the judges say of mono audio at 24 kHz."""
    played = in_a_room(samples)
    plain = for_listener(samples) / np.float32(32767)
    repeated = np.resize(plain, MOS_SAMPLES) if len(plain) < MOS_SAMPLES else plain[:MOS_SAMPLES]
    return Verdict(
        heard={name: hear(played) for name, hear in LISTENERS.items()},
        mos=float(_dnsmos().run(repeated, LISTENER_HZ)["ovrl_mos"]),
        identity=_embedder().embed_utterance(plain),
        sound_s=sound_s(samples),
    )


def judge(task: Task) -> Row:
    """Teach, encode and judge one sentence."""
    spoken, _ = speech.speak(_teacher(), task.text, SPEAKERS[task.speaker].rate)
    analysis = shift.analyse(shift.prepare(spoken, TEACHER_HZ))
    audio: dict[str, Audio] = {"teacher": shift.speak(analysis, SPEAKERS[task.speaker]).astype(np.float32)}
    if task.recipe:
        coder, mean, melodies = _coder(task.recipe)
        frames = codes.encode(Sentence({}, *features.describe(spoken)), coder, mean, melodies)
        audio["codec"] = _decoder(task.codec).decode(said_by(task.speaker, frames, len(coder.fine.centres)))
    if task.ours is not None:
        audio["voice"] = (task.ours / 32767).astype(np.float32)
    verdicts = {kind: verdict(samples) for kind, samples in audio.items()}
    return Row(SPEAKERS[task.speaker].name, task.text, verdicts, audio if task.keep else {})


@cache
def _teacher() -> Any:
    return speech.load_teacher()


@cache
def _coder(recipe: Path) -> Any:
    return codes.load(recipe)


@cache
def _decoder(codec: Path) -> Any:
    from orpheus.codec.offline import OfflineDecoder

    return OfflineDecoder.load(codec)


@cache
def _dnsmos() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the judges import packages that have moved on
        from speechmos import dnsmos

        return dnsmos


@cache
def _embedder() -> Any:
    torch.set_num_threads(1)  # a judge has a core to itself
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from resemblyzer import VoiceEncoder

        return VoiceEncoder("cpu", verbose=False)
