"""How many seconds of audio a listener has received and not played yet: the project's only estimate of playout.

The scheduler, the codec, the pipeline, the sockets, the metrics and the benchmarks use it to decide whether a first
frame is urgent, whether decoding can wait, how much to prebuffer, how far to send ahead, and what is an underrun.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

# A player's own output buffer hides this much: sound cards ask for 10 to 20 ms at a time.
TOLERANCE_S = 0.02


@dataclass
class PlayoutClock:
    """One listener in real time, who starts to play at the first audio and waits when there is none.

    Times are seconds of `time.monotonic`, or of whatever clock the caller passes.
    """

    underruns: int = 0  # times the player had nothing to play
    underrun_s: float = 0.0  # silence it played instead, in all
    longest_underrun_s: float = 0.0
    ends_s: float | None = None  # when everything received will have been played; None before the first audio

    def add(self, audio_s: float, now_s: float | None = None, *, excused_s: float = 0.0) -> None:
        """The listener receives `audio_s` more seconds of audio.

        `excused_s` seconds of a gap before it do not count as an underrun: there was no text to speak.
        """
        now_s = time.monotonic() if now_s is None else now_s
        if self.ends_s is None:
            self.ends_s = now_s
        gap_s = now_s - self.ends_s - excused_s
        if gap_s > TOLERANCE_S:
            self.underruns += 1
            self.underrun_s += gap_s
            self.longest_underrun_s = max(self.longest_underrun_s, gap_s)
        # After a gap the audio plays from now on; within the tolerance too, or small delays would add up unseen.
        self.ends_s = max(self.ends_s, now_s) + audio_s

    def buffered_s(self, now_s: float | None = None) -> float:
        """Seconds of audio the listener has and has not played yet."""
        if self.ends_s is None:
            return 0.0
        return max(0.0, self.ends_s - (time.monotonic() if now_s is None else now_s))
