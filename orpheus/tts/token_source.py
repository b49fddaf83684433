"""A segment of text and a voice → its audio tokens as they are generated: the seam between the tiers.

Two sources: the engine in this process, and any server of OpenAI's `/v1/completions` (ours, vLLM, llama-server, LM
Studio). Closing a stream cancels its generation.

A server is not trusted with our time or memory: progress is tokens, not bytes, and every wait, line and body has a
bound. Its address is for the log; the sentences of errors, which go to clients, say "Tier 1".
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import httpx

from orpheus import tracing, vocabulary
from orpheus.errors import AtCapacity, BadRequest, NotReady, OrpheusError, UpstreamError
from orpheus.http.cold_start import send_when_awake
from orpheus.http.refusals import MAX_SAID_CHARS, message_in, sentence_of, start_of
from orpheus.http.responses import retry_after_s
from orpheus.http.sse import EventParser
from orpheus.http.tcp import direct_transport
from orpheus.logs import request_id
from orpheus.prompt import prompt_of
from orpheus.redaction import address, redacted
from orpheus.sampling import REPETITION_FRAMES, Sampling
from orpheus.settings import Settings
from orpheus.tts.served_model import ServedModel, listed_model, named_model
from orpheus.voices import Voice

if TYPE_CHECKING:
    from orpheus.llama.engine import Engine

CONNECT_TIMEOUT_S = 5.0
STALL_TIMEOUT_S = 30.0  # longest wait for an answer, and then for each token, before tier 1 counts as dead
SLOWEST_TOKEN_S = 1.0  # and on the whole: a listener takes 82 tokens a second
HEALTH_TIMEOUT_S = 2.0
MODELS_TIMEOUT_S = 5.0
MODELS_BODY_BYTES = 256 * 1024
MAX_TOKEN_ID = (1 << 31) - 1  # of any vocabulary: llama.cpp's type
# What servers call a proper end: OpenAI's names, and those of llama-server and text-generation-inference.
STOPS = ("stop", "eos", "eos_token", "stop_sequence")

FinishReason = Literal["stop", "length"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Generation:
    """One request to tier 1: a segment, a voice and how to sample it."""

    voice: Voice
    text: str
    sampling: Sampling
    max_tokens: int


@dataclass(frozen=True)
class TokenChunk:
    """Consecutive tokens of a generation, as the N of `<custom_token_N>`."""

    numbers: tuple[int, ...]
    finish_reason: FinishReason | None = None  # on the last chunk
    prompt_tokens: int | None = None  # on the last chunk, if known


class TokenSource(Protocol):
    """What tier 2 needs from tier 1."""

    def generate(self, generation: Generation) -> AsyncGenerator[TokenChunk]:
        """The tokens of one segment; the last chunk has a finish reason.

        Raises OrpheusError; AtCapacity only before the first token.
        """

    async def check(self) -> None:
        """Raise NotReady with the reason unless a request would be served now."""

    async def model(self, *, patient: bool = True) -> ServedModel:
        """What tier 1 serves: asked once, and again after it was gone or `forget` was called.

        `patient`: wait for a tier 1 that is asleep. OrpheusError if it does not tell now.
        """

    def forget(self) -> None:
        """Ask again what tier 1 serves."""

    async def aclose(self) -> None: ...


class EngineTokenSource:
    """The engine in this process, with no HTTP in between."""

    def __init__(self, engine: Engine, name: str) -> None:
        """`name`: that of the model, as ORPHEUS_MODEL would name it."""
        self._engine = engine
        self._model = ServedModel(
            name,
            vocabulary=engine.vocabulary.size,
            codes_per_slot=engine.vocabulary.codes,
            context_tokens=engine.config.context_tokens,
            wide_seeds=True,
            fingerprint=engine.fingerprint,
        )

    async def generate(self, generation: Generation) -> AsyncGenerator[TokenChunk]:
        from orpheus.llama.engine import Completion

        asked = prompt_of(generation.voice, generation.text)
        prompt = self._engine.tokenize_prompt(asked.text, verbatim=asked.verbatim)
        completion = Completion(prompt=prompt, max_tokens=generation.max_tokens, sampling=generation.sampling)
        async with aclosing(self._engine.submit(completion)) as stream:
            async for chunk in stream:
                yield TokenChunk(chunk.numbers, chunk.finish_reason, len(prompt))

    async def check(self) -> None:
        self._engine.check()

    async def model(self, *, patient: bool = True) -> ServedModel:
        return self._model

    def forget(self) -> None:
        """The engine never changes."""

    async def aclose(self) -> None:
        self._engine.close()


class HttpTokenSource:
    """A completions server, over one pooled client. A request is never repeated once its response has started."""

    def __init__(self, settings: Settings) -> None:
        at = httpx.URL(settings.completions_url)
        self._url = str(at.copy_with(userinfo=b""))  # nobody who shows it can show the password
        self._settings = settings
        self._client = self._open_client(at)
        self._cold_wait_s = settings.cold_wait_s
        self._problems: dict[str, str] = {}  # what went wrong last, so that each change is logged once
        self._model: ServedModel | None = None
        self._asking = asyncio.Lock()

    def _open_client(self, at: httpx.URL) -> httpx.AsyncClient:
        key = self._settings.llama_api_key
        return httpx.AsyncClient(
            headers=self._settings.proxy_headers
            # Compressed tokens would arrive late, and a small answer could unpack to gigabytes.
            | {"Accept-Encoding": "identity"}
            | ({"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}),
            auth=httpx.BasicAuth(at.username, at.password) if at.userinfo else None,
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),  # reading has bounds of its own
            transport=direct_transport(httpx.Limits(max_connections=None, max_keepalive_connections=64)),
            trust_env=False,  # tier 1 is ours: a proxy for the outside would only be in the way
        )

    async def generate(self, generation: Generation) -> AsyncGenerator[TokenChunk]:
        model = await self.model()
        body = completion_body(generation, model)
        headers = {"X-Request-ID": known} if (known := request_id.get()) else {}
        request = self._client.build_request("POST", self._url, json=body, headers=headers)
        with self._in_our_words(), tracing.call("tier 1") as traced:
            request.headers.update(traced)
            send = send_when_awake(self._client, request, self._cold_wait_s, STALL_TIMEOUT_S)
            async with aclosing(await send) as response:
                if response.status_code != 200:
                    raise await self._refusal(response)
                _check_is_event_stream(response)
                if model.fingerprint not in (None, response.headers.get(FINGERPRINT_HEADER)):
                    self.forget()
                    raise NotReady("Tier 1 has just changed its model: try again.")
                async with aclosing(_read(response, body["max_tokens"])) as chunks:
                    async for chunk in chunks:
                        yield chunk

    @contextmanager
    def _in_our_words(self) -> Iterator[None]:
        """Failures of a request as errors that can be told to clients."""
        try:
            yield
        except UpstreamError as error:
            self._log(str(error))
            raise UpstreamError(self._for_clients(str(error))) from error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            self._log(repr(error))
            self.forget()  # another may come up there
            raise NotReady(UNREACHABLE) from error
        except TimeoutError as error:
            self._log("it did not answer in time")
            raise UpstreamError(
                f"Tier 1 sent nothing for {STALL_TIMEOUT_S:g} s; its log says why."
            ) from error
        except httpx.HTTPError as error:
            self._log(repr(error))
            raise UpstreamError(
                f"Tier 1 broke off in the middle ({type(error).__name__}); its log says why."
            ) from error

    async def model(self, *, patient: bool = True) -> ServedModel:
        async with self._asking:  # once, for all who wait
            if self._model is None:
                with self._logged_once("/v1/models"):
                    model = await self._ask(self._cold_wait_s if patient else 0.0)
                self._log(f"it serves {model}")
                self._model = model
            return self._model

    def forget(self) -> None:
        self._model = None

    async def _ask(self, wait_s: float) -> ServedModel:
        at = httpx.URL(self._url)
        url = at.copy_with(path=at.path.removesuffix("completions") + "models")
        body = bytearray()
        try:
            # A client of its own: whoever loads asks from another event loop.
            async with self._open_client(httpx.URL(self._settings.completions_url)) as client:
                request = client.build_request("GET", url)
                answer = await send_when_awake(client, request, wait_s, MODELS_TIMEOUT_S)
                async with aclosing(answer) as response, asyncio.timeout(MODELS_TIMEOUT_S):
                    if response.status_code in (401, 403, 429) or response.status_code >= 500:
                        raise await self._refusal(response)
                    if response.status_code == 200:
                        async for chunk in response.aiter_raw():
                            body += chunk
                            if len(body) > MODELS_BODY_BYTES:
                                return named_model(self._settings)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise NotReady(UNREACHABLE) from error
        except (httpx.HTTPError, TimeoutError) as error:
            raise NotReady(
                f"Tier 1 does not say what it serves ({type(error).__name__} at /v1/models); its log says why."
            ) from error
        try:
            return listed_model(json.loads(body), self._settings)
        except (ValueError, RecursionError):
            return named_model(self._settings)

    async def check(self) -> None:
        with self._logged_once("/health"):
            await self._check()

    @contextmanager
    def _logged_once(self, asked: str) -> Iterator[None]:
        """Logs a failure unless the one before it was the same: it is asked again and again."""
        try:
            yield
        except OrpheusError as error:
            if self._problems.get(asked) != str(error):
                self._log(str(error))
                self._problems[asked] = str(error)
            raise
        self._problems.pop(asked, None)

    async def _check(self) -> None:
        at = httpx.URL(self._url)
        url = at.copy_with(path=at.path.removesuffix("/completions").removesuffix("/v1") + "/health")
        try:
            async with (
                asyncio.timeout(HEALTH_TIMEOUT_S),
                self._client.stream("GET", url) as response,
            ):
                said = await self._said(response) if response.status_code == 503 else ""
        except (httpx.HTTPError, TimeoutError) as error:
            self.forget()
            raise NotReady(UNREACHABLE) from error
        if response.status_code == 503:
            raise NotReady(said or "Tier 1 is still loading.")
        if response.status_code >= 500:
            raise NotReady(f"Tier 1 answers {response.status_code} to /health.")

    async def aclose(self) -> None:
        await self._client.aclose()

    def _log(self, problem: str) -> None:
        log.info(
            "tier 1 at %s: %s", address(self._url), problem
        )  # the failure itself is logged once, elsewhere

    async def _refusal(self, response: httpx.Response) -> OrpheusError:
        said = await self._said(response)
        match response.status_code:
            case 429:
                return AtCapacity(said or "Tier 1 is full.", retry_after_s=retry_after_s(response.headers))
            case 503:
                return NotReady(said or "Tier 1 is not ready.")
            case 400 | 422:
                return BadRequest(f"Tier 1 refused the request: {said or 'it does not say why'}")
            case 401 | 403:
                return UpstreamError(
                    f"Tier 1 wants a key ({response.status_code}): set ORPHEUS_LLAMA_API_KEY, or on Modal "
                    "ORPHEUS_PROXY_KEY and ORPHEUS_PROXY_SECRET."
                )
            case 404:
                self.forget()
                return UpstreamError(
                    f"Tier 1 answered 404: {said} Check ORPHEUS_MODEL_NAME."
                    if said
                    else "There is no completions endpoint at tier 1: check ORPHEUS_LLAMA_ENDPOINT."
                )
            case status:
                return UpstreamError(f"Tier 1 answered {status}: {said or 'its log says why'}")

    async def _said(self, response: httpx.Response) -> str:
        """The message in an error of any server; what is no JSON, such as a proxy's page, goes to the log alone."""
        body = await start_of(response)
        message = message_in(body)
        if message is None:
            if body:
                shown = " ".join(body.decode(errors="replace").split())[:MAX_SAID_CHARS]
                self._log(f"{response.status_code}, {shown!r}")
            return ""
        return self._for_clients(message)

    def _for_clients(self, message: str) -> str:
        host = httpx.URL(self._url).netloc.decode()
        return " ".join(redacted(message).replace(host, "tier 1").split())[:MAX_SAID_CHARS]


