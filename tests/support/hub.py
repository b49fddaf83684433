"""A fake Hugging Face hub, with gated repositories and connections that break."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_the_right_one"
GGUF = b"GGUF\x03\x00\x00\x00 and the rest"  # enough of a file to be taken for one


def use_hub(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    """Let huggingface_hub download from `url` into an empty `cache`, without a stored token."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))


class Hub:
    """`files[repo][name]` are the contents, `gated` repositories require TOKEN.

    The first download of a file in `breaks` breaks off in the middle, a file in `drips` arrives in ten parts `drip_s`
    apart, nothing follows the first half of one in `hangs`, and one in `damaged` has another hash. `asked` lists the downloads, `ranges` the ranges
    requested.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.refusal: tuple[int, str | None] = (401, "GatedRepo")  # of these: a status and the hub's code
        self.asked: list[str] = []
        self.breaks: set[str] = set()
        self.drips: set[str] = set()
        self.drip_s = 0.1
        self.hangs: set[str] = set()
        self.damaged: set[str] = set()
        self.ranges: list[str] = []
        self.app = Starlette(
            routes=[
                Route("/api/models/{owner}/{name}", self._info),
                Route("/api/models/{owner}/{name}/revision/{revision}", self._info),
                Route("/{owner}/{name}/resolve/{revision}/{file:path}", self._file),
            ]
        )

    def _refusal(self, request: Request, repo: str) -> Response | None:
        if repo not in self.files:
            return Response(status_code=404, headers={"X-Error-Code": "RepoNotFound"})
        if repo in self.gated and request.headers.get("authorization") != f"Bearer {TOKEN}":
            status, code = self.refusal
            return Response(status_code=status, headers={"X-Error-Code": code} if code else {})
        if request.path_params.get("revision", "main") not in ("main", COMMIT):
            return Response(status_code=404, headers={"X-Error-Code": "RevisionNotFound"})
        return None

    async def _info(self, request: Request) -> Response:
        repo = "{owner}/{name}".format(**request.path_params)
        if refusal := self._refusal(request, repo):
            return refusal
        siblings = [{"rfilename": name} for name in self.files[repo]]
        return JSONResponse({"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings})

    async def _file(self, request: Request) -> Response:
        repo = "{owner}/{name}".format(**request.path_params)
        if refusal := self._refusal(request, repo):
            return refusal
        content = self.files[repo].get(request.path_params["file"])
        if content is None:
            return Response(status_code=404, headers={"X-Error-Code": "EntryNotFound"})
        if request.method == "GET":
            self.asked.append(f"{repo}/{request.path_params['file']}")
        named = content + b"more" if request.path_params["file"] in self.damaged else content
        headers = {"ETag": f'"{hashlib.sha256(named).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if "range" in request.headers:
            self.ranges.append(request.headers["range"])
            start = int(request.headers["range"].removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return Response(content[start:], 206, headers)
        headers["Content-Length"] = str(len(content))
        if request.method == "GET" and request.path_params["file"] in self.breaks:
            self.breaks.remove(request.path_params["file"])
            return StreamingResponse(_half(content), headers=headers)
        if request.method == "GET" and request.path_params["file"] in self.drips:
            return StreamingResponse(_parts(content, self.drip_s), headers=headers)
        if request.method == "GET" and request.path_params["file"] in self.hangs:
            return StreamingResponse(_half_and_hang(content), headers=headers)
        return Response(content, headers=headers)


async def _half(content: bytes) -> AsyncIterator[bytes]:
    yield content[: len(content) // 2]
    await asyncio.sleep(0.1)  # so that it is sent
    raise ConnectionResetError("as scripted")


async def _parts(content: bytes, apart_s: float) -> AsyncIterator[bytes]:
    size = len(content) // 10 + 1
    for start in range(0, len(content), size):
        yield content[start : start + size]
        await asyncio.sleep(apart_s)


async def _half_and_hang(content: bytes) -> AsyncIterator[bytes]:
    yield content[: len(content) // 2]
    await asyncio.sleep(3600)
