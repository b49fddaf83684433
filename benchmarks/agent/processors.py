"""What a conversation costs of the processor: each tier's process while it talks, and each stage alone."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.agent.recordings import Sound
from orpheus.agent.hear import WhisperRecognizer
from orpheus.agent.think import INSTRUCTIONS, EmbeddedThinker, Message, TextDelta
from orpheus.agent.vad import FRAME_SAMPLES, VoiceActivity
from orpheus.ops.bench.listening import quantile

TIERS = {"llama": "tier 1", "speech": "tier 2"}  # commands of orpheus


def tiers_cpu_s(talk: int) -> dict[str, float]:
    """Seconds of processor time that each child of the process `talk` has used; empty where there is no /proc."""
    used = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_text().split("\0")
        except OSError:  # it has ended
            continue
        if int(fields[1]) == talk:
            for name, tier in TIERS.items():
                if name in command:
                    used[tier] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used


async def stages_cpu_ms(sounds: Sequence[Sound]) -> dict[str, float]:
    """Milliseconds of one core of each stage alone, in this process: the median over `sounds`."""
    activity = VoiceActivity.load()()
    recognizer = WhisperRecognizer.load()
    thinker = EmbeddedThinker()
    system = Message("system", INSTRUCTIONS)
    taken: dict[str, list[float]] = {}

    def note(stage: str, since_s: float) -> None:
        taken.setdefault(stage, []).append((time.process_time() - since_s) * 1000)

    try:
        await recognizer.warm_up()
        await thinker.warm_up([system])
        for number, sound in enumerate(sounds):
            samples = sound.heard()
            began_s = time.process_time()
            for at in range(0, len(samples) - FRAME_SAMPLES + 1, FRAME_SAMPLES):
                activity.probability(samples[at : at + FRAME_SAMPLES])
            taken.setdefault("voice activity, a second", []).append(
                (time.process_time() - began_s) * 1000 / sound.seconds
            )
            began_s = time.process_time()
            await recognizer.transcribe(samples)
            note("transcript", began_s)
            began_s, spoken = time.process_time(), False
            async for thought in thinker.answer(
                [system, Message("user", sound.text)], conversation=str(number)
            ):
                if isinstance(thought, TextDelta) and not spoken:
                    spoken = True
                    note("first token of the LLM", began_s)
            note("whole answer of the LLM", began_s)
    finally:
        await recognizer.aclose()
        await thinker.aclose()
    return {stage: quantile(values, 0.5) for stage, values in taken.items()}
