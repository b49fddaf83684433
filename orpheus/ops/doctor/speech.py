"""What only a real model on a real machine can tell: how each voice begins and ends, how soon, and for how many."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, field

import httpx
import numpy as np
from numpy.typing import NDArray

from orpheus import weights
from orpheus.ops.bench.codec import streamed
from orpheus.ops.bench.listening import CHAPTER, SENTENCE, read_metrics, together
from orpheus.ops.doctor import tier1
from orpheus.ops.doctor.check import Finding, failed, passed, warning
from orpheus.ops.doctor.machine import health
from orpheus.ops.doctor.passages import PASSAGES
from orpheus.ops.serve import running_pair
from orpheus.ops.voices import SAMPLES
from orpheus.sampling import Sampling
from orpheus.settings import Settings
from orpheus.text import segment_text
from orpheus.tts.frames import FrameAssembler, RepetitionDetector
from orpheus.tts.pipeline import SILENCE_RMS, TOKENS_EXTRA, TOKENS_PER_CHAR
from orpheus.tts.postprocess import BLOCK_S, SilenceTrimmer
from orpheus.tts.served_model import ServedModel
from orpheus.tts.token_source import Generation, HttpTokenSource
from orpheus.vocabulary import FRAME_S, SLOTS
from orpheus.voices import Voice, voices_of

SEED = 7
LEAD_S = 0.030  # that the trimmer is asked to leave before the first word
MOST_LEFT_S = (
    0.150  # of silence before it; more means that the trimmer took the model's own silence for speech
)
LOUD = 10 ** (-30 / 20)  # of full scale, as RMS: louder is a voice, in any of them
BEFORE_VOICE_S = 0.050  # a voice rises for so long before it is that loud
FIRST_BYTES = 10  # requests for it, one after the other
TOO_LATE_MS = 1000.0


@dataclass
class VoiceReport:
    """One voice speaking the longest segment there is."""

    voice: str
    chars: int
    tokens: int = 0
    ended: bool = False
    loops: bool = False
    codes: list[int] = field(default_factory=list)

    @property
    def audio_s(self) -> float:
        return self.tokens / SLOTS * FRAME_S


@dataclass(frozen=True)
class LeadIn:
    """The silence with which the model begins."""

    raw_s: float
    loudest_db: float  # its loudest 10 ms, in dB of full scale
    left_s: float  # after trimming


def voices(settings: Settings) -> Iterator[Finding]:
    """Each voice ends the longest segment in time, and the silence before its first word can be cut."""
    from orpheus.codec import Codec

    with tier1.reached(settings) as url:
        model = asyncio.run(tier1.served_at(url, settings))
        reports = asyncio.run(_speak(url, settings, model))
    limit = model.context_tokens
    of_limit = f" of about {limit:,}" if limit else ""
    for report in reports:
        rate = report.chars / report.audio_s if report.audio_s else 0.0
        summary = (
            f"{report.voice}: {report.chars} characters in {report.audio_s:.1f} s ({rate:.1f} a second), "
            f"{report.tokens:,} tokens{of_limit}"
        )
        if report.loops:
            yield warning(f"{summary}, and repeats itself: tier 2 would try again with another seed.")
        elif not report.ended:
            yield warning(
                f"{summary}, and did not end: tier 2 would try again, and then fail. Set ORPHEUS_CONTEXT_TOKENS to "
                f"{(limit or 2048) * 5 // 4}, which takes a quarter more memory a stream."
            )
        else:
            yield passed(summary)
    codec = Codec.load(
        weights.find_codec(settings.model_copy(update={"codec": settings.codec or model.codec})), settings
    )
    try:
        leads = {
            report.voice: lead_in(
                streamed(codec.decoder, np.array(report.codes, np.int64), [], seed=SEED), codec.sample_rate
            )
            for report in reports
            if report.codes
        }
    finally:
        codec.close()
    yield from _lead_ins({voice: lead for voice, lead in leads.items() if lead is not None})


def _lead_ins(leads: dict[str, LeadIn]) -> Iterator[Finding]:
    if not leads:
        yield failed("no voice was heard at all: fetch model and codec again.")
        return
    raw_ms = sorted(round(lead.raw_s * 1000) for lead in leads.values())
    left_ms = sorted(round(lead.left_s * 1000) for lead in leads.values())
    loudest_db = max(lead.loudest_db for lead in leads.values())
    summary = (
        f"{len(leads)} voices begin with {raw_ms[0]} to {raw_ms[-1]} ms of silence, at most {loudest_db:.0f} dB loud; "
        f"trimming leaves {left_ms[0]} to {left_ms[-1]} ms"
    )
    late = [voice for voice, lead in leads.items() if lead.left_s > MOST_LEFT_S]
    if late:
        threshold_db = 20 * np.log10(SILENCE_RMS)
        yield warning(
            f"{summary}: that of {', '.join(late)} is not below {threshold_db:.0f} dB, so it is heard before the first "
            "word. Please report this line."
        )
    else:
        yield passed(summary)


def lead_in(pcm: NDArray[np.float32], rate: int) -> LeadIn | None:
    """What is before the first word of an untrimmed segment, and what trimming leaves of it; None without a word."""
    raw_s = _voice_starts_s(pcm, rate)
    if raw_s is None:
        return None
    silence = pcm[: round(raw_s * rate)]
    rms = _rms(silence, rate)
    loudest = float(rms.max()) if len(rms) else 0.0
    trimmer = SilenceTrimmer(rate, threshold=SILENCE_RMS, lead_silence_s=LEAD_S)
    left_s = _voice_starts_s(np.concatenate([trimmer.trim(pcm), trimmer.finish(0.0)]), rate)
    return LeadIn(raw_s, 20 * float(np.log10(max(loudest, 1e-6))), left_s or 0.0)


def _voice_starts_s(pcm: NDArray[np.float32], rate: int) -> float | None:
    """A little before the first block that is as loud as a voice."""
    loud = np.flatnonzero(_rms(pcm, rate) > LOUD)
    return max(0.0, loud[0] * BLOCK_S - BEFORE_VOICE_S) if len(loud) else None


def _rms(pcm: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    size = round(BLOCK_S * rate)
    blocks = pcm[: len(pcm) // size * size].reshape(-1, size)
    loudness: NDArray[np.float32] = np.sqrt((blocks**2).mean(axis=1))
    return loudness


def longest_segment(voice: Voice, model: ServedModel) -> str:
    """What tier 2 would have generated in one go, of a passage or, in a language without one, of a line said again."""
    passage = PASSAGES.get(voice.language)
    if passage is None:
        line = voice.sample or SAMPLES.get(voice.language) or PASSAGES["en"]
        passage = " ".join([line] * (2 + model.segment_chars // len(line)))
    segmented = segment_text(passage, voice.language, model.segment_chars, join_chars=model.join_chars)
    return max((segment.text for segment in segmented.segments), key=len)


async def _speak(url: str, settings: Settings, model: ServedModel) -> list[VoiceReport]:
    """All voices at once, as far as tier 1 has streams."""
    source = HttpTokenSource(settings.model_copy(update={"llama_endpoint": url}))
    streams = asyncio.Semaphore(int(str(health(url.removesuffix("/v1/completions")).get("streams", 4))))

    async def speak(voice: Voice) -> VoiceReport:
        text = longest_segment(voice, model)
        report, frames, repetition = VoiceReport(voice.id, len(text)), FrameAssembler(), RepetitionDetector()
        generation = Generation(voice, text, Sampling(seed=SEED), TOKENS_EXTRA + TOKENS_PER_CHAR * len(text))
        async with streams, aclosing(source.generate(generation)) as chunks:
            async for chunk in chunks:
                report.tokens += len(chunk.numbers)
                codes = frames.assemble(chunk.numbers)
                report.codes += codes
                report.ended = chunk.finish_reason == "stop"
                if repetition.detect(codes):
                    report.loops = True
                    break
        return report

    try:
        return await asyncio.gather(
            *(speak(voice) for voice in voices_of(model.name, settings.own_voices).all)
        )
    finally:
        await source.aclose()


def listeners(settings: Settings) -> Iterator[Finding]:
    """How soon one listener hears something, and how many hear speech without a gap."""
    with running_pair(settings) as pair:
        streams = int(str(health(pair.llama_url)["streams"]))
        headers = settings.client_headers
        asyncio.run(together(pair.url, SENTENCE, 1, 2, headers))  # to warm up
        alone = asyncio.run(together(pair.url, SENTENCE, 1, FIRST_BYTES, headers))
        first_ms = statistics.median(report.first_byte_s for report in alone) * 1000
        summary = f"one listener: first byte after {first_ms:.0f} ms (median of {FIRST_BYTES})"
        yield (
            passed(summary) if first_ms < TOO_LATE_MS else warning(f"{summary}: too late for a conversation.")
        )
        crowd = asyncio.run(together(pair.url, CHAPTER, streams, 1, headers))
        audio_s, wall_s = sum(report.audio_s for report in crowd), max(report.wall_s for report in crowd)
        gaps = sum(report.playout.underruns for report in crowd)
        carried = int(audio_s / wall_s)
        slowest_ms = max(report.first_byte_s for report in crowd) * 1000
        summary = (
            f"{streams} listeners at once: {audio_s / wall_s:.1f} times real time, {gaps} gaps, the last first byte "
            f"after {slowest_ms:.0f} ms"
        )
        if carried < streams or gaps:
            yield warning(f"{summary}: set ORPHEUS_STREAMS={max(1, min(carried, streams))}.")
        else:
            yield passed(summary)
        counted = read_metrics(
            httpx.get(f"{pair.url}/metrics", headers=headers, timeout=10, trust_env=False).text
        )
        again = counted.get("orpheus_speech_regenerated_total", 0.0)
        unended = counted.get("orpheus_speech_truncated_total", 0.0)
        yield passed(f"segments generated again: {again:.0f}, without an end: {unended:.0f}")
