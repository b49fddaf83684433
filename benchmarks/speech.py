"""How soon and how smoothly speech is heard: both tiers as processes, clients over HTTP.

    python -m benchmarks.speech [--quick]

Time to first byte and to the first audible sample at 1, 4 and 16 streams; what tier 2 adds to tier 1; how a player
in real time fares with long texts at 80% of this machine's capacity; a picture of the seams between segments in
benchmarks/results/speech.png. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np

from orpheus import embedded
from orpheus.codec import Codec
from orpheus.ops.bench.listening import AUDIBLE, CHAPTER, RATE, SENTENCE, one_by_one, quantile, together
from orpheus.prompt import turn_text
from orpheus.settings import load_settings
from orpheus.tts.usage import Usage
from tests.support.live import running_pair

LOAD = 0.8
RESULTS = Path(__file__).parent / "results"


async def tier_1_first_frames(url: str, rounds: int) -> list[float]:
    """Seconds until tier 1 has sent the two frames that the first sound needs."""
    body = {"prompt": turn_text("tara", SENTENCE), "stream": True, "max_tokens": 900}
    taken = []
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
        for seed in range(rounds):
            started, frames = time.perf_counter(), 0
            async with client.stream("POST", f"{url}/v1/completions", json={**body, "seed": seed}) as events:
                async for line in events.aiter_lines():
                    frames += "custom_token" in line
                    if frames == 2:
                        taken.append(time.perf_counter() - started)
                        break
    return taken


async def seams(picture: Path) -> list[float]:
    """Speak a few sentences in this process; draw them with the edges of their segments; pauses in seconds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from orpheus.llama.engine import Engine
    from orpheus.server.schema import SpeechRequest
    from orpheus.server.service import SpeechService
    from orpheus.tts.token_source import EngineTokenSource

    settings = load_settings(model="embedded")
    service = SpeechService(
        settings,
        lambda: EngineTokenSource(Engine.load(embedded.MODEL, settings)),
        lambda: Codec.load(embedded.CODEC, settings),
    )
    usage = Usage()
    async with service.running():
        await service.loaded()
        params = service.params(SpeechRequest(input=CHAPTER, response_format="pcm", seed=7))
        segments = service.segment(CHAPTER, params)
        data = b"".join([chunk async for chunk in service.encoded(segments, params, usage)])
    pcm = np.frombuffer(data, "<i2") / 32768
    quiet = np.abs(pcm) < AUDIBLE
    pauses = []
    for edge in usage.segment_starts[1:]:
        before = np.flatnonzero(~quiet[:edge])[-1]
        after = edge + np.flatnonzero(~quiet[edge:])[0]
        pauses.append((after - before) / RATE)

    figure, axes = pyplot.subplots(figsize=(12, 3.2), layout="constrained")
    axes.plot(np.arange(len(pcm)) / RATE, pcm, linewidth=0.3, color="#2b6cb0")
    for edge, segment in zip(usage.segment_starts, usage.segments, strict=True):
        axes.axvline(edge / RATE, color="#c53030", linewidth=1)
        axes.text(
            edge / RATE, 0.98, f" {segment.text[:26]}…", fontsize=7, rotation=0, va="top", color="#c53030"
        )
    axes.set(
        ylim=(-1, 1),
        xlabel="seconds",
        title=f"One text, {len(usage.segments)} segments: pauses "
        + ", ".join(f"{pause * 1000:.0f}" for pause in pauses)
        + " ms",
    )
    picture.parent.mkdir(exist_ok=True)
    figure.savefig(picture, dpi=110)
    return pauses


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds and a shorter text")
    quick = parser.parse_args().quick
    result: dict[str, float] = {}
    work = Path(tempfile.mkdtemp())

    with running_pair(work, ORPHEUS_JOIN="off", ORPHEUS_STREAMS="16") as pair:
        rounds = 8 if quick else 30
        asyncio.run(together(pair.url, SENTENCE, 1, 3))  # warm
        # Alternately, so that both meet the same noise of this machine.
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(rounds // 4):
            theirs += asyncio.run(tier_1_first_frames(pair.llama_url, 4))
            ours += [heard.first_byte_s for heard in asyncio.run(together(pair.url, SENTENCE, 1, 4))]
        result["tier2_overhead_ms"] = (statistics.median(ours) - statistics.median(theirs)) * 1000
        print(f"two frames from tier 1: {statistics.median(theirs) * 1000:.0f} ms (median of {len(theirs)})")
        print(f"first byte from tier 2: {statistics.median(ours) * 1000:.0f} ms, with nothing trimmed")

    with running_pair(work, ORPHEUS_STREAMS="16") as pair:
        asyncio.run(together(pair.url, SENTENCE, 1, 3))
        print("\nstreams   first byte p50  p99      first sound p50  p99      times real time")
        capacity = 0.0
        for streams, rounds in ((1, 10 if quick else 40), (4, 3 if quick else 10), (16, 2 if quick else 6)):
            started = time.perf_counter()
            heard = asyncio.run(together(pair.url, SENTENCE, streams, rounds))
            speed = sum(one.audio_s for one in heard) / (time.perf_counter() - started)
            capacity = max(capacity, speed)
            bytes_, sounds = [one.first_byte_s for one in heard], [one.first_sound_s for one in heard]
            for name, values in (("first_byte", bytes_), ("first_sound", sounds)):
                for mark, share in (("p50", 0.5), ("p99", 0.99)):
                    result[f"{name}_ms_{mark}_{streams}"] = quantile(values, share) * 1000
            print(
                f"{streams:7d}   {quantile(bytes_, 0.5) * 1000:11.0f} {quantile(bytes_, 0.99) * 1000:6.0f} ms"
                f"   {quantile(sounds, 0.5) * 1000:12.0f} {quantile(sounds, 0.99) * 1000:6.0f} ms {speed:14.1f}"
            )
        listeners = max(1, int(LOAD * capacity))
        text = (CHAPTER * 20)[: 600 if quick else 3000]
        heard = asyncio.run(one_by_one(pair.url, text, listeners, 0.5))
        result["listeners_at_80_percent"] = listeners
        result["underruns"] = sum(one.player.underruns for one in heard)
        result["longest_underrun_ms"] = max(one.player.longest_underrun_s for one in heard) * 1000
        result["streams_at_real_time"] = capacity
        print(
            f"\n{listeners} listeners to {len(text)} characters at {LOAD:.0%} of {capacity:.1f} times real time: "
            f"{result['underruns']:.0f} underruns, the longest {result['longest_underrun_ms']:.0f} ms"
        )
    pauses = asyncio.run(seams(RESULTS / "speech.png"))
    result["max_gap_ms"] = max(pauses) * 1000
    print(f"longest pause between segments: {result['max_gap_ms']:.0f} ms")
    print(json.dumps({name: round(value, 2) for name, value in result.items()}))


if __name__ == "__main__":
    main()
