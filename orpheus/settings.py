"""Environment and `.env` → one frozen `Settings`, read once at the start and passed down.

Each setting is declared here with its unit, its bounds and a description; those of the Modal deployment are in
deploy/settings.py. Nothing else in the package reads ORPHEUS_ variables.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import Field, PrivateAttr, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from orpheus.cache_address import parse_cache
from orpheus.errors import SetupError, shortened
from orpheus.redaction import HIDDEN
from orpheus.sampling import TEMPERATURE_MAX, Sampling
from orpheus.voices import OwnVoices

PREFIX = "ORPHEUS_"
ENV_FILE = Path(".env")
REAL_MODEL = "lex-au/Orpheus-3b-FT-Q8_0.gguf"  # a repository: its name does end in .gguf
REAL_CODEC = "hubertsiuzdak/snac_24khz"
EMBEDDED = "embedded"
SERVED_NAME = "orpheus"  # what tier 1 calls its model
MAX_CONTEXT_TOKENS = (
    131_072  # of Llama 3.2, which Orpheus-3B is; llama.cpp counts all streams together in 32 bits
)
ALL_LAYERS = 999  # more than any model has
DAY_S = 86_400  # a bound that no wait needs, so that no clock overflows
ADDRESSES = (
    "ORPHEUS_LLAMA_ENDPOINT",
    "ORPHEUS_FASTAPI_URL",
    "ORPHEUS_LLM_URL",
    "ORPHEUS_STT_URL",
    "ORPHEUS_CACHE",
)

T = TypeVar("T", bound=BaseSettings)


class Environment(BaseSettings):
    """A group of settings; docs/reference.md has one table each."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=ENV_FILE,
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",  # a .env is shared with others; unknown ORPHEUS_ names are warned about instead
        frozen=True,
    )

    @field_validator("*")
    @classmethod
    def _fits_a_header(cls, value: Any) -> Any:
        """A key without the spaces around it: one that was kept in a file often ends with the end of a line."""
        if not isinstance(value, SecretStr) or not value:
            return value
        key = value.get_secret_value().strip()
        if not key:
            raise ValueError("it holds no key, only spaces; unset it")
        if not (key.isascii() and key.isprintable()):
            raise ValueError("keys are sent in headers: use one line of ASCII characters")
        return SecretStr(key)


class Shared(Environment):
    """Both tiers.

    Temperature and top_p are defaults for requests that do not set them.
    """

    model: str | None = Field(
        None,
        description="'embedded', a GGUF path, or owner/repo[@revision][:file]. Unset: tier 1 takes the published "
        "Orpheus-3B if a GPU here speaks it in real time, otherwise 'embedded'; tier 2 asks tier 1",
    )
    hf_token: SecretStr | None = Field(
        None, validation_alias="HF_TOKEN", description="Hugging Face token, for gated or private weights"
    )
    model_name: str | None = Field(
        None,
        description="name of the model at the completions endpoint. Unset: tier 1 calls it 'orpheus', tier 2 takes the "
        "one that /v1/models lists",
    )
    temperature: float = Field(
        Sampling.temperature, ge=0, le=TEMPERATURE_MAX, description="0 is greedy, which makes Orpheus loop"
    )
    top_p: float = Field(Sampling.top_p, gt=0, le=1, description="nucleus sampling over the legal codes")
    voices: str | None = Field(
        None,
        description="the voices of a model of your own: a YAML file (docs/voices.md), or names as in 'ronan,anna:de'. "
        "Unset: the published ones of the model",
    )
    max_tokens: int = Field(
        8192,
        ge=7,
        le=MAX_CONTEXT_TOKENS,
        description="most tokens generated per segment of text (82 per second of speech)",
    )
    drain_s: int = Field(
        3,
        ge=0,
        le=DAY_S,
        description="on SIGTERM, how long running streams may finish before they are cut off; 3 lets `orpheus serve` "
        "exit within 5",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="log level")
    log_format: Literal["text", "json"] = Field(
        "text", description="'json' writes one object per line, for a log collector"
    )
    host: str = Field(
        "127.0.0.1",
        description="address to listen on; `orpheus serve` always keeps tier 1 on 127.0.0.1",
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=512,  # llama.cpp's limit, GGML_MAX_N_THREADS
        description="CPU threads of llama.cpp and of the codec, each, at most the cores there are. Unset: half of them",
    )


class Tier1(Environment):
    """Tier 1: llama."""

    llama_port: int = Field(5006, ge=0, le=65535, description="port of tier 1; 0 picks a free one")
    streams: int | None = Field(
        None,
        ge=1,
        le=254,
        description="streams decoded together. Unset: 32 on a GPU that speaks Orpheus-3B in real time, otherwise 8",
    )
    context_tokens: int | None = Field(
        None,
        ge=256,
        le=MAX_CONTEXT_TOKENS,
        description="context of one stream, prompt and speech, in tokens. Unset: 2048, 25 s of speech",
    )
    gpu_layers: int = Field(
        -1,
        ge=-1,
        le=ALL_LAYERS,
        description="layers offloaded to the GPU; -1 is all if there is one, 999 all or no start, 0 none",
    )
    lora: str | None = Field(
        None,
        description="a LoRA adapter as GGUF, and how much of it: path[:scale]. Unset: none; without a scale 1",
    )
    kv_type: Literal["f16", "q8_0"] = Field(
        "f16", description="type of the KV cache; q8_0 halves its memory and is not bit-identical"
    )
    unconstrained: bool = Field(
        False,
        description='serve completions with "constrained": false too, which need all of the vocabulary: slower',
    )


