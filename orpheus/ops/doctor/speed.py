"""Weights on this machine → tokens a second against real time, and streamed sound against the offline decode.

Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from orpheus import weights
from orpheus.ops.doctor.check import Finding, failed, passed, warning
from orpheus.prompt import turn_text
from orpheus.sampling import Sampling
from orpheus.settings import Settings
from orpheus.vocabulary import SLOTS

if TYPE_CHECKING:
    from orpheus.llama.engine import Engine

REAL_TIME = SLOTS * 24000 / 2048  # tokens for a second of speech: 82
MEASURE_S = 3.0
FEWEST_TOKENS = 21  # three frames, however slow the machine
EXACT = 1e-4  # of the loudest sample: -80 dB, below what 16 bits of speech let through
FRAMES = 40
ALL = 1000  # latents of lookahead: more than any codec needs, so that the first frame is exact too


def engine(settings: Settings) -> Iterator[Finding]:
    """Tokens a second of one stream, and of as many as are allowed."""
    from orpheus.llama.engine import Engine

    loaded = Engine.load(weights.find_model(settings), settings)
    try:
        streams = loaded.config.streams
        alone = asyncio.run(_tokens_per_s(loaded, 1)) / REAL_TIME
        told = f"one stream: {alone * REAL_TIME:.0f} tokens a second, {alone:.1f} times real time"
        if alone < 1:
            yield failed(
                f"{told}: speech will break off. Use a GPU, a smaller quantisation, or ORPHEUS_MODEL=embedded."
            )
        else:
            yield passed(told)
        together = asyncio.run(_tokens_per_s(loaded, streams)) / REAL_TIME
        told = (
            f"{streams} streams: {together * REAL_TIME:.0f} tokens a second, which carries {int(together)} at "
            "real time"
        )
        if together < streams:
            yield warning(
                f"{told}: set ORPHEUS_STREAMS={max(1, int(together))}, or give it fewer other tasks."
            )
        else:
            yield passed(told)
    finally:
        loaded.close()


async def _tokens_per_s(engine: Engine, streams: int) -> float:
    """Over at least MEASURE_S, counted from when each stream has begun."""
    from orpheus.llama.engine import Completion

    prompt = engine.tokenize_prompt(turn_text("tara", "The boat drifted slowly down the river."))
    counts = [0] * streams

    async def speak(number: int) -> None:
        seed = number
        while True:
            seed += streams
            asked = Completion(prompt, engine.config.context_tokens // 2, Sampling(seed=seed))
            async with engine.submit(asked) as stream:
                async for chunk in stream:
                    counts[number] += len(chunk.ids)

    tasks = [asyncio.create_task(speak(number)) for number in range(streams)]
    try:
        while not all(counts):
            await _or_raise(tasks, 0.005)
        began, before = time.perf_counter(), sum(counts)
        while (took_s := time.perf_counter() - began) < MEASURE_S or sum(counts) - before < FEWEST_TOKENS:
            await _or_raise(tasks, 0.05)
        return (sum(counts) - before) / took_s
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _or_raise(tasks: list[asyncio.Task[None]], wait_s: float) -> None:
    """Wait; raise what ended a task that should go on for ever."""
    done, _ = await asyncio.wait(tasks, timeout=wait_s, return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()


def exactness(settings: Settings) -> Iterator[Finding]:
    """Codes in odd portions through the streaming decoder, and all at once through the snac package."""
    from orpheus.codec import Codec, StreamState, decode_all
    from orpheus.codec.offline import OfflineDecoder

    folder = weights.find_codec(settings)
    loaded = Codec.load(folder, settings)
    try:
        decoder = loaded.decoder
        draw = np.random.default_rng(0)
        codes = draw.integers(0, decoder.config.codes, FRAMES * SLOTS)
        state = StreamState(decoder, 1, ALL)
        segments, took_s, at = [], 0.0, 0
        while at < len(codes):
            count = int(draw.integers(1, 3 * SLOTS))
            began = time.perf_counter()
            state.push(codes[at : at + count])
            segments += decode_all(decoder, [state])
            took_s += time.perf_counter() - began
            at += count
        state.finish()
        segments += decode_all(decoder, [state])
        streamed = np.concatenate(segments)
        offline = OfflineDecoder.load(folder).decode(codes, seed=1)
    finally:
        loaded.close()
    if len(streamed) != len(offline):
        yield failed(
            f"streaming gave {len(streamed)} samples, the whole {len(offline)}: report this, please."
        )
        return
    error = float(np.abs(streamed - offline).max() / max(1.0, float(np.abs(offline).max())))
    told = f"streamed and whole differ by at most {error:.1e} of full scale"
    if error < EXACT:
        yield passed(told)
    else:
        yield failed(f"{told}: set ORPHEUS_CODEC_DEVICE=cpu, and report the device, please.")
    speed = len(offline) / decoder.config.sample_rate / took_s
    told = f"{decoder.device}: {speed:.1f} times real time, one stream"
    yield passed(told) if speed > 1 else failed(f"{told}: too slow to stream; raise ORPHEUS_CODEC_THREADS.")
