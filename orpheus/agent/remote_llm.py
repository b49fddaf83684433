"""Any server of OpenAI's `/v1/chat/completions`, streaming and with tools: OpenAI, vLLM, llama-server, Ollama, LM Studio.

It is not trusted with our time or memory: every wait, line and answer has a bound. Its address is for the log; the
sentences of errors, which go to clients, say "the LLM". What its servers disagree on is settled here: names of
parameters, how tool calls are numbered, how an answer ends.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Any

import httpx

from orpheus.agent.thoughts import Finished, FinishReason, Message, TextDelta, Thought, ToolCallDelta
from orpheus.errors import OrpheusError, SetupError, UpstreamError
from orpheus.http.cold_start import send_when_awake
from orpheus.http.refusals import MAX_SAID_CHARS, message_in, sentence_of, start_of
from orpheus.http.sse import read_events
from orpheus.logs import request_id
from orpheus.redaction import address, redacted
from orpheus.settings import Settings, endpoint

CONNECT_TIMEOUT_S = 5.0
FIRST_TOKEN_TIMEOUT_S = 30.0  # Ollama may load the model first
TOKEN_TIMEOUT_S = 10.0  # between two pieces of an answer
ANSWER_TIMEOUT_S = 120.0  # waited for in all; reasoning counts, though nobody hears it
USAGE_TIMEOUT_S = 0.3  # for the token counts, which come after the end
LIST_TIMEOUT_S = 5.0  # for the list of models
LIST_BYTES = 1 << 20
MAX_ANSWER_CHARS = 64 * 1024  # text and arguments: an hour of speech
MAX_TOOL_CALLS = 64
MAX_SHOWN_MODELS = 8

# OpenAI's names, and those of older servers.
_FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "end_turn": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}
# Fields that some servers or models refuse, by the word their refusal has → what is sent instead, if anything.
_IF_REFUSED: dict[str, str | None] = {
    "max_tokens": "max_completion_tokens",  # OpenAI's reasoning models
    "stream_options": None,  # servers from before 2024
    "temperature": None,  # OpenAI's reasoning models
}

log = logging.getLogger(__name__)


class RemoteThinker:
    """One server, over one pooled client."""

    def __init__(self, settings: Settings) -> None:
        assert settings.llm_url
        at = httpx.URL(endpoint(settings.llm_url, "/chat/completions"))
        self._url = str(at.copy_with(userinfo=b""))  # nobody who shows it can show the password
        hosts = (at.netloc.decode(), *((at.host,) if "." in at.host else ()))  # not "llm", which is a word
        self._whereabouts = (self._url, *hosts)
        self._model = settings.llm_model
        self._cold_wait_s = settings.cold_wait_s
        self._refused: frozenset[str] = frozenset()  # of _IF_REFUSED, learnt from the server
        key = settings.llm_api_key
        if key and not (key.get_secret_value().isascii() and key.get_secret_value().isprintable()):
            raise SetupError("ORPHEUS_LLM_API_KEY has a character that no key has: copy it again.")
        self._client = httpx.AsyncClient(
            headers=(settings.proxy_headers if at.host.endswith((".modal.run", ".modal.direct")) else {})
            # Compressed tokens would arrive late, and a small answer could unpack to gigabytes.
            | {"Accept-Encoding": "identity"}
            | ({"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}),
            auth=httpx.BasicAuth(at.username, at.password) if at.userinfo else None,
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),  # reading has bounds of its own
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=16),
            trust_env=not _is_here(at.host),  # a proxy for the outside, but not for this machine
        )

    async def answer(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[dict[str, Any]] = (),
        tool_choice: Any = "auto",
        max_tokens: int | None = None,
        temperature: float | None = None,
        conversation: str = "",
    ) -> AsyncGenerator[Thought]:
        """As `Thinker.answer`: closing it closes the connection, by which servers stop. UpstreamError if it fails."""
        try:
            body = {
                "model": await self._model_name(),
                "messages": [_message_body(message) for message in messages],
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            if tools:
                body |= {
                    "tools": [_nested(tool) for tool in tools],
                    "tool_choice": _nested(tool_choice) if isinstance(tool_choice, dict) else tool_choice,
                }
            if max_tokens is not None:
                body["max_tokens"] = max_tokens
            if temperature is not None:
                body["temperature"] = temperature
            async with (
                aclosing(await self._send(body)) as response,
                aclosing(_read(response)) as thoughts,
            ):
                async for thought in thoughts:
                    yield thought
        except OrpheusError as error:
            log.info("the LLM at %s: %s", address(self._url), redacted(str(error)))
            raise UpstreamError(self._for_clients(str(error))) from error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            log.info("the LLM at %s: %s", address(self._url), redacted(repr(error)))
            raise UpstreamError(
                "The LLM cannot be reached: start it, or set ORPHEUS_LLM_URL to where it runs."
            ) from error
        except TimeoutError as error:
            log.info("the LLM at %s did not answer in time", address(self._url))
            raise UpstreamError(
                f"The LLM sent nothing for {FIRST_TOKEN_TIMEOUT_S:g} s: see its log."
            ) from error
        except httpx.HTTPError as error:
            log.info("the LLM at %s: %s", address(self._url), redacted(repr(error)))
            raise UpstreamError(
                f"The LLM broke off in the middle of its answer ({type(error).__name__}): see its log."
            ) from error

    async def warm_up(self, messages: Sequence[Message]) -> None:
        """Have the server load its model and read `messages`, by an answer of one token."""
        if not any(message.role == "user" for message in messages):
            messages = [*messages, Message("user", "Hello.")]  # some models' templates want one
        async with aclosing(self.answer(messages, max_tokens=1)) as thoughts:
            async for _ in thoughts:
                pass

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _send(self, body: dict[str, Any]) -> httpx.Response:
        """The response, a stream that has begun. A field that the server refuses by name is sent another way."""
        refused = self._refused
        while True:
            response = await self._try(_without(body, refused))
            if response.status_code == 200:
                await _check_is_event_stream(response)
                self._refused = refused
                return response
            async with aclosing(response):
                start = await start_of(response)
            said = message_in(start)
            named = {name for name in _IF_REFUSED if name in body and name in (said or "")} - refused
            if response.status_code not in (400, 422) or not named:
                break
            refused = refused | named
        if said is None and start:
            shown = " ".join(start.decode(errors="replace").split())[:MAX_SAID_CHARS]
            log.info("the LLM at %s: %d, %s", address(self._url), response.status_code, redacted(repr(shown)))
        raise _refusal(response.status_code, said or "")

    async def _try(self, body: dict[str, Any]) -> httpx.Response:
        headers = {"X-Request-ID": known} if (known := request_id.get()) else {}
        request = self._client.build_request(
            "POST",
            self._url,
            content=json.dumps(body),  # ASCII, whatever was said
            headers=headers | {"Content-Type": "application/json"},
        )
        return await send_when_awake(self._client, request, self._cold_wait_s, FIRST_TOKEN_TIMEOUT_S)

    async def _model_name(self) -> str:
        """The model to ask for: the setting, or the only one that the server lists."""
        if self._model is None:
            names = await self._list_models()
            if len(names) != 1:
                shown = ", ".join(names[:MAX_SHOWN_MODELS])
                raise UpstreamError(
                    f"The LLM's server has {len(names)} models: set ORPHEUS_LLM_MODEL to one of them ({shown}"
                    f"{', …' if len(names) > MAX_SHOWN_MODELS else ''})."
                    if names
                    else "The LLM's server lists no models: set ORPHEUS_LLM_MODEL."
                )
            self._model = names[0]
        return self._model

    async def _list_models(self) -> list[str]:
        url = self._url.replace("/chat/completions", "/models", 1)
        try:
            async with asyncio.timeout(LIST_TIMEOUT_S), self._client.stream("GET", url) as response:
                if response.status_code != 200:
                    if response.status_code in (401, 403):
                        raise _refusal(response.status_code, "")
                    return []
                body = bytearray()
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > LIST_BYTES:
                        return []
            return [str(model["id"])[:100] for model in json.loads(body)["data"]]
        except (ValueError, TypeError, KeyError, RecursionError):
            return []

    def _for_clients(self, message: str) -> str:
        said = redacted(message)
        for part in self._whereabouts:
            said = said.replace(part, "its address")
        return " ".join(said.split())[: 2 * MAX_SAID_CHARS]


def _refusal(status: int, said: str) -> UpstreamError:
    more = f": {said}" if said else "; its log may say why."
    match status:
        case 401 | 403:
            return UpstreamError(f"The LLM wants another key ({status}): set ORPHEUS_LLM_API_KEY.")
        case 301 | 302 | 307 | 308:
            return UpstreamError("The LLM's address leads elsewhere: set ORPHEUS_LLM_URL to where it leads.")
        case 404:
            return UpstreamError(f"The LLM is not there: check ORPHEUS_LLM_URL and ORPHEUS_LLM_MODEL{more}")
        case 400 | 422:
            return UpstreamError(f"The LLM refused the conversation{more}")
        case 429:
            return UpstreamError(f"The LLM is full, or its quota is used up{more}")
        case 502 | 503 | 504:
            return UpstreamError(f"The LLM is not ready ({status}){more}")
        case _:
            return UpstreamError(f"The LLM answered {status}{more}")


async def _check_is_event_stream(response: httpx.Response) -> None:
    """UpstreamError, and the response closed, for a 200 that is no stream of events."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if encoding in ("", "identity") and kind not in ("text/html", "application/json"):
        return
    async with aclosing(response):
        said = message_in(await start_of(response)) if kind == "application/json" else None
    if encoding not in ("", "identity"):
        raise UpstreamError(
            f"The LLM compresses its stream ({encoding[:20]}): turn that off, also in a proxy."
        )
    raise UpstreamError(
        f"The LLM failed: {said}"
        if said and '"choices"' not in said and "'choices'" not in said
        else f"The LLM answered with {kind} instead of a stream of events: check ORPHEUS_LLM_URL."
    )


