"""What the embedded voice says, as a microphone hears it; and how many words a transcript has wrong."""

from __future__ import annotations

import re

import jiwer

from orpheus.agent.audio import SAMPLE_RATE, AudioFormat, InputStream
from orpheus.agent.turns import TurnConfig, TurnDetector, TurnEvent
from orpheus.agent.vad import FRAME_SAMPLES, VoiceActivity
from tests.support.generation import spoken
from tests.support.sounds import Sound

QUESTIONS = [
    "What is the capital of France?",
    "How are you today?",
    "Why is the sky blue?",
    "Can you tell me a story?",
    "What time does the train leave?",
    "Where did you put my keys?",
    "Who wrote this letter?",
    "Is it going to rain tomorrow?",
    "Do you like music?",
    "Where can I buy some bread?",
]


def heard(url: str, text: str, seed: int, voice: str = "tara") -> Sound:
    """A sentence in a voice of the pair at `url`, at 16 kHz."""
    return InputStream(AudioFormat("pcm", 24_000)).add(spoken(url, text, seed, voice=voice))


def turns_in(sound: Sound, activity: VoiceActivity, config: TurnConfig | None = None) -> list[TurnEvent]:
    """The turns that are told apart in a recording."""
    detector = TurnDetector(config or TurnConfig())
    activity.reset()
    return [
        event
        for at in range(0, len(sound) - FRAME_SAMPLES + 1, FRAME_SAMPLES)
        for event in detector.add(activity.probability(sound[at : at + FRAME_SAMPLES]))
    ]


def cut(sound: Sound, start_ms: int, end_ms: int) -> Sound:
    return sound[start_ms * SAMPLE_RATE // 1000 : end_ms * SAMPLE_RATE // 1000]


def words_wrong(said: list[str], transcripts: list[str]) -> float:
    """The share of words that were mistaken, left out or added."""
    return float(jiwer.wer([_plain(text) for text in said], [_plain(text) for text in transcripts]))


def _plain(text: str) -> str:
    numbers = {"10": "ten"}
    words = re.sub(r"[^a-z0-9' ]", " ", text.lower().replace("-", " ")).split()
    return " ".join(numbers.get(word, word) for word in words)
