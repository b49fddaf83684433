"""Tier 1 at ORPHEUS_LLAMA_ENDPOINT, or one started here → whether it speaks as tier 2 needs it to.

Knows nothing of sound. Asks exactly what tier 2 asks, of any completions server.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from orpheus import weights
from orpheus.errors import EngineError, OrpheusError
from orpheus.ops.doctor.check import Finding, failed, passed, warning
from orpheus.ops.doctor.machine import health
from orpheus.sampling import Sampling
from orpheus.settings import Settings
from orpheus.tts.frames import FrameAssembler
from orpheus.tts.token_source import (
    CONNECT_TIMEOUT_S,
    STALL_TIMEOUT_S,
    Generation,
    completion_body,
    read_event,
)
from orpheus.vocabulary import END_OF_SPEECH, TokenTextParser, numbers_from_published_ids, slot_and_code
from orpheus.voices import languages_of, voices_of

TEXT = "The boat drifted slowly down the river."
MOST_TOKENS = 1500  # 18 s of speech for a text of 3
LIMIT_S = 60.0  # of one generation
CANCEL_S = 5.0  # for a server to notice that its client left
LOAD_S = 120.0
# What counts the generations under way, by server: Orpheus, vLLM, SGLang, llama-server.
RUNNING = (
    "orpheus_streams_active",
    "vllm:num_requests_running",
    "sglang:num_running_reqs",
    "llamacpp:requests_processing",
)
CANCELLED = "orpheus_cancelled_total"


@dataclass
class Answer:
    """What came of one generation."""

    texts: list[int] = field(default_factory=list)  # numbers that came as text
    ids: list[int] = field(default_factory=list)  # and as token ids
    after_end: int = 0  # audio tokens that came after the end of speech
    reason: str | None = None
    tokens: int = 0

    @property
    def numbers(self) -> list[int]:
        return self.texts or self.ids


def seam(settings: Settings) -> Iterator[Finding]:
    """Where none runs and none is named, one is started for the time of the check."""
    url = settings.completions_url
    if settings.llama_endpoint or "streams" in health(url.removesuffix("/v1/completions")):
        yield from _examined(url, settings)
    else:
        with _started(settings) as url:
            yield from _examined(f"{url}/v1/completions", settings)


def _examined(url: str, settings: Settings) -> Iterator[Finding]:
    key = settings.llama_api_key
    headers = dict(settings.proxy_headers)
    if key:
        headers["Authorization"] = f"Bearer {key.get_secret_value()}"
    voice = voices_of(languages_of(weights.model_name(settings)))[0].id
    body = completion_body(Generation(voice, TEXT, Sampling(seed=7), MOST_TOKENS), settings.model_name)
    timeout = httpx.Timeout(STALL_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    with httpx.Client(headers=headers, timeout=timeout, trust_env=False) as client:
        try:
            yield from _tokens(client, url, body)
            yield from _leaving(client, url, body)
        except httpx.ConnectError:
            yield failed(
                f"nothing answers at {url}: start tier 1 with `orpheus llama`, or set ORPHEUS_LLAMA_ENDPOINT."
            )
        except httpx.TimeoutException:
            yield failed(f"{url} sent nothing for {STALL_TIMEOUT_S:g} s: is it loaded? Its log says why.")
        except httpx.HTTPError as error:
            yield failed(f"{url} broke off in the middle ({type(error).__name__}): its log says why.")


def _tokens(client: httpx.Client, url: str, body: dict[str, object]) -> Iterator[Finding]:
    answer = _answer(client, url, body)
    if not answer.numbers:
        yield failed(
            f"{url} sends no audio tokens, neither as text nor as ids: serve an Orpheus model, and let special tokens "
            "through (llama-server: --special)."
        )
        return
    how = [name for name, found in (("text", answer.texts), ("ids", answer.ids)) if found]
    yield passed(f"{url} sends tokens as {' and '.join(how)}")
    frames = FrameAssembler()
    frames.push(answer.numbers)
    if frames.resyncs:
        yield warning(
            f"{frames.resyncs} of {frames.frames + frames.resyncs} frames were out of order: each is a click. "
            "A tier 1 of `orpheus llama` draws none such."
        )
    else:
        yield passed(f"{frames.frames} frames, all in order")
    if answer.after_end or (answer.reason != "stop" and answer.tokens >= MOST_TOKENS):
        yield failed(
            f"the end of speech does not end it: {answer.tokens} tokens came for a short sentence, {answer.after_end} "
            "of them after the end. The server must honour `stop`, and render <custom_token_2> as text."
        )
    elif answer.reason is None:
        yield failed(f"{url} ended its stream without a finish_reason: speech would count as broken off.")
    elif answer.reason != "stop":
        yield failed(
            f"finish_reason is {answer.reason!r} after {answer.tokens} tokens: raise its limit of tokens."
        )
    else:
        yield passed("the end of speech ends it")


def _leaving(client: httpx.Client, url: str, body: dict[str, object]) -> Iterator[Finding]:
    """Leave in the middle; is the generation gone soon?"""
    base = re.sub(r"(/v1)?/completions$", "", url)
    before = _counted(client, base)
    if before is None:
        yield warning(f"whether leaving cancels cannot be seen: {base}/metrics counts no running requests")
        return
    long = {**body, "prompt": str(body["prompt"]).replace(TEXT, " ".join([TEXT] * 6))}
    with client.stream("POST", url, json=long) as response:
        _check_status(response, url)
        for line in response.iter_lines():
            if (
                line.startswith("data:")
                and (event := read_event(line[5:].strip()))
                and (event.text or event.ids)
            ):
                break
        during = _counted(client, base) or before
    left = time.monotonic()
    while time.monotonic() - left < CANCEL_S:
        now = _counted(client, base) or before
        if now.cancelled > before.cancelled or now.running < during.running:
            yield passed(f"leaving cancels, within {time.monotonic() - left:.1f} s")
            return
        if during.running <= before.running:
            yield warning(
                "whether leaving cancels could not be seen: the generation was over before. Try again."
            )
            return
        time.sleep(0.05)
    yield failed(
        f"a generation whose client left goes on after {CANCEL_S:g} s: interrupted speech would keep a place. Is there "
        "a proxy between the tiers that does not pass the disconnect on?"
    )


def _answer(client: httpx.Client, url: str, body: dict[str, object]) -> Answer:
    answer, parser = Answer(), TokenTextParser()
    ended = False
    deadline = time.monotonic() + LIMIT_S
    with client.stream("POST", url, json=body) as response:
        _check_status(response, url)
        for line in response.iter_lines():
            if not line.startswith("data:") or line[5:].strip() == "[DONE]":
                continue
            event = read_event(line[5:].strip())
            if event is None:
                continue
            texts = parser.push(event.text)
            answer.texts += texts
            answer.ids += numbers_from_published_ids(event.ids)
            for number in texts or numbers_from_published_ids(event.ids):
                answer.tokens += 1
                answer.after_end += ended and slot_and_code(number) is not None
                ended = ended or number == END_OF_SPEECH
            answer.reason = event.finish_reason or answer.reason
            if answer.tokens > 2 * MOST_TOKENS:
                break
            if time.monotonic() > deadline:
                raise EngineError(
                    f"{url} made {answer.tokens} tokens in {LIMIT_S:g} s and was not done: far below real time."
                )
    return answer


def _check_status(response: httpx.Response, url: str) -> None:
    if response.status_code != 200:
        response.read()
        said = " ".join(response.text.split())[:200]
        raise EngineError(
            f"{url} answered {response.status_code}: {said}. Check ORPHEUS_LLAMA_ENDPOINT, ORPHEUS_MODEL_NAME and "
            "ORPHEUS_LLAMA_API_KEY."
        )


@dataclass(frozen=True)
class Counted:
    """What a server says of its generations."""

    running: float
    cancelled: float  # since it started; 0 where it does not count them


def _counted(client: httpx.Client, base: str) -> Counted | None:
    """None where the server counts nothing."""
    try:
        response = client.get(f"{base}/metrics", timeout=3)
    except httpx.HTTPError:
        return None
    running, cancelled = None, 0.0
    for line in response.text.splitlines() if response.status_code == 200 else ():
        if line.startswith(RUNNING):
            running = float(line.rsplit(" ", 1)[1])
        elif line.startswith(CANCELLED):
            cancelled = float(line.rsplit(" ", 1)[1])
    return None if running is None else Counted(running, cancelled)


@contextmanager
def _started(settings: Settings) -> Iterator[str]:
    """Tier 1 as `orpheus llama` serves it, on a free port of this machine."""
    import uvicorn

    from orpheus.llama.engine import Engine
    from orpheus.llama.server import create_app

    engine = Engine.load(weights.find_model(settings), settings)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        app = create_app(settings, lambda: engine)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        deadline = time.monotonic() + LOAD_S
        while "streams" not in health(url):
            if not thread.is_alive() or time.monotonic() > deadline:
                raise OrpheusError("Tier 1 did not start here; `orpheus llama` says why.")
            time.sleep(0.05)
        yield url
        server.should_exit = True
        thread.join(10)