async def _read(response: httpx.Response) -> AsyncGenerator[Thought]:
    """The thoughts of a stream; UpstreamError unless it ends properly and in time."""
    answer = _Answer()
    # Only waiting for the server counts, not what our side does between two events.
    waited_s = silent_s = 0.0  # in all, and since the last that counts as progress
    async with aclosing(read_events(response.aiter_raw())) as events:
        while True:
            patience_s = TOKEN_TIMEOUT_S if answer.begun else FIRST_TOKEN_TIMEOUT_S
            if answer.reason:
                patience_s, silent_s = USAGE_TIMEOUT_S, 0.0
            began_s = time.monotonic()
            try:
                async with asyncio.timeout(min(patience_s - silent_s, ANSWER_TIMEOUT_S - waited_s)):
                    data = (await anext(events, "[DONE]")).strip()
            except TimeoutError:
                if answer.reason:
                    break
                raise UpstreamError(
                    f"The LLM sent nothing for {patience_s:g} s: see its log."
                    if waited_s + time.monotonic() - began_s < ANSWER_TIMEOUT_S
                    else f"The LLM was not done after {ANSWER_TIMEOUT_S:g} s: take one that reasons less."
                ) from None
            except (UpstreamError, httpx.HTTPError):
                if answer.reason:
                    break
                raise
            took_s = time.monotonic() - began_s
            waited_s, silent_s = waited_s + took_s, silent_s + took_s
            if data == "[DONE]":
                break
            before = answer.progress
            for thought in answer.add(data) if data else ():
                yield thought
            if answer.progress != before:
                silent_s = 0.0
            if answer.counted:
                break
    yield answer.finished()


