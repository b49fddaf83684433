"""What the listener hears of the agent, as far as the server can tell: how much of each item, and its sound.

A client plays what it is sent in real time, from the first audio on; this reckons where it is. The sound of the last
seconds is kept, to know an echo of it in the microphone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from orpheus.agent.audio import SAMPLE_RATE, AudioFormat, InputStream, SampleBuffer, Samples
from orpheus.agent.events import OUTPUT_RATE
from orpheus.agent.history import Spoken
from orpheus.playout import PlayoutClock

KEPT_S = 5.0  # of sound


class Playback:
    """One listener's."""

    def __init__(self) -> None:
        self._clock = PlayoutClock()
        self._items: dict[str, Spoken] = {}  # whose audio may still be heard, in order
        self._sound = SampleBuffer()
        self._input = InputStream(AudioFormat("pcm", OUTPUT_RATE))

    def add(self, item_id: str, spoken: Spoken, pcm: bytes, duration_s: float) -> None:
        """Audio of an item goes to the listener: mono 16-bit PCM at OUTPUT_RATE."""
        if item_id not in self._items and not self.is_heard:
            self._items.clear()
        self._items[item_id] = spoken
        ended_s = self._clock.ends_s
        silent_s = KEPT_S if ended_s is None else min(KEPT_S, max(0.0, time.monotonic() - ended_s))
        spoken.sent_s += duration_s
        self._clock.add(duration_s)
        self._sound.add(np.zeros(round(silent_s * SAMPLE_RATE), np.float32))
        self._sound.add(self._input.add(pcm))
        self._sound.drop_before(self._sound.end - round(KEPT_S * SAMPLE_RATE))

    @property
    def is_heard(self) -> bool:
        """Whether there is audio that was not played yet."""
        return self._clock.buffered_s() > 0

    @property
    def ends_s(self) -> float | None:
        """When all of it will have been played, of `time.monotonic`; None if there was none since it stopped."""
        return self._clock.ends_s

    @property
    def text(self) -> str:
        """Of what is heard, or was last."""
        return " ".join(spoken.text for spoken in self._items.values())

    def sound(self) -> Samples:
        """The latest KEPT_S, mono at SAMPLE_RATE."""
        return self._sound.slice(self._sound.start, self._sound.end)

    def stop_in(self, item_id: str) -> list[tuple[str, Spoken]]:
        """The client has stopped playing in this item: the items after it, of which nothing was heard.

        None, and nothing changes, if it had been heard to its end by our estimate.
        """
        latest_first = [(id, spoken) for id, spoken, _ in self._unheard()]
        at = next((at for at, (id, _) in enumerate(latest_first) if id == item_id), None)
        if at is None:
            return []
        self._forget()
        return latest_first[:at]

    def stop(self) -> list[tuple[str, Spoken, float]]:
        """The client stops now: the items that were not heard to their end, and how many seconds of each were."""
        unheard = list(self._unheard())
        self._forget()
        return unheard

    def _forget(self) -> None:
        self._items.clear()
        self._clock = PlayoutClock()

    def _unheard(self) -> Iterator[tuple[str, Spoken, float]]:
        """The latest first."""
        unheard_s = self._clock.buffered_s()
        for id, spoken in reversed(self._items.items()):
            if unheard_s <= 0:
                return
            heard_s = spoken.sent_s - unheard_s
            # The client may have told that it was less.
            yield id, spoken, heard_s if spoken.cut_s is None else min(heard_s, spoken.cut_s)
            unheard_s -= spoken.sent_s