class Tier2(Environment):
    """Tier 2: speech."""

    port: int = Field(5005, ge=0, le=65535, description="port of tier 2; 0 picks a free one")
    llama_endpoint: str | None = Field(
        None,
        description="URL of tier 1 or of any OpenAI-compatible completions server, with or without /v1/completions",
    )
    llama_api_key: SecretStr | None = Field(None, description="bearer token sent to the completions endpoint")
    cold_wait_s: float = Field(
        0,
        ge=0,
        le=DAY_S,
        description="how long a request waits for a completions endpoint, or an answer for its LLM, that is asleep or "
        "starting (503, 502, refused connections); 0 fails at once",
    )
    proxy_key: SecretStr | None = Field(
        None, description="id of Modal's proxy token (wk-…), sent as Modal-Key to services running there"
    )
    proxy_secret: SecretStr | None = Field(
        None, description="secret of Modal's proxy token (ws-…), sent as Modal-Secret"
    )
    codec: str | None = Field(
        None,
        description="'embedded', a SNAC folder, or owner/repo[@revision]. Unset: the one the model was trained with",
    )
    codec_device: str = Field("auto", description="'auto', 'cpu', 'cuda' or 'cuda:N'")
    sample_rate: int = Field(
        24000, ge=8000, le=48000, description="samples per second of the audio sent, in Hz"
    )
    postprocess: bool = Field(
        True,
        description="trim the silence around each segment, set the pauses between them and level their loudness; "
        "false sends the model's samples unchanged",
    )
    max_input_chars: int = Field(
        4096, ge=1, description="longest input of a request, in characters; longer is a 400"
    )
    max_requests: int = Field(64, ge=1, description="speech requests served at once; one more gets 429")
    max_requests_per_key: int | None = Field(
        None, ge=1, description="requests per API key at once; one more gets 429. Unset: ORPHEUS_MAX_REQUESTS"
    )
    api_keys: SecretStr | None = Field(
        None, description="API keys tier 2 accepts, comma separated. Unset: no key needed"
    )
    unmute_open: bool = Field(
        False,
        description="/api/tts_streaming needs no key: an unmodified unmute can only send 'public_token'",
    )
    cors_origins: str | None = Field(
        None,
        description="origins whose web pages may call this server, comma separated, or '*'. Unset: none",
    )
    get_speech: bool = Field(
        True,
        description="GET /v1/audio/speech speaks the `input` of its query, for players that take only a URL",
    )
    page: bool = Field(
        True, description="a web page at / to speak and listen; it needs no key, speaking there does"
    )
    cache: str | None = Field(
        None,
        description="where finished responses to requests with a seed are kept: memory:, file:///FOLDER or "
        "redis://HOST:6379/0; ?mb= behind the first two is how much (256, 1024). Unset: nowhere",
    )
    log_text: bool = Field(False, description="write the spoken text to the log")

    @field_validator("api_keys")
    @classmethod
    def _none_is_unset(cls, given: SecretStr | None) -> SecretStr | None:
        """An empty value means no key; a lone comma is a mistake that must not open the server."""
        if given and not keys_in(given):
            raise ValueError("it holds no key; unset it to let everybody in")
        return given or None


class Agent(Environment):
    """The agent: `orpheus talk`.

    Without the addresses it hears with Whisper base and thinks with SmolLM2-135M, which come with the extra `[agent]`.
    """

    llm_url: str | None = Field(
        None,
        description="URL of an OpenAI-compatible server to think with, with or without /v1/chat/completions. Unset: "
        "the embedded LLM, which is for trying and testing",
    )
    llm_model: str | None = Field(
        None, description="model to ask for there. Unset: the one the server lists, if it lists only one"
    )
    llm_api_key: SecretStr | None = Field(None, description="bearer token sent there")
    stt_url: str | None = Field(
        None,
        description="URL of an OpenAI-compatible server to hear with, with or without /v1/audio/transcriptions. "
        "Unset: the embedded recognizer",
    )
    stt_model: str = Field("whisper-1", description="model to ask for there")
    stt_api_key: SecretStr | None = Field(None, description="bearer token sent there")
    max_conversations: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="conversations, and recordings answered, at once; one more gets 429. Unset: 16, or one for "
        "every two cores where the LLM or the recognizer is embedded",
    )
    twilio_auth_token: SecretStr | None = Field(
        None,
        description="auth token of your Twilio account: its calls are known by their signature and need no API key",
    )


