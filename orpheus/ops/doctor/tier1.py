"""Checks of tier 1, at ORPHEUS_LLAMA_ENDPOINT or started here: it is fast enough, and gives tier 2 what it needs.

The second check sends exactly what tier 2 sends, so any completions server can be checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

import httpx
import numpy as np

from orpheus import weights
from orpheus.codec.checkpoint import read_config
from orpheus.errors import EngineError, OrpheusError
from orpheus.http.sse import iter_events
from orpheus.ops.bench import rivals
from orpheus.ops.bench.listening import SENTENCE, read_metrics
from orpheus.ops.child import ChildServer, wait_until_healthy
from orpheus.ops.doctor.check import Finding, failed, passed, warning
from orpheus.ops.doctor.machine import health
from orpheus.sampling import Sampling
from orpheus.settings import Settings
from orpheus.tts.frames import FrameAssembler
from orpheus.tts.served_model import ServedModel, check_fit, named_model
from orpheus.tts.token_source import (
    CONNECT_TIMEOUT_S,
    STALL_TIMEOUT_S,
    CompletionEvent,
    Generation,
    HttpTokenSource,
    completion_body,
    read_event,
)
from orpheus.vocabulary import (
    END_OF_SPEECH,
    FRAME_S,
    SLOTS,
    TOKENS_PER_S,
    TokenTextParser,
    numbers_from_published_ids,
    slot_and_code,
)
from orpheus.voices import voices_of

MEASURE_S = 3.0
CODEC_FRAMES = 24  # 2 s of speech
MOST_TOKENS = 1500  # 18 s of speech for a text of 3
LIMIT_S = 60.0  # of one generation
CANCEL_S = 5.0  # for a server to notice that its client left
LOAD_S = 120.0
# What counts the generations that run, by server: Orpheus, vLLM, SGLang, llama-server.
RUNNING = (
    "orpheus_streams_active",
    "vllm:num_requests_running",
    "sglang:num_running_reqs",
    "llamacpp:requests_processing",
)
CANCELLED = "orpheus_cancelled_total"


@contextlib.contextmanager
def _started(settings: Settings) -> Iterator[ChildServer]:
    """Tier 1 as `orpheus llama` serves it, on a free port of this machine."""
    options = settings.model_dump(include={"streams", "context_tokens", "gpu_layers", "kv_type", "threads"})
    environment = {
        f"ORPHEUS_{name.upper()}": str(value) for name, value in options.items() if value is not None
    }
    with rivals.tier_1(weights.find_model(settings), **environment) as server:
        wait_until_healthy([server], LOAD_S)
        yield server


def engine(settings: Settings) -> Iterator[Finding]:
    """Where the layers are, and how fast one stream is."""
    with _started(settings) as server:
        told = health(server.url)
        alone = _tokens_per_s(server, 1)
        times = f"{alone:.0f} tokens a second, {alone / TOKENS_PER_S:.1f} times real time"
        summary = f"on the {told['device']}; one stream: {times}"
        if alone < TOKENS_PER_S:
            yield failed(
                f"{summary}: speech will break off. Use a GPU, a smaller quantisation, or ORPHEUS_MODEL=embedded."
            )
        else:
            yield passed(summary)
        yield passed(
            "a seed gives the same tokens alone and in company"
            if told.get("batch_invariant")
            else "a seed gives other tokens in other company, as on most GPUs"
        )


def capacity(settings: Settings) -> Iterator[Finding]:
    """How many streams each tier carries in real time, and which of the two is the bottleneck."""
    with _started(settings) as server:
        told = health(server.url)
        streams = int(str(told["streams"]))
        together = _tokens_per_s(server, streams)
    tokens = together / TOKENS_PER_S
    yield passed(
        f"tier 1, on the {told['device']}: {streams} streams make {together:.0f} tokens a second, real time for "
        f"{tokens:.0f}"
    )
    device, sound = _codec_carries(settings, streams)
    yield passed(f"codec, on {device}: real time for {sound:.0f} streams")
    shared = device == "cpu" and told["device"] == "processor"
    # Both on the processor, each has it for a part of the time.
    carried = 1 / (1 / tokens + 1 / sound) if shared else min(tokens, sound)
    slower = "tier 1" if tokens < sound else "the codec"
    summary = f"{carried:.0f} streams in real time{', sharing the processor' if shared else ''}; the bottleneck is {slower}"
    if carried < streams:
        yield warning(
            f"{summary}: set ORPHEUS_STREAMS={max(1, int(carried))}, or give the machine fewer other tasks."
        )
    else:
        yield passed(summary)


def _codec_carries(settings: Settings, streams: int) -> tuple[str, float]:
    """The device of the codec, and how many streams it decodes in real time, `streams` at a time and by the frame."""
    from orpheus.codec import Codec
    from orpheus.ops.bench.codec import streamed

    codec = Codec.load(weights.find_codec(settings), settings)
    try:
        decoder = codec.decoder
        codes = np.random.default_rng(0).integers(0, decoder.config.codes, CODEC_FRAMES * SLOTS)
        cuts = range(SLOTS, len(codes), SLOTS)
        took_s = []
        for _ in range(2):  # the first warms up
            started_s = time.perf_counter()
            streamed(decoder, codes, cuts, seed=1, streams=streams)
            took_s.append(time.perf_counter() - started_s)
        return str(decoder.device), streams * CODEC_FRAMES * FRAME_S / took_s[-1]
    finally:
        codec.close()


def _tokens_per_s(server: ChildServer, streams: int) -> float:
    return rivals.measure(server, rivals.BODY, streams, MEASURE_S, all_within_s=LIMIT_S).tokens_per_s


def seam(settings: Settings) -> Iterator[Finding]:
    """The completions that tier 2 depends on. If no tier 1 is running and none is named, one is started."""
    with reached(settings) as url:
        yield from _examined(url, settings)


@contextlib.contextmanager
def reached(settings: Settings) -> Iterator[str]:
    """The completions URL of the tier 1 that is named or already runs here, or of one that is started."""
    url = settings.completions_url
    if settings.llama_endpoint or "streams" in health(url.removesuffix("/v1/completions")):
        yield url
    else:
        with _started(settings) as server:
            yield f"{server.url}/v1/completions"


def _examined(url: str, settings: Settings) -> Iterator[Finding]:
    model = yield from _what_it_serves(url, settings)
    if model is None:
        return
    key = settings.llama_api_key
    headers = settings.proxy_headers | {"Accept-Encoding": "identity"}
    headers |= {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    voice = voices_of(model.name, settings.own_voices).default
    body = completion_body(Generation(voice, SENTENCE, Sampling(seed=7), MOST_TOKENS), model)
    timeout = httpx.Timeout(STALL_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    with httpx.Client(headers=headers, timeout=timeout, trust_env=False) as client:
        try:
            yield from _tokens(client, url, body)
            yield from _leaving(client, url, body)
        except httpx.TimeoutException:
            yield failed(f"{url} sent nothing for {STALL_TIMEOUT_S:g} s: is it loaded? Its log says why.")
        except httpx.HTTPError as error:
            yield failed(f"{url} broke off in the middle ({type(error).__name__}): its log says why.")


def _what_it_serves(url: str, settings: Settings) -> Generator[Finding, None, ServedModel | None]:
    """The model at the endpoint, if tier 2 could speak through it."""
    try:
        model = asyncio.run(served_at(url, settings))
        folder = weights.find_codec(settings.model_copy(update={"codec": settings.codec or model.codec}))
        check_fit(model, read_config(folder))
    except OrpheusError as error:
        yield failed(str(error))
        return None
    limit = f", {model.context_tokens:,} tokens of prompt and speech" if model.context_tokens else ""
    yield passed(f"{url} serves {model}{limit}; the codec is {settings.codec or model.codec}")
    return model


def codec_for(settings: Settings) -> str:
    """The codec that tier 2 would load: the one that is named, or that of what the endpoint serves, as far as it tells."""
    if settings.codec:
        return settings.codec
    try:
        return asyncio.run(served_at(settings.completions_url, settings)).codec
    except OrpheusError:  # found again, and told, by the check of the seam
        return named_model(settings).codec


async def served_at(url: str, settings: Settings) -> ServedModel:
    """What the endpoint serves. OrpheusError if it does not tell."""
    source = HttpTokenSource(settings.model_copy(update={"llama_endpoint": url}))
    try:
        return await source.model(patient=False)
    finally:
        await source.aclose()


@dataclass
class CompletionReport:
    """What came of one generation."""

    from_text: list[int] = field(default_factory=list)  # token numbers
    from_ids: list[int] = field(default_factory=list)
    tokens: int = 0
    after_end: int = 0  # audio tokens after the end of speech
    reason: str | None = None

    @property
    def numbers(self) -> list[int]:
        return self.from_text or self.from_ids


def _tokens(client: httpx.Client, url: str, body: dict[str, object]) -> Iterator[Finding]:
    report = _completed(client, url, body)
    if not report.numbers:
        yield failed(
            f"{url} sends no audio tokens, neither as text nor as ids: serve an Orpheus model, and let special tokens "
            "through (llama-server: --special)."
        )
        return
    forms = [name for name, found in (("text", report.from_text), ("ids", report.from_ids)) if found]
    yield passed(f"{url} sends tokens as {' and '.join(forms)}")
    frames = FrameAssembler()
    frames.assemble(report.numbers)
    if frames.resyncs:
        yield warning(
            f"{frames.resyncs} of {frames.frames + frames.resyncs} frames were out of order, and each is a click: "
            "`orpheus llama` samples none like that."
        )
    else:
        yield passed(f"{frames.frames} frames, all in order")
    if report.after_end or (report.reason != "stop" and report.tokens >= MOST_TOKENS):
        yield failed(
            f"the end of speech does not end it: {report.tokens} tokens came for a short sentence, {report.after_end} "
            "of them after the end. The server must honour `stop`, and render <custom_token_2> as text."
        )
    elif report.reason is None:
        yield failed(
            f"{url} ended its stream without a finish_reason, so speech would count as broken off: use a server that "
            "sends one."
        )
    elif report.reason != "stop":
        yield failed(
            f"finish_reason is {report.reason!r} after {report.tokens} tokens: raise the server's limit of tokens."
        )
    else:
        yield passed("the end of speech ends it")


def _completed(client: httpx.Client, url: str, body: dict[str, object]) -> CompletionReport:
    report, parser = CompletionReport(), TokenTextParser()
    ended = False
    deadline_s = time.monotonic() + LIMIT_S
    for event in _events(client, url, body):
        from_text, from_ids = parser.parse(event.text), numbers_from_published_ids(event.ids)
        report.from_text += from_text
        report.from_ids += from_ids
        for number in from_text or from_ids:
            report.tokens += 1
            report.after_end += ended and slot_and_code(number) is not None
            ended = ended or number == END_OF_SPEECH
        report.reason = event.finish_reason or report.reason
        if report.tokens > 2 * MOST_TOKENS:
            break
        if time.monotonic() > deadline_s:
            raise EngineError(
                f"{url} made {report.tokens} tokens in {LIMIT_S:g} s and was not done, which is far below real time: "
                "run it on a faster machine."
            )
    return report


def _leaving(client: httpx.Client, url: str, body: dict[str, object]) -> Iterator[Finding]:
    """Leave in the middle, and see whether the generation ends soon."""
    base = re.sub(r"(/v1)?/completions$", "", url)
    before = _counted(client, base)
    if before is None:
        yield warning(
            f"cannot see whether leaving cancels: {base}/metrics does not count running requests. Turn its metrics on."
        )
        return
    long = {**body, "prompt": str(body["prompt"]).replace(SENTENCE, " ".join([SENTENCE] * 6))}
    with contextlib.closing(_events(client, url, long)) as events:
        next((event for event in events if event.text or event.ids), None)
        during = _counted(client, base) or before
    left_s = time.monotonic()
    while time.monotonic() - left_s < CANCEL_S:
        now = _counted(client, base) or before
        if now.cancelled > before.cancelled or now.running < during.running:
            yield passed(f"leaving cancels, within {time.monotonic() - left_s:.1f} s")
            return
        if during.running <= before.running:
            yield warning("could not see whether leaving cancels: the generation was over before. Try again.")
            return
        time.sleep(0.05)
    yield failed(
        f"a generation whose client left goes on after {CANCEL_S:g} s, so interrupted speech would keep its stream: "
        "is there a proxy between the tiers that does not pass the disconnect on?"
    )


def _events(client: httpx.Client, url: str, body: dict[str, object]) -> Generator[CompletionEvent]:
    """The events of one completion. EngineError if it is refused."""
    with client.stream("POST", url, json=body) as response:
        if response.status_code != 200:
            response.read()
            reason = " ".join(response.text.split())[:200]
            raise EngineError(
                f"{url} answered {response.status_code}: {reason}. Check ORPHEUS_LLAMA_ENDPOINT, ORPHEUS_MODEL_NAME "
                "and ORPHEUS_LLAMA_API_KEY."
            )
        for data in map(str.strip, iter_events(response.iter_raw())):
            if data == "[DONE]":
                return
            if data and (event := read_event(data)):
                yield event


@dataclass(frozen=True)
class Generations:
    """What a server counts of its generations."""

    running: float
    cancelled: float  # since it started; 0 if it does not count them


def _counted(client: httpx.Client, base: str) -> Generations | None:
    """None if the server counts nothing."""
    try:
        response = client.get(f"{base}/metrics", timeout=3)
    except httpx.HTTPError:
        return None
    counted = read_metrics(response.text) if response.status_code == 200 else {}
    running = [value for name, value in counted.items() if name.startswith(RUNNING)]
    return Generations(sum(running), counted.get(CANCELLED, 0.0)) if running else None
