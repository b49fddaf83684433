"""A segment of text and a voice → its audio tokens as they are generated: the seam between the tiers.

Two sources: the engine in this process, and any server of OpenAI's `/v1/completions` (ours, vLLM, llama-server, LM
Studio). Closing a stream cancels its generation.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import httpx

from orpheus import vocabulary
from orpheus.errors import AtCapacity, BadRequest, NotReady, OrpheusError, UpstreamError
from orpheus.http.cold_start import send_when_awake
from orpheus.http.responses import retry_after_s
from orpheus.logs import request_id
from orpheus.prompt import turn_text
from orpheus.sampling import LLAMA_CPP_ANY_SEED, Sampling
from orpheus.settings import Settings

if TYPE_CHECKING:
    from orpheus.llama.engine import Engine

CONNECT_TIMEOUT_S = 5.0
STALL_TIMEOUT_S = 30.0  # longest silence of tier 1 within a generation before it counts as dead

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Generation:
    """One request to tier 1: a segment, a voice and how to sample it."""

    voice: str
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

    async def aclose(self) -> None: ...


class EngineTokenSource:
    """The engine in this process, with no HTTP in between."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def generate(self, generation: Generation) -> AsyncGenerator[TokenChunk]:
        from orpheus.llama.engine import Completion

        prompt = self._engine.tokenize_prompt(turn_text(generation.voice, generation.text))
        completion = Completion(prompt=prompt, max_tokens=generation.max_tokens, sampling=generation.sampling)
        async with aclosing(self._engine.submit(completion)) as stream:
            async for chunk in stream:
                yield TokenChunk(chunk.numbers, chunk.finish_reason, len(prompt))

    async def check(self) -> None:
        self._engine.check()

    async def aclose(self) -> None:
        self._engine.close()


class HttpTokenSource:
    """A completions server, over one pooled client. A request is never repeated once its response has started."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.completions_url
        self._model = settings.model_name
        key = settings.llama_api_key
        self._client = httpx.AsyncClient(
            headers=settings.proxy_headers
            | ({"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}),
            timeout=httpx.Timeout(STALL_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            trust_env=False,  # tier 1 is ours: a proxy for the outside would only be in the way
        )
        self._cold_wait_s = settings.cold_wait_s

    async def generate(self, generation: Generation) -> AsyncGenerator[TokenChunk]:
        body = completion_body(generation, self._model)
        headers = {"X-Request-ID": known} if (known := request_id.get()) else {}
        request = self._client.build_request("POST", self._url, json=body, headers=headers)
        try:
            async with aclosing(await send_when_awake(self._client, request, self._cold_wait_s)) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise self._refusal(response)
                async with aclosing(self._read(response)) as numbers:
                    async for chunk in numbers:
                        yield chunk
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise NotReady(self._unreachable()) from error
        except httpx.TimeoutException as error:
            raise UpstreamError(
                f"Tier 1 at {self._url} sent nothing for {STALL_TIMEOUT_S:g} s; its log says why."
            ) from error
        except httpx.TransportError as error:
            raise UpstreamError(
                f"Tier 1 at {self._url} broke off in the middle ({type(error).__name__}); its log says why."
            ) from error

    async def _read(self, response: httpx.Response) -> AsyncGenerator[TokenChunk]:
        """The tokens of a completion's event stream; UpstreamError unless it ends properly."""
        parser = vocabulary.TokenTextParser()
        async for line in response.aiter_lines():
            if not line.startswith("data:"):
                continue
            data = line[5:].strip()
            if data == "[DONE]":
                break
            chunk = read_event(data)
            if chunk is not None:
                numbers = tuple(parser.parse(chunk.text)) or tuple(
                    vocabulary.numbers_from_published_ids(chunk.ids) if not chunk.text else ()
                )
                ended = vocabulary.END_OF_SPEECH in numbers
                if ended:  # a server that ignores `stop`: cut here, closing the stream cancels it
                    numbers = numbers[: numbers.index(vocabulary.END_OF_SPEECH)]
                reason: FinishReason | None = "stop" if ended else chunk.finish_reason
                yield TokenChunk(numbers, reason, chunk.prompt_tokens)
                if reason:
                    return
        raise UpstreamError(f"Tier 1 at {self._url} ended its stream before the speech was complete.")

    async def check(self) -> None:
        url = self._url.removesuffix("/completions").removesuffix("/v1")
        try:
            response = await self._client.get(f"{url}/health", timeout=2.0)
        except httpx.HTTPError as error:
            raise NotReady(self._unreachable()) from error
        if response.status_code == 503:
            raise NotReady(_message(response) or "Tier 1 is still loading.")
        if response.status_code >= 500:
            raise NotReady(f"Tier 1 at {url} answers {response.status_code} to /health.")

    async def aclose(self) -> None:
        await self._client.aclose()

    def _unreachable(self) -> str:
        return (
            f"Tier 1 cannot be reached at {self._url}: start it with `orpheus llama`, or set "
            "ORPHEUS_LLAMA_ENDPOINT to where it runs."
        )

    def _refusal(self, response: httpx.Response) -> OrpheusError:
        said = _message(response)
        match response.status_code:
            case 429:
                return AtCapacity(said or "Tier 1 is full.", retry_after_s=retry_after_s(response.headers))
            case 503:
                return NotReady(said or "Tier 1 is not ready.")
            case 400 | 422:
                return BadRequest(f"Tier 1 refused the request: {said}")
            case 401 | 403:
                return UpstreamError(
                    f"Tier 1 at {self._url} wants a key ({response.status_code}): set ORPHEUS_LLAMA_API_KEY, or on "
                    "Modal ORPHEUS_PROXY_KEY and ORPHEUS_PROXY_SECRET."
                )
            case 404:
                return UpstreamError(
                    f"There is no completions endpoint at {self._url}: check ORPHEUS_LLAMA_ENDPOINT."
                )
            case status:
                return UpstreamError(f"Tier 1 at {self._url} answered {status}: {said}")


