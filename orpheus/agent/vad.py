"""One frame of 32 ms → the probability that somebody speaks in it: silero's network, stepped directly.

Its ONNX file is in faster-whisper's wheel, whose own use of it needs the whole recording at once.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from orpheus.agent.audio import Samples
from orpheus.errors import SetupError, in_a_sentence

FRAME_SAMPLES = 512
FRAME_MS = 32
_CONTEXT_SAMPLES = 64  # of the frame before, which the network wants in front
_STATE = (1, 1, 128)  # of its memory, h and c


class VoiceActivity:
    """One conversation's frames, in order. Each takes 0.2 ms of one core, so it may run in the event loop."""

    @classmethod
    def load(cls) -> Callable[[], VoiceActivity]:
        """Load the network once → what makes an instance for each conversation over it.

        Blocks for some 100 ms. SetupError if the packages of the extra [agent] are not installed.
        """
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise in_a_sentence(error) from error

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # too small to share
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            str(_network()), sess_options=options, providers=["CPUExecutionProvider"]
        )
        return lambda: cls(session)

    def __init__(self, session: Any) -> None:
        self._session = session
        self.reset()

    def reset(self) -> None:
        """Forget what was heard: the next frame is the first of another recording."""
        self._h = np.zeros(_STATE, np.float32)
        self._c = np.zeros(_STATE, np.float32)
        self._input = np.zeros((1, _CONTEXT_SAMPLES + FRAME_SAMPLES), np.float32)

    def probability(self, frame: Samples) -> float:
        """Of speech in the next 512 samples at 16 kHz, from 0 to 1. ValueError for another length."""
        if frame.shape != (FRAME_SAMPLES,):
            raise ValueError(f"a frame has {FRAME_SAMPLES} samples, not {frame.shape}")
        self._input[0, :_CONTEXT_SAMPLES] = self._input[0, -_CONTEXT_SAMPLES:]
        self._input[0, _CONTEXT_SAMPLES:] = frame
        found, self._h, self._c = self._session.run(
            ("speech_probs", "hn", "cn"), {"input": self._input, "h": self._h, "c": self._c}
        )
        return float(found[0])


def _network() -> Path:
    """Silero's file, found without importing faster-whisper, which would load a second of other libraries."""
    package = importlib.util.find_spec("faster_whisper")
    if package is None or not package.submodule_search_locations:
        raise in_a_sentence(ModuleNotFoundError(name="faster_whisper"))
    path = Path(package.submodule_search_locations[0]) / "assets" / "silero_vad_v6.onnx"
    if not path.is_file():
        raise SetupError(
            f"This faster-whisper has no {path.name}: install the version that constraints.txt names."
        )
    return path
