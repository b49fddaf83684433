"""HTTP → completions: OpenAI's `/v1/completions` and `/v1/models`, and `/health`, `/metrics`.

Knows nothing of llama.cpp or of sound.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from orpheus import __version__
from orpheus.errors import EngineError, NotFound, NotReady, OrpheusError
from orpheus.http.body_limit import BodyLimit
from orpheus.http.responses import RequestIds, install_error_handlers
from orpheus.llama.engine import Engine
from orpheus.llama.responses import BufferedCompletion, StreamedCompletion
from orpheus.llama.schema import CompletionRequest
from orpheus.settings import Settings

_log = logging.getLogger(__name__)


class Loading:
    """The engine of one application: on its way, there, or failed and why."""

    def __init__(self, load: Callable[[], Engine]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._closed = False
        self._engine: Engine | None = None
        self._failure: OrpheusError | None = None

    def start(self) -> None:
        # A thread that does not hold up the end of the process: a load may be a download of gigabytes.
        threading.Thread(target=self._run, name="orpheus-load", daemon=True).start()

    def ready(self) -> Engine:
        """The engine; NotReady says why there is none."""
        if self._failure is not None:
            raise NotReady(f"The model could not be loaded: {self._failure}")
        if self._engine is None:
            raise NotReady("The model is loading: try again shortly.")
        return self._engine

    def close(self) -> None:
        """Close the engine, now or as soon as it is loaded."""
        with self._lock:
            self._closed = True
        if self._engine is not None:
            self._engine.close()

    def _run(self) -> None:
        try:
            engine = self._load()
        except OrpheusError as error:
            self._failure = error
            _log.error("The model could not be loaded: %s", error)
        except Exception as error:
            self._failure = EngineError(f"{type(error).__name__}: {error}")
            _log.exception("The model could not be loaded")
        else:
            with self._lock:
                self._engine = engine
                closed = self._closed
            if closed:
                engine.close()


def create_app(settings: Settings, load: Callable[[], Engine]) -> FastAPI:
    """The application. `load` makes the engine, in a thread at startup."""
    loading = Loading(load)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading.start()
        yield
        await asyncio.to_thread(loading.close)

    app = FastAPI(title="Orpheus: audio tokens", version=__version__, lifespan=lifespan)
    install_error_handlers(app)
    app.add_middleware(BodyLimit)
    app.add_middleware(RequestIds)

    @app.post("/v1/completions", response_model=None)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        engine = loading.ready()
        completion = body.completion(engine, settings)
        reply = StreamedCompletion if body.stream else BufferedCompletion
        return await reply.begin(engine, completion, body, settings.model_name, request.receive)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model_card(loading.ready(), settings)]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        engine = loading.ready()
        if name != settings.model_name:
            raise NotFound(f"There is no model {name!r} here, only {settings.model_name!r}.", param="model")
        return _model_card(engine, settings)

    @app.get("/health")
    async def health() -> Response:
        try:
            report = loading.ready().load_report()
        except NotReady as error:
            return JSONResponse({"status": "unavailable", **error.body()}, 503)
        if report["dead"]:
            return JSONResponse({"status": "dead", "error": report["dead"], **report}, 503)
        return JSONResponse({"status": "ok", **report})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(loading.ready().metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


def _model_card(engine: Engine, settings: Settings) -> dict[str, Any]:
    config = engine.config
    return {
        "id": settings.model_name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "orpheus",
        "meta": {
            "streams": config.streams,
            "context_tokens": config.context_tokens,
            "codes_per_slot": engine.vocabulary.codes,
            "n_vocab": engine.vocabulary.size,
        },
    }
