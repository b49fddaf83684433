"""What is said to the agent: questions and murmurs in the pair's own voices, people's recordings, and noises."""

from __future__ import annotations

import re
import wave
from dataclasses import dataclass
from pathlib import Path

import httpx
import jiwer
import numpy as np
from num2words import num2words
from numpy.typing import NDArray

from orpheus.agent.audio import AudioFormat, InputStream, Samples
from orpheus.tts.encode import to_int16

RATE = 24_000  # Hz, of the wire
VOICES = ("tara", "leah", "jess", "leo", "dan", "mia", "zac", "zoe")
QUESTIONS = (
    "What is the capital of France?",
    "Why is the sky blue?",
    "How are you today?",
    "Can you tell me a story about a dog?",
    "Where can I buy some bread?",
    "What should I cook for dinner tonight?",
    "Do you like music?",
    "Is it going to rain tomorrow?",
    "How do I make a good cup of tea?",
    "What do you know about the moon?",
    "Who wrote this letter?",
    "I am very tired today.",
    "Please tell me something about London.",
    "Which animal is the biggest in the world?",
    "My sister is coming to visit me.",
    "Why do leaves fall in autumn?",
    "Could you help me with my garden?",
    "What is your favourite colour?",
    "I would like to learn how to swim.",
    "How far away is the sun?",
    "Where does coffee come from?",
    "Tell me what people eat in Italy.",
    "When do birds fly to the south?",
    "I have lost my keys again.",
)
INTERRUPTIONS = (
    "Wait, I have another question.",
    "Stop talking, please.",
    "No, that is not what I meant.",
    "Hold on, what about the weather?",
    "Actually, tell me about Rome instead.",
    "Excuse me, can you say that again?",
)
MURMURS = ("Mm-hmm.", "Yeah.", "Uh-huh.", "Okay.")
PROMPTS = (  # typed, for answers that last
    "Describe the sea.",
    "Tell me about the history of Rome.",
    "Explain how bread is made.",
    "Tell me a story about a dog.",
    "Why do leaves fall in autumn?",
    "Explain how an aeroplane flies.",
)

PERSON = "a person"
PEOPLE = Path("/usr/share/pocketsphinx/test/data")
MISSING_PEOPLE = "Recordings of people are left out: apt-get install pocketsphinx-testdata"
_BOOK = "librivox/sense_and_sensibility_01_austen_64kb-"
SENTENCES = {  # as they are spoken: the first lacks a word that its own transcription doubles
    f"{_BOOK}0920.wav": "had he married a more amiable woman he might have been made still more respectable than he was",
    f"{_BOOK}0930.wav": "he might even have been made amiable himself",
    f"{_BOOK}0870.wav": "and mister john dashwood had then leisure to consider how much there might be prudently in his "
    "power to do for them",
    f"{_BOOK}0880.wav": "he was not an ill disposed young man",
    f"{_BOOK}0890.wav": "unless to be rather cold hearted and rather selfish is to be ill disposed",
    "goforward.raw": "go forward ten meters",
    "something.raw": "go somewhere and do something",
}
CARDS = {  # single words without a sentence around them
    "cards/001.wav": "ten of clubs",
    "cards/002.wav": "four queen of clubs",
    "cards/003.wav": "seven of clubs",
    "cards/004.wav": "five five",
    "cards/005.wav": "eight of spades four of clubs seven of hearts",
}
_FAINTEST = 0.01  # of the loudest 10 ms: what is fainter before and after is not speech


@dataclass(frozen=True)
class Sound:
    """Mono 16-bit samples at RATE, from the first that is speech to the last."""

    text: str  # what is said; empty of a noise
    speaker: str  # a voice, PERSON, or the name of a noise
    samples: NDArray[np.int16]

    @property
    def seconds(self) -> float:
        return len(self.samples) / RATE

    def heard(self) -> Samples:
        """As the agent hears it, at 16 kHz."""
        return InputStream(AudioFormat("pcm", RATE)).add(self.samples.tobytes())


