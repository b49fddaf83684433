"""The checked parameters of a speech request: its only form inside tier 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from orpheus.sampling import Sampling
from orpheus.tts.encode import Format
from orpheus.voices import Voice

Split = Literal["none", "sentence", "clause"]  # everything is one; each sentence; each segment


@dataclass(frozen=True)
class SpeechParams:
    """Made from a wire request by `SpeechService.params`; equal values sound and encode alike, given a seed."""

    voice: Voice
    sampling: Sampling
    max_tokens: int  # per segment
    lead_silence_s: float = 0.0  # before the first word
    normalize: bool = False  # numbers are written out before they reach the model
    skip_directions: bool = False  # *stage directions* are left out instead of read
    patient: bool = False  # waits if tier 1 is full instead of failing at once
    gathers: bool = False  # sends several frames together while the listener has audio in hand
    format: Format = "pcm"
    speed: float = 1.0
    sample_rate: int = 24_000  # Hz, as encoded
    whole_file: bool = False  # one chunk at the end, in a container with its true length
    split: Split = "none"  # what is a file, or a stream, of its own