class Clients(Environment):
    """Clients: `orpheus say`, `relay`, `bench`, `doctor`, and the programs in clients/.

    They also send the proxy token of tier 2's settings. The programs in clients/ read the environment alone.
    """

    fastapi_url: str | None = Field(
        None, description="URL of a running tier 2, for `orpheus say`, `orpheus relay` and the clients"
    )
    api_key: SecretStr | None = Field(
        None, description="API key that clients send. Unset: `orpheus` sends the first of ORPHEUS_API_KEYS"
    )


class Settings(Clients, Agent, Tier2, Tier1, Shared):
    """All settings of the pair and the agent."""

    _own_voices: OwnVoices | None = PrivateAttr(None)

    @field_validator("voices")
    @classmethod
    def _can_be_read(cls, given: str | None) -> str | None:
        _read_voices(given)
        return given

    def model_post_init(self, context: Any) -> None:
        self._own_voices = _read_voices(self.voices)

    @property
    def own_voices(self) -> OwnVoices | None:
        """What `voices` declares, read with the settings."""
        return self._own_voices

    @field_validator("llama_endpoint", "fastapi_url", "llm_url", "stt_url")
    @classmethod
    def _is_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        import httpx  # here: only httpx knows which URLs it accepts

        with contextlib.suppress(httpx.InvalidURL):
            at = httpx.URL(url)
            if at.scheme in ("http", "https") and at.host:
                return url
        raise ValueError("write http://HOST:PORT or https://HOST")

    @field_validator("cache")
    @classmethod
    def _is_cache(cls, given: str | None) -> str | None:
        if given is not None:
            parse_cache(given)
        return given

    @property
    def cpu_threads(self) -> int:
        """Threads for llama.cpp, and as many for the codec: half of the cores this process may use.

        Threads of either wait for each other by spinning, so one that has to share its core stalls all of them
        (llama.cpp, 2 threads on 2 busy cores: 45 ms a step against 3.5 ms with 1, AMD EPYC, 2026-11-21).
        """
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(self.threads, cores) if self.threads else max(1, cores // 2)

    @property
    def secrets(self) -> list[str]:
        """Every key and password in these settings: what no log may show."""
        given = [
            value for field in type(self).model_fields if isinstance(value := getattr(self, field), SecretStr)
        ]
        keys = [key for secret in given for key in keys_in(secret)]
        urls = (self.llama_endpoint, self.fastapi_url, self.llm_url, self.stt_url, self.cache)
        passwords = [urlsplit(url).password for url in urls if url]
        return keys + [form for password in passwords if password for form in (password, unquote(password))]

    @property
    def proxy_headers(self) -> dict[str, str]:
        """The headers Modal's proxy requires; empty without a proxy token."""
        if self.proxy_key is None or self.proxy_secret is None:
            return {}
        return {
            "Modal-Key": self.proxy_key.get_secret_value(),
            "Modal-Secret": self.proxy_secret.get_secret_value(),
        }

    @property
    def client_headers(self) -> dict[str, str]:
        """The headers a client of a running pair sends: the proxy token and an API key."""
        keys = [self.api_key.get_secret_value()] if self.api_key else keys_in(self.api_keys)
        return self.proxy_headers | ({"x-api-key": keys[0]} if keys else {})

    @property
    def completions_url(self) -> str:
        """The completions URL of tier 1, whichever way the endpoint was written."""
        return endpoint(self.llama_endpoint or f"http://127.0.0.1:{self.llama_port}", "/completions")


def _read_voices(given: str | None) -> OwnVoices | None:
    if given is None:
        return None
    from orpheus.voices_file import read_voices  # here: YAML is rarely needed

    return read_voices(given)


def endpoint(url: str, path: str) -> str:
    """The address of an OpenAI-compatible server's /v1 + `path`; `url` may be written with or without either."""
    at = urlsplit(url)
    given = at.path.rstrip("/")
    if not given.endswith(path):
        given += path if given.endswith("/v1") else "/v1" + path
    return at._replace(path=given, fragment="").geturl()


def keys_in(given: SecretStr | None) -> list[str]:
    """The keys of a comma-separated list."""
    listed = given.get_secret_value().split(",") if given else []
    return [key.strip() for key in listed if key.strip()]


def load_settings(**options: Any) -> Settings:
    """Read the settings; `options` (from the command line, None meaning not given) take precedence.

    Raises SetupError naming the setting and the values it accepts.
    """
    return load(Settings, options)


def load(kind: type[T], options: Mapping[str, Any]) -> T:
    """`load_settings` for any group of settings."""
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return kind(**given)
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(
            f"{ENV_FILE} cannot be read ({error}): it must be a file of text in UTF-8."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        name = setting_name(str(first["loc"][0])) if first["loc"] else PREFIX + "…"
        reason = first["msg"].removeprefix("Value error, ")
        field = kind.model_fields.get(str(first["loc"][0]).lower()) if first["loc"] else None
        # An address that cannot be read may still hold a password.
        private = name in ADDRESSES or (field is not None and field.annotation == SecretStr | None)
        shown = HIDDEN if private else shortened(first["input"])
        raise SetupError(f"{name}={shown} cannot be used: {reason}.") from error


def setting_name(field: str) -> str:
    """The environment's name of a field."""
    return "HF_TOKEN" if field.lower() == "hf_token" else PREFIX + field.upper()