def spoken(client: httpx.Client, text: str, voice: str, seed: int) -> Sound:
    """`text` by a voice of the pair. Raises httpx.HTTPError."""
    body = {"input": text, "voice": voice, "seed": seed, "response_format": "pcm", "sample_rate": RATE}
    answer = client.post("/v1/audio/speech", json=body)
    answer.raise_for_status()
    return Sound(text, voice, trimmed(np.frombuffer(answer.content, np.int16)))


def people(said: dict[str, str]) -> list[Sound]:
    """Of recordings of people, those that are installed."""
    return [
        Sound(text, PERSON, trimmed(_read(PEOPLE / name)))
        for name, text in said.items()
        if (PEOPLE / name).is_file()
    ]


def noises(seconds: float, seed: int) -> list[Sound]:
    """Sounds in which nobody speaks: one of each kind."""
    chance = np.random.default_rng(seed)
    at_s = np.arange(round(seconds * RATE)) / RATE
    white = chance.normal(0, 1, len(at_s))
    spectrum = np.fft.rfft(white)
    pink = np.fft.irfft(spectrum / np.sqrt(np.maximum(1, np.arange(len(spectrum)))), len(at_s))
    click = np.exp(-np.arange(600) / 60) * chance.normal(0, 1, 600)
    hits = np.convolve(chance.random(len(at_s)) < 6 / RATE, click)[: len(at_s)]
    kinds = {
        "white noise": 0.1 * white,
        "loud noise": 0.3 * white,
        "pink noise": 0.1 * pink / pink.std(),
        "hum": 0.2 * np.sin(2 * np.pi * 50 * at_s) + 0.1 * np.sin(2 * np.pi * 150 * at_s),
        "a tone": 0.2 * np.sin(2 * np.pi * 1000 * at_s),
        "gusts": 0.2 * white * np.clip(np.sin(2 * np.pi * 0.7 * at_s), 0, 1) ** 2,
        "keys": 0.5 * hits,
    }
    return [Sound("", name, to_int16(np.clip(sound, -1, 1))) for name, sound in kinds.items()]


def words_wrong(said: list[str], heard: list[str]) -> float:
    """The share of words that were mistaken, left out or added."""
    return float(jiwer.wer([plain(text) for text in said], [plain(text) for text in heard]))


def plain(text: str) -> str:
    """Words as they sound, apart from how they are written: "Mr. Smith's 10" → "mister smith's ten"."""
    text = re.sub(r"\bmr\b\.?", "mister", text.lower().replace("’", "'"))
    text = re.sub(r"\d+", lambda number: f" {num2words(int(number[0]))} ", text)
    text = text.replace("metres", "meters").replace("favourite", "favorite").replace("colour", "color")
    return " ".join(re.findall(r"[a-z]+(?:'[a-z]+)*", text))


def _read(path: Path) -> NDArray[np.int16]:
    """16-bit mono at 16 kHz, with or without a header → the same at RATE."""
    if path.suffix == ".wav":
        with wave.open(str(path)) as file:
            data = file.readframes(file.getnframes())
    else:
        data = path.read_bytes()
    samples = np.frombuffer(data, "<i2") / 32768
    # By its spectrum, which is exact and needs no filter: three samples for two.
    count = len(samples) * 3 // 2
    return to_int16(np.clip(np.fft.irfft(np.fft.rfft(samples), count) * count / len(samples), -1, 1))


def trimmed(samples: NDArray[np.int16]) -> NDArray[np.int16]:
    """From the first sample that is speech to the last."""
    size = RATE // 100
    parts = samples[: len(samples) // size * size].reshape(-1, size).astype(np.float64)
    loudness = np.sqrt(np.mean(parts**2, axis=1))
    loud = np.flatnonzero(loudness > _FAINTEST * loudness.max())
    return samples[loud[0] * size : (loud[-1] + 1) * size]
