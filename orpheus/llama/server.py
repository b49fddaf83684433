"""Tier 1 over HTTP: OpenAI's `/v1/completions` and `/v1/models`, and `/health` and `/metrics`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import PurePath
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from orpheus import __version__, tracing, weights
from orpheus.errors import NotFound, NotReady
from orpheus.http.body_limit import BodyLimit
from orpheus.http.leniency import Leniency, is_probe
from orpheus.http.loading import BackgroundLoad
from orpheus.http.origins import OriginCheck
from orpheus.http.responses import RequestIds, install_error_handlers
from orpheus.llama.engine import Engine
from orpheus.llama.responses import BufferedCompletion, StreamedCompletion
from orpheus.llama.schema import CompletionRequest
from orpheus.settings import SERVED_NAME, Settings

# Tokenizing 4,096 characters of the worst kind takes half a second: in threads, so that the event loop goes on, and
# in few, so that the processors are left to the decode thread.
TOKENIZED_AT_ONCE = 2


def create_app(settings: Settings, load: Callable[[], Engine]) -> FastAPI:
    """The application. `load` makes the engine, in a thread after startup."""
    tokenizing = CapacityLimiter(TOKENIZED_AT_ONCE)
    name = settings.model_name or SERVED_NAME
    loading = BackgroundLoad(load, lambda engine: asyncio.to_thread(engine.close), "model")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with tracing.flushed(), loading:
            yield

    telemetry = tracing.telemetry(is_probe)
    app = FastAPI(title="Orpheus: audio tokens", version=__version__, lifespan=lifespan, telemetry=telemetry)
    install_error_handlers(app)
    app.add_middleware(BodyLimit)
    app.add_middleware(OriginCheck)
    app.add_middleware(RequestIds)
    app.add_middleware(Leniency)

    @app.post("/v1/completions", response_model=None)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        engine = loading.ready()
        completion = await to_thread.run_sync(body.completion, engine, settings, limiter=tokenizing)
        kind = StreamedCompletion if body.stream else BufferedCompletion
        response = await kind(body, completion, engine, name).start(request.receive)
        response.headers["X-Model-Fingerprint"] = engine.fingerprint
        return response

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model_card(loading.ready(), settings, name)]}

    @app.get("/v1/models/{asked:path}")
    async def model(asked: str) -> dict[str, Any]:
        engine = loading.ready()
        if asked != name:
            raise NotFound(f"There is no model {asked!r} here: use {name!r}.", param="model")
        return _model_card(engine, settings, name)

    @app.get("/health")
    async def health() -> Response:
        try:
            report = loading.ready().load_report()
        except NotReady as error:
            return JSONResponse({"status": "unavailable", **error.body()}, 503)
        if report["dead"]:
            return JSONResponse({"status": "dead", "error": report["dead"], **report}, 503)
        return JSONResponse({"status": "ok", "load_s": round(loading.took_s or 0.0, 2), **report})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(loading.ready().metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


def _weights_name(settings: Settings) -> str:
    """As ORPHEUS_MODEL names them, but of a path on this disk only the file."""
    name = weights.model_name(settings)
    return name if weights.path_of(name) is None else PurePath(name).name


def _model_card(engine: Engine, settings: Settings, name: str) -> dict[str, Any]:
    config = engine.config
    return {
        "id": name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "orpheus",
        "meta": {
            "streams": config.streams,
            "context_tokens": config.context_tokens,
            "codes_per_slot": engine.vocabulary.codes,
            "n_vocab": engine.vocabulary.size,
            "weights": _weights_name(settings),
            "fingerprint": engine.fingerprint,  # by it, tier 2 notices that a restart brought another model
        },
    }