def completion_body(generation: Generation, model: str) -> dict[str, Any]:
    """The JSON body of the request, the same for every completions server."""
    sampling = generation.sampling
    if sampling.seed == LLAMA_CPP_ANY_SEED:
        sampling = sampling.with_seed(sampling.seed + 1)  # a seed that is given sounds the same every time
    return {
        "model": model,
        "prompt": turn_text(generation.voice, generation.text),
        "stream": True,
        "max_tokens": generation.max_tokens,
        **_sampling_fields(sampling),
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
    """Parse one event of a completions stream; None for those without a choice (usage, keep-alives)."""
    try:
        event = json.loads(data)
        if "error" in event:
            message = event["error"].get("message") if isinstance(event["error"], dict) else event["error"]
            raise UpstreamError(f"Tier 1 failed in the middle: {message}")
        if not event.get("choices"):
            return None
        choice: dict[str, Any] = event["choices"][0]
        reason = choice.get("finish_reason")
        return CompletionEvent(
            text=choice.get("text") or "",
            ids=[int(token) for token in choice.get("token_ids") or ()],
            finish_reason=None if reason is None else "length" if reason == "length" else "stop",
            prompt_tokens=(event.get("usage") or {}).get("prompt_tokens"),
        )
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        shown = data if len(data) <= 80 else data[:80] + "…"
        raise UpstreamError(f"Tier 1 sent an event that is not a completion: {shown}") from error


def _sampling_fields(sampling: Sampling) -> dict[str, Any]:
    fields = dataclasses.asdict(sampling)
    if sampling.seed is None:
        del fields["seed"]
    if sampling.top_k == 0:
        del fields["top_k"]  # off is 0 here and -1 in vLLM; absent is off in both
    return fields


def _message(response: httpx.Response) -> str:
    """The message in an error body of any server."""
    try:
        body = response.json()
        error = body.get("error", body.get("detail", body))
        said = error.get("message", "") if isinstance(error, dict) else error
        return str(said)[:500]
    except (ValueError, AttributeError):
        return response.text[:200]
