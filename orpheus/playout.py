"""When audio was sent, and how much → what a player hears that starts at once and never waits.

Knows nothing of clocks, formats or sockets: the caller says what time it is.
"""

from __future__ import annotations

from dataclasses import dataclass

# A player's own output buffer hides this much: sound cards ask for 10 to 20 ms at a time.
TOLERANCE_S = 0.02


@dataclass
class PlayoutClock:
    """One listener in real time: the first audio starts the clock."""

    underruns: int = 0  # times the player had nothing to play
    late_s: float = 0.0  # silence it played in their place, in all
    longest_s: float = 0.0  # the longest of them
    ends_s: float | None = None  # when what it has will have been played

    def sent(self, now_s: float, audio_s: float, excused_s: float = 0.0) -> None:
        """`audio_s` seconds of audio left at `now_s`, on a clock that never goes back.

        `excused_s` of the silence before it is no underrun: there was no text to speak.
        """
        if self.ends_s is None:
            self.ends_s = now_s
        gap_s = now_s - self.ends_s - excused_s
        if gap_s > TOLERANCE_S:
            self.underruns += 1
            self.late_s += gap_s
            self.longest_s = max(self.longest_s, gap_s)
        # After silence the audio plays from now; within the tolerance too, or small delays would add up unseen.
        self.ends_s = max(self.ends_s, now_s) + audio_s
