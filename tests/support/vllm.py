"""A server with vLLM's rules for a completion, as its source has them (0.20 to 0.32) and 0.32 on a CPU showed them.

- `model` must be a served name, else 404 (`OpenAIModelRegistry.check_model`).
- `prompt` and `max_tokens` together must fit `max_model_len`, else 400 (`TokenizeParams`; from 0.31 on `max_tokens`
  alone must, and is lowered to what the prompt leaves).
- A seed is an int64; pydantic refuses others (`CompletionRequest.seed`).
- Fields that it does not know are ignored, with a warning in its log (`OpenAIBaseModel.__log_extra_fields__`).
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from orpheus.vocabulary import PUBLISHED_BASE_ID, number_of, token_text

PUBLISHED_NAME = "canopylabs/orpheus-3b-0.1-ft"
FIELDS = frozenset(
    [
        "model",
        "prompt",
        "echo",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "max_tokens",
        "n",
        "presence_penalty",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "suffix",
        "temperature",
        "top_p",
        "user",
        "use_beam_search",
        "top_k",
        "min_p",
        "repetition_penalty",
        "length_penalty",
        "stop_token_ids",
        "include_stop_str_in_output",
        "ignore_eos",
        "min_tokens",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "truncate_prompt_tokens",
        "allowed_token_ids",
        "prompt_logprobs",
        "add_special_tokens",
        "response_format",
        "priority",
        "request_id",
        "return_tokens_as_token_ids",
        "return_token_ids",
        "cache_salt",
        "kv_transfer_params",
        "vllm_xargs",
    ]
)
INT64_MAX = 2**63 - 1
FRAMES = 6
_SPECIAL = re.compile(r"<(?:custom_token_\d+|\|[a-z_]+\|)>")


class Vllm:
    """`requests` has the bodies that it answered, `ignored` the fields in them that it did not know."""

    def __init__(
        self, name: str = PUBLISHED_NAME, root: str = PUBLISHED_NAME, max_model_len: int = 4096
    ) -> None:
        self.name, self.root, self.max_model_len = name, root, max_model_len
        self.requests: list[dict[str, Any]] = []
        self.ignored: set[str] = set()
        self.app = Starlette(
            routes=[
                Route("/health", lambda request: Response()),
                Route("/v1/models", self._models),
                Route("/v1/completions", self._complete, methods=["POST"]),
            ]
        )

    async def _models(self, request: Request) -> Response:
        card = {"id": self.name, "object": "model", "owned_by": "vllm", "root": self.root, "parent": None}
        return JSONResponse({"object": "list", "data": [card | {"max_model_len": self.max_model_len}]})

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        if body.get("model") not in (None, "", self.name):
            return _error(404, f"The model `{body['model']}` does not exist.", "NotFoundError", "model")
        seed, wanted = body.get("seed"), body.get("max_tokens", 16)
        if seed is not None and not -(2**63) <= seed <= INT64_MAX:
            said = f"Input should be less than or equal to {INT64_MAX}"
            return _error(400, f"1 validation error:\n  {said}", "Bad Request", "body.seed")
        prompt_tokens = count_tokens(body["prompt"], body.get("add_special_tokens", True))
        if prompt_tokens + wanted > self.max_model_len:
            return _error(
                400,
                f"You passed {prompt_tokens} input tokens and requested {wanted} output tokens. However, the model's "
                f"context length is only {self.max_model_len} tokens, resulting in a maximum input length of "
                f"{self.max_model_len - wanted} tokens. Please reduce the length of the input prompt.",
                "BadRequestError",
                "input_tokens",
            )
        self.requests.append(body)
        self.ignored |= body.keys() - FIELDS
        return StreamingResponse(self._events(body), media_type="text/event-stream")

    async def _events(self, body: dict[str, Any]) -> AsyncIterator[str]:
        for number in range(FRAMES * 7):
            token = number_of(number % 7, (number + body.get("seed", 0)) % 4096)
            yield self._event(body, token_text(token), [PUBLISHED_BASE_ID + token], None, first=number == 0)
        yield self._event(body, "", [PUBLISHED_BASE_ID + 2], "stop", first=False)
        yield "data: [DONE]\n\n"

    def _event(
        self, body: dict[str, Any], text: str, ids: list[int], reason: str | None, *, first: bool
    ) -> str:
        """`stop` as text is held back and left out, and its token among the ids."""
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
        choice["stop_reason"] = body["stop"][0] if reason else None
        if body.get("return_token_ids"):
            choice |= {"token_ids": ids, "prompt_token_ids": [128000] if first else None}
        fields = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": self.name}
        return f"data: {json.dumps(fields | {'choices': [choice]})}\n\n"


def count_tokens(prompt: str, begin: bool) -> int:
    """At most: a token for each byte between special tokens."""
    special = _SPECIAL.findall(prompt)
    return len(special) + len(_SPECIAL.sub("", prompt).encode()) + begin


def _error(status: int, message: str, kind: str, parameter: str) -> Response:
    error = {"message": message, "type": kind, "param": parameter, "code": status}
    return JSONResponse({"error": error}, status)
