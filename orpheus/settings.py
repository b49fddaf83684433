"""Environment and `.env` → one frozen `Settings`, read once at the start and passed down.

Every number a person may want to change stands here with its unit and its reason; nothing else reads the
environment. Knows nothing of what the settings are used for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from orpheus.errors import SetupError

PREFIX = "ORPHEUS_"
ENV_FILE = Path(".env")
REAL_MODEL = "lex-au/Orpheus-3b-FT-Q8_0.gguf"  # a repository: its name does end in .gguf
REAL_CODEC = "hubertsiuzdak/snac_24khz"
EMBEDDED = "embedded"

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


class Both(Environment):
    """Both tiers.

    The sampling is what a request gets that names none.
    """

    model: str | None = Field(
        None,
        description="'embedded', a GGUF path, or owner/repo[@revision][:file]. Unset: the published Orpheus-3B where "
        "llama.cpp can use a GPU, else 'embedded'",
    )
    hf_token: SecretStr | None = Field(
        None, validation_alias="HF_TOKEN", description="Hugging Face token, for gated or private weights"
    )
    model_name: str = Field("orpheus", description="name of the model at the completions endpoint")
    temperature: float = Field(0.6, ge=0, le=2, description="0 is greedy, which loops on Orpheus")
    top_p: float = Field(0.9, gt=0, le=1, description="nucleus of the legal codes")
    top_k: int = Field(0, ge=0, le=2**31 - 1, description="0 is off")
    min_p: float = Field(0.0, ge=0, le=1, description="0 is off")
    repetition_penalty: float = Field(
        1.1, ge=0.1, le=10, description="1 is off; Orpheus' makers ask for 1.1 or more"
    )
    max_tokens: int = Field(
        8192,
        ge=7,
        description="most tokens generated for one segment of text (82 a second of speech)",
    )
    max_body_bytes: int = Field(
        1 << 20, ge=1024, description="longest request body, in bytes; more is a 413. 1 MiB is a long chapter"
    )
    drain_s: int = Field(
        3,
        ge=0,
        description="streams under way when told to stop get this many seconds to end, then they are broken; 3 lets "
        "`orpheus serve` end within 5",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="log detail")
    log_format: Literal["text", "json"] = Field(
        "text", description="'json': one object a line, for a log collector"
    )


class Tier1(Environment):
    """Tier 1: llama."""

    llama_host: str = Field("127.0.0.1", description="address tier 1 listens on")
    llama_port: int = Field(5006, ge=0, le=65535, description="port of tier 1; 0 takes a free one")
    streams: int | None = Field(
        None, ge=1, le=256, description="streams decoded together. Unset: 32 on a GPU, 8 without"
    )
    slot_tokens: int | None = Field(
        None,
        ge=256,
        description="context of one stream, prompt and speech, in tokens. Unset: 2048, 25 s of speech",
    )
    llama_threads: int | None = Field(
        None, ge=1, description="CPU threads of llama.cpp. Unset: half of the cores"
    )
    gpu_layers: int = Field(-1, ge=-1, description="layers on the GPU; -1 is all, 0 none")
    waiting: int | None = Field(
        None,
        ge=0,
        description="streams that may wait for a free place; one more gets 429. Unset: a quarter of the streams",
    )
    kv: Literal["split", "unified"] = Field(
        "split",
        description="cache of each stream apart, or one for all, where each stream reads past the others' tokens",
    )
    even_batches: bool = Field(
        True,
        description="where llama.cpp's kernels differ for a stream alone (F16 weights on a CPU), decode an idle row "
        "beside it, so that a seed gives the same speech alone and in company; off is faster for a stream alone",
    )
    flash_attention: Literal["auto", "on", "off"] = Field(
        "auto", description="'auto': where the backend has it; a q8_0 type_v needs it"
    )
    type_k: Literal["f16", "q8_0"] = Field(
        "f16", description="cached keys; q8_0 halves the cache read in each step, and is not bit-equal"
    )
    type_v: Literal["f16", "q8_0"] = Field("f16", description="cached values; as type_k")
    batch_tokens: int = Field(
        512,
        ge=32,
        le=4096,
        description="most tokens in one step: a longer prompt is read over several, so that it holds nobody up",
    )
    stream_frames: int = Field(
        64,
        ge=2,
        description="frames a reader may leave unread before its stream pauses (85 ms each: 5.5 s)",
    )
    pause_timeout_s: float = Field(
        60.0, gt=0, description="a stream paused for this long is dropped: its reader is gone"
    )
    repetition_frames: int = Field(
        64,
        ge=0,
        description="frames the repetition penalty looks back, within the same slot (85 ms each: 5.5 s)",
    )


class Tier2(Environment):
    """Tier 2: speech."""

    host: str = Field("127.0.0.1", description="address tier 2 listens on")
    port: int = Field(5005, ge=0, le=65535, description="port of tier 2; 0 takes a free one")
    llama_endpoint: str | None = Field(
        None,
        description="URL of tier 1 or of any OpenAI-compatible completions server, with or without /v1/completions",
    )
    llama_api_key: SecretStr | None = Field(None, description="bearer token sent to the completions endpoint")
    cold_wait_s: float = Field(
        0,
        ge=0,
        description="longest a request waits for a completions endpoint that is asleep or starting (503, 502, refused "
        "connections); 0: not at all",
    )
    proxy_key: SecretStr | None = Field(
        None, description="id of Modal's proxy token (wk-…), sent as Modal-Key to services that run there"
    )
    proxy_secret: SecretStr | None = Field(
        None, description="secret of Modal's proxy token (ws-…), sent as Modal-Secret"
    )
    codec: str | None = Field(
        None,
        description="'embedded', a SNAC folder, or owner/repo[@revision]. Unset: the one that belongs to the model",
    )
    sample_rate: int = Field(
        24000, ge=8000, le=48000, description="samples a second of the audio sent, in Hz"
    )
    segment_chars: int | None = Field(
        None,
        ge=20,
        le=1000,
        description="most characters generated in one go. Unset: 280, or 110 with the embedded voice",
    )
    join: Literal["on", "off"] = Field(
        "on",
        description="trims the silence around each segment, sets the pauses between them and evens their loudness; "
        "off sends the model's samples as they are",
    )
    silence_db: float = Field(
        -45,
        ge=-90,
        le=-20,
        description="RMS under which 10 ms of sound are silence, in dB of full scale; down to 15 dB softer it stays where it "
        "joins on to voice or soon follows it",
    )
    lead_silence_ms: float = Field(
        30, ge=0, le=2000, description="silence before the first word; Orpheus itself leaves 400 to 600 ms"
    )
    max_input_chars: int = Field(
        4096, ge=1, description="longest input of a request, in characters; more is a 400"
    )
    max_live_chars: int = Field(
        16384,
        ge=100,
        description="longest text of one utterance over a WebSocket, in characters: about 20 minutes of speech",
    )
    socket_lead_s: float = Field(
        3.0,
        ge=0,
        description="seconds of audio a WebSocket's listener is sent before they are due; more outlasts a worse "
        "network, less is thrown away when the listener interrupts. 0: as fast as it is made",
    )
    socket_stall_s: float = Field(
        20.0, gt=0, description="a WebSocket whose client reads nothing for this long is dropped"
    )
    socket_first_text_s: float = Field(
        60.0,
        gt=0,
        description="a WebSocket that sends no text within this is closed: the orchestrator leaks them",
    )
    socket_idle_s: float = Field(
        300.0, gt=0, description="longest silence of a WebSocket's client between texts; then it is closed"
    )
    max_requests: int = Field(64, ge=1, description="speech requests served at once; one more gets 429")
    max_requests_per_key: int | None = Field(
        None, ge=1, description="of one key at once; one more gets 429. Unset: as ORPHEUS_MAX_REQUESTS"
    )
    api_keys: SecretStr | None = Field(
        None, description="keys that may speak, comma separated. Unset: everybody may"
    )
    lists_open: bool = Field(
        True,
        description="models and voices need no key, as some clients ask for them without; false closes them",
    )
    unmute_open: bool = Field(
        False,
        description="/api/tts_streaming needs no key: an unmodified orchestrator can send none but 'public_token'",
    )
    cors_origins: str | None = Field(
        None, description="origins whose web pages may call, comma separated, or '*'. Unset: none"
    )
    page: Literal["on", "off"] = Field(
        "on", description="a page at / to speak and listen in a browser; needs no key, speaking there does"
    )
    cache_mb: int = Field(
        0, ge=0, description="memory for finished answers to requests with a seed, in MB; 0 is off"
    )
    connect_timeout_s: float = Field(5.0, gt=0, description="to reach tier 1")
    stall_timeout_s: float = Field(
        30.0,
        gt=0,
        description="longest silence of tier 1 within a generation before it counts as dead",
    )
    codec_device: str = Field("auto", description="'auto', 'cpu', 'cuda' or 'cuda:N'")
    codec_threads: int | None = Field(
        None, ge=1, description="CPU threads of the codec. Unset: half of the cores"
    )
    codec_noise: Literal["on", "off"] = Field(
        "on",
        description="SNAC's noise blocks; keyed by the seed, so the same request sounds the same",
    )
    codec_gather_ms: float = Field(
        2.0,
        ge=0,
        le=50,
        description="longest a decoding step waits for the other open streams, in ms; a lone stream never waits",
    )
    codec_reserve_ms: float = Field(
        500.0,
        ge=0,
        description="with more audio than this in the listener's hand, in ms, frames are decoded four at a time, which "
        "is cheaper; until then one by one. 0: always one by one",
    )
    lookahead: int = Field(
        4,
        ge=0,
        description="latents (21 ms each) known beyond the first frame before it leaves, approximated: 4 is 44 dB from "
        "exact, after 14 tokens. All that follows is exact; 10 or more: the first frame too",
    )
    log_text: bool = Field(False, description="write what users have spoken into the log")

    @field_validator("api_keys")
    @classmethod
    def _none_is_unset(cls, given: SecretStr | None) -> SecretStr | None:
        """Nothing is no key; a comma alone is a mistake that must not open the door."""
        if given and not keys_in(given):
            raise ValueError("there is no key in it; unset it where everybody may speak")
        return given or None


class Clients(Environment):
    """Clients: `orpheus say`, `relay`, `bench`, `doctor`, and the programs in clients/.

    They send the proxy's token and the first API key of tier 2's settings, too.
    """

    fastapi_url: str | None = Field(
        None, description="URL of a running tier 2, for `orpheus say`, `orpheus relay` and the clients"
    )
    relay_port: int = Field(
        8089,
        ge=0,
        le=65535,
        description="port of `orpheus relay`; the default is where unmute looks for its TTS",
    )
    relay_headers: SecretStr | None = Field(
        None,
        description="headers `orpheus relay` adds, 'Name: value', comma separated, as 'x-api-key: …' for "
        "ORPHEUS_API_KEYS; Modal's come from ORPHEUS_PROXY_KEY and ORPHEUS_PROXY_SECRET",
    )


class Settings(Clients, Tier2, Tier1, Both):
    """What the pair is run with."""

    @field_validator("llama_endpoint", "fastapi_url")
    @classmethod
    def _is_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        import httpx  # here, as only its rules tell what it will ask

        with contextlib.suppress(httpx.InvalidURL):
            at = httpx.URL(url)
            if at.scheme in ("http", "https") and at.host:
                return url
        raise ValueError("write http://HOST:PORT or https://HOST")

    @property
    def proxy_headers(self) -> dict[str, str]:
        """What Modal's proxy wants to see; nothing where no proxy token is set."""
        if self.proxy_key is None or self.proxy_secret is None:
            return {}
        return {
            "Modal-Key": self.proxy_key.get_secret_value(),
            "Modal-Secret": self.proxy_secret.get_secret_value(),
        }

    @property
    def client_headers(self) -> dict[str, str]:
        """What a client of a running pair sends: the proxy's token, and the first of the API keys."""
        keys = keys_in(self.api_keys)
        return self.proxy_headers | ({"x-api-key": keys[0]} if keys else {})

    @property
    def completions_url(self) -> str:
        """The completions URL of tier 1, however the endpoint was written."""
        url = self.llama_endpoint or f"http://{self.llama_host}:{self.llama_port}"
        url = url.rstrip("/")
        for ending in ("/v1/completions", "/completions"):
            if url.endswith(ending):
                return url
        return f"{url}/completions" if url.endswith("/v1") else f"{url}/v1/completions"


def keys_in(given: SecretStr | None) -> list[str]:
    """The keys of ORPHEUS_API_KEYS."""
    listed = given.get_secret_value().split(",") if given else []
    return [key.strip() for key in listed if key.strip()]


def load_settings(**options: Any) -> Settings:
    """Read the settings; `options` (from the command line, None meaning not given) win over all.

    Raises SetupError with the setting's name and what it takes.
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
        raise SetupError(f"{name}={first['input']!r} cannot be used: {reason}.") from error


def setting_name(field: str) -> str:
    """The environment's name of a field."""
    return "HF_TOKEN" if field.lower() == "hf_token" else PREFIX + field.upper()