FINGERPRINT_HEADER = "x-model-fingerprint"  # of our tier 1's answers
UNREACHABLE = (
    "Tier 1 cannot be reached: start it with `orpheus llama`, or set ORPHEUS_LLAMA_ENDPOINT to where it runs."
)


def _check_is_event_stream(response: httpx.Response) -> None:
    """UpstreamError for a 200 that a proxy or another kind of server gave."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise UpstreamError(
            f"Tier 1 compresses its stream ({encoding[:20]}): turn that off, also in a proxy before it."
        )
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("text/html", "application/json"):
        raise UpstreamError(
            f"Tier 1 answered with {kind} instead of a stream of events: check ORPHEUS_LLAMA_ENDPOINT."
        )


async def _read(response: httpx.Response, max_tokens: int) -> AsyncGenerator[TokenChunk]:
    """The tokens of a completion's event stream; UpstreamError unless it ends properly, and in time.

    A server that sends a frame more than `max_tokens` is cut off, as if it had said "length".
    """
    parser, events = vocabulary.TokenTextParser(), EventParser()
    count = 0
    # Only waiting for tier 1 counts, not what our side does between two chunks.
    waited_s = silent_s = 0.0  # in all, and since the last token
    received = response.aiter_raw()
    while True:
        patience_s = min(STALL_TIMEOUT_S - silent_s, STALL_TIMEOUT_S + count * SLOWEST_TOKEN_S - waited_s)
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(patience_s):
                part = await anext(received, b"")
        except TimeoutError:
            raise UpstreamError(
                f"Tier 1 sent nothing for {STALL_TIMEOUT_S:g} s that can be spoken; its log says why."
                if silent_s + time.monotonic() - began_s >= STALL_TIMEOUT_S
                else f"Tier 1 made {count} tokens in {waited_s:.0f} s, which is too slow to speak with."
            ) from None
        took_s = time.monotonic() - began_s
        waited_s, silent_s = waited_s + took_s, silent_s + took_s
        ended = not part
        for data in events.parse(part) if part else events.finish():
            if (data := data.strip()) == "[DONE]":
                ended = True
                break
            chunk = read_event(data) if data else None
            if chunk is None:
                continue
            numbers = tuple(parser.parse(chunk.text)) or tuple(
                vocabulary.numbers_from_published_ids(chunk.ids) if not chunk.text else ()
            )
            reason = chunk.finish_reason
            if vocabulary.END_OF_SPEECH in numbers:  # it ignores `stop`: closing the stream cancels it
                numbers, reason = numbers[: numbers.index(vocabulary.END_OF_SPEECH)], "stop"
            if numbers:
                silent_s = 0.0
            most = max_tokens + vocabulary.SLOTS - count
            if len(numbers) > most:
                numbers, reason = numbers[:most], "length"
            count += len(numbers)
            yield TokenChunk(numbers, reason, chunk.prompt_tokens)
            if reason:
                return
        if ended:
            raise UpstreamError("Tier 1 ended its stream before the speech was complete.")


def completion_body(generation: Generation, model: ServedModel) -> dict[str, Any]:
    """The JSON body of the request; its fields are the same for every completions server."""
    prompt = prompt_of(generation.voice, generation.text)
    return {
        "model": model.id,
        "prompt": prompt.text,
        **({"verbatim": True} if prompt.verbatim else {}),
        "stream": True,
        "max_tokens": model.most_tokens(prompt.text, generation.max_tokens),
        **_sampling_fields(generation.sampling, model),
        "stop": [vocabulary.token_text(vocabulary.END_OF_SPEECH)],
        "return_token_ids": True,  # our own tier 1 then sends an event a frame, not a token
        # vLLM and SGLang: the prompt has its own begin-of-text, and special tokens must be rendered.
        "add_special_tokens": False,
        "skip_special_tokens": False,
    }


@dataclass(frozen=True)
class CompletionEvent:
    """One event of a completions stream."""

    text: str
    ids: list[int]
    finish_reason: FinishReason | None
    prompt_tokens: int | None


def read_event(data: str) -> CompletionEvent | None:
    """Parse one event of a completions stream; None for those without a choice (usage, keep-alives).

    UpstreamError if it reports an error, ends for an unknown reason, or is not what a completions server sends.
    """
    try:
        event = json.loads(data)
        problem = event.get("error") or (event.get("message") if event.get("object") == "error" else None)
        if problem:
            raise UpstreamError(f"Tier 1 failed in the middle: {sentence_of(problem)}")
        if not event.get("choices"):
            return None
        choice: dict[str, Any] = event["choices"][0]
        text = "" if choice.get("text") is None else choice["text"]
        ids = [] if choice.get("token_ids") is None else choice["token_ids"]
        prompt_tokens = (event.get("usage") or {}).get("prompt_tokens")
        if not isinstance(text, str) or not isinstance(ids, list):
            raise TypeError
        if not all(type(token) is int and 0 <= token <= MAX_TOKEN_ID for token in ids):
            raise TypeError
        if prompt_tokens is not None and not (
            type(prompt_tokens) is int and 0 <= prompt_tokens <= MAX_TOKEN_ID
        ):
            raise TypeError
        return CompletionEvent(text, ids, _finish_reason(choice.get("finish_reason")), prompt_tokens)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        log.info("tier 1 sent %r", data[:MAX_SAID_CHARS])
        raise UpstreamError("Tier 1 sent an event that is not a completion; the log shows it.") from error


def _finish_reason(given: object) -> FinishReason | None:
    """None while a completion goes on. UpstreamError for an end that is not a proper one: half of the speech."""
    if given is None or given == "":  # text-generation-inference's form of none
        return None
    if given == "length":
        return "length"
    if given in STOPS:
        return "stop"
    raise UpstreamError(
        f"Tier 1 ended before the speech was complete, with finish_reason {str(given)[:40]!r}; its log says why."
    )


def _sampling_fields(sampling: Sampling, model: ServedModel) -> dict[str, Any]:
    fields = dataclasses.asdict(sampling)
    # llama.cpp's name for it, and as many tokens as ours looks back: llama-server's own are 64, nine frames.
    fields |= {
        "repeat_penalty": sampling.repetition_penalty,
        "repeat_last_n": REPETITION_FRAMES * vocabulary.SLOTS,
    }
    del fields["seed"]
    if sampling.seed is not None:
        fields["seed"] = model.seed(sampling.seed)
    if sampling.top_k == 0:
        del fields["top_k"]  # off is 0 here and -1 in vLLM; absent is off in both
    return fields