class _Answer:
    """What has come of one answer."""

    def __init__(self) -> None:
        self.reason: FinishReason | None = None
        self.progress = 0  # events with text, a call or reasoning
        self.begun = False
        self.counted = False  # the end and the counts have come
        self._pieces = 0
        self._chars = 0
        self._ids: list[str | None] = []  # of the calls, by our number
        self._numbers: dict[int, int] = {}  # the server's number of the latest call it gave it → ours
        self._usage = (0, 0)

    def add(self, data: str) -> Iterator[Thought]:
        """One event. UpstreamError if it reports a failure, or is not what a chat server sends."""
        try:
            yield from self._add(json.loads(data))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            log.info("the LLM sent %s", redacted(repr(data[:MAX_SAID_CHARS])))
            raise UpstreamError(
                "The LLM sent an event that is no part of an answer; the log shows it."
            ) from error

    def finished(self) -> Finished:
        """The end; UpstreamError if the server did not say that this is one."""
        if self.reason is None:
            raise UpstreamError("The LLM ended its stream before the answer was complete: see its log.")
        # Ollama says "stop" after a call.
        reason = "tool_calls" if self._ids and self.reason == "stop" else self.reason
        return Finished(reason, self._usage[0], self._usage[1] or self._pieces)

    def _add(self, event: dict[str, Any]) -> Iterator[Thought]:
        problem = event.get("error") or (event.get("message") if event.get("object") == "error" else None)
        if problem:
            raise UpstreamError(f"The LLM failed in the middle of its answer: {sentence_of(problem)}")
        if usage := event.get("usage"):
            self._usage = (_count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))
        if choices := event.get("choices"):
            choice: dict[str, Any] = choices[0]
            delta = choice.get("delta") or {}
            # Models of OpenAI refuse in a field of its own, and somebody waits for an answer.
            text = delta.get("content") or delta.get("refusal") or ""
            if not isinstance(text, str):
                raise TypeError
            reasoning = delta.get("reasoning_content") or delta.get("reasoning")
            calls = delta.get("tool_calls") or ()
            if text or calls or reasoning:
                self.progress += 1
                self.begun = True
            if text:
                self._keep(text)
                yield TextDelta(text)
            for call in calls:
                yield self._call(call)
            if given := choice.get("finish_reason"):
                self.reason = _finish_reason(given)
        self.counted = self.reason is not None and bool(self._usage[1])

    def _call(self, call: dict[str, Any]) -> ToolCallDelta:
        """A piece of a call. Some servers number none, or every call 0, but each then has an id of its own."""
        function = call.get("function") or {}
        name, arguments = function.get("name") or None, function.get("arguments") or ""
        if isinstance(arguments, dict):
            arguments = json.dumps(arguments)
        given = call.get("index")
        known_id: str | None = call.get("id") or None
        if not all(isinstance(part, str | None) for part in (name, arguments, known_id)):
            raise TypeError
        theirs = given if isinstance(given, int) else 0
        ours = self._numbers.get(theirs)
        if ours is None or (known_id and self._ids[ours] and known_id != self._ids[ours]):
            ours = len(self._ids)
            if ours >= MAX_TOOL_CALLS:
                raise UpstreamError(
                    f"The LLM made more than {MAX_TOOL_CALLS} calls in one answer: ask for less at once."
                )
            self._numbers[theirs] = ours
            known_id = known_id or f"call_{ours}"
            self._ids.append(known_id)
        self._keep(arguments)
        return ToolCallDelta(ours, known_id, name, arguments)

    def _keep(self, text: str) -> None:
        self._pieces += 1
        self._chars += len(text)
        if self._chars > MAX_ANSWER_CHARS:
            raise UpstreamError(
                f"The LLM's answer is longer than {MAX_ANSWER_CHARS} characters: ask for a shorter one."
            )


