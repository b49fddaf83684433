"""`vllm`, as far as a deployment uses it: an executable with the rules of vLLM 0.32's `vllm serve`.

- Options that it does not know, or whose value is no JSON, number or parser, end it with exit code 2.
- With HF_HUB_OFFLINE a repository that is not in the cache ends it.
- A model that is not a served name is a 404; prompt and answer together must fit `--max-model-len`.

What it says is scripted: the same for the same messages. Each start and each request is a line of JSON in `vllm.jsonl`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

ANSWER = "The boat drifted slowly down the river."
TOOL_PARSERS = ("hermes", "llama3_json", "mistral", "granite")  # of those it has


def install(folder: Path) -> dict[str, str]:
    """An executable `vllm` in `folder`; the environment that finds it first, and where it writes."""
    command = folder / "bin" / "vllm"
    command.parent.mkdir(parents=True)
    root = Path(__file__).parents[2]
    command.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(root)!r})\n"
        "from tests.support.vllm_command import main\nmain()\n"
    )
    command.chmod(0o755)
    return {
        "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
        "VLLM_LOG": str(folder / "vllm.jsonl"),
    }


def seen(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "vllm.jsonl").read_text().splitlines()]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("vllm", allow_abbrev=False)
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--revision")
    parser.add_argument("--tokenizer-revision")
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--max-num-seqs", type=int)
    parser.add_argument("--gpu-memory-utilization", type=float)
    parser.add_argument("--enable-auto-tool-choice", action="store_true")
    parser.add_argument("--tool-call-parser", choices=TOOL_PARSERS)
    parser.add_argument("--default-chat-template-kwargs", type=json.loads)
    return parser


def main() -> None:
    given = parser().parse_args()
    if given.enable_auto_tool_choice and not given.tool_call_parser:
        sys.exit("--enable-auto-tool-choice requires --tool-call-parser")
    environment = ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "VLLM_CACHE_ROOT")
    note(vars(given) | {name: os.environ.get(name) for name in environment})
    folder = Path(os.environ["HF_HUB_CACHE"], "models--" + given.model.replace("/", "--"))
    if os.environ.get("HF_HUB_OFFLINE") == "1" and not any(folder.glob("snapshots/*/*.safetensors")):
        sys.exit(f"Cannot find the weights of {given.model} in the cache")
    serve(given)


def note(what: dict[str, Any]) -> None:
    with open(os.environ["VLLM_LOG"], "a") as file:
        file.write(json.dumps(what) + "\n")


def serve(given: argparse.Namespace) -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    async def health(_: Request) -> Response:
        return Response()

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": name} for name in given.served_model_name]})

    async def chat(request: Request) -> Response:
        body = await request.json()
        note(body)
        if body["model"] not in given.served_model_name:
            return refusal(404, f"The model `{body['model']}` does not exist.")
        words = sum(len(message["content"].split()) for message in body["messages"])
        if words + body.get("max_tokens", 0) > given.max_model_len:
            return refusal(400, f"This model's maximum context length is {given.max_model_len} tokens.")
        if not body.get("stream"):
            return JSONResponse({"choices": [{"message": {"role": "assistant", "content": "The"}}]})
        return StreamingResponse(stream(), media_type="text/event-stream")

    def refusal(status: int, message: str) -> Response:
        return JSONResponse(
            {"error": {"message": message, "type": "BadRequestError", "code": status}}, status
        )

    async def stream() -> AsyncIterator[str]:
        for index, word in enumerate(ANSWER.split(" ")):
            yield event({"content": word if index == 0 else f" {word}"}, None)
        yield event({}, "stop")
        yield f"data: {json.dumps({'choices': [], 'usage': {'prompt_tokens': 9, 'completion_tokens': 7}})}\n\n"
        yield "data: [DONE]\n\n"

    def event(delta: dict[str, Any], reason: str | None) -> str:
        return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta, 'finish_reason': reason}]})}\n\n"

    routes = [
        Route("/health", health),
        Route("/v1/models", models),
        Route("/v1/chat/completions", chat, methods=["POST"]),
    ]
    uvicorn.run(Starlette(routes=routes), host=given.host, port=given.port, log_level="warning")


if __name__ == "__main__":
    main()