def _finish_reason(given: object) -> FinishReason:
    """UpstreamError for an end that is none: half of an answer."""
    if reason := _FINISH_REASONS.get(str(given)):
        return reason
    if given == "content_filter":
        raise UpstreamError(
            "The LLM's server withheld the rest of the answer (content_filter): ask for something else."
        )
    raise UpstreamError(f"The LLM stopped before the answer was complete ({str(given)[:40]!r}): see its log.")


def _count(given: object) -> int:
    return given if isinstance(given, int) and given >= 0 else 0


def _without(body: dict[str, Any], refused: frozenset[str]) -> dict[str, Any]:
    """`body` with what _IF_REFUSED has in place of what the server refused."""
    changed = {name: value for name, value in body.items() if name not in refused}
    return changed | {new: body[name] for name in refused & body.keys() if (new := _IF_REFUSED[name])}


def _message_body(message: Message) -> dict[str, Any]:
    content = message.content.encode(
        "utf-8", "replace"
    ).decode()  # half a surrogate pair is refused as no JSON
    body: dict[str, Any] = {"role": message.role, "content": content}
    if message.tool_calls:
        body["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        body["tool_call_id"] = message.tool_call_id
    return body


def _nested(tool: dict[str, Any]) -> dict[str, Any]:
    """A function, or the choice of one, as chat completions want it: the Realtime API has its fields beside its type."""
    if tool.get("type") != "function" or "function" in tool:
        return tool
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
