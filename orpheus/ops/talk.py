"""What `orpheus talk` adds to `orpheus serve`: what it needs is looked for first, and what is in use is told."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import ipaddress

from rich.console import Console

from orpheus import redaction
from orpheus.agent import embedded_llm
from orpheus.agent.think import suggest_llm
from orpheus.errors import SetupError, in_a_sentence
from orpheus.http.process import url_of
from orpheus.ops import serve
from orpheus.settings import Settings

_ALWAYS = ("onnxruntime", "faster_whisper")  # voice activity: its network is in the wheel of faster_whisper


def check_installed(settings: Settings) -> None:
    """SetupError, before anything is started, if a package is missing that these settings need."""
    for package in _ALWAYS:
        if importlib.util.find_spec(package) is None:
            raise in_a_sentence(ModuleNotFoundError(name=package))
    if not settings.llm_url:
        embedded_llm.find_weights()


def read_address(given: str) -> tuple[str, int]:
    """PORT or ADDRESS:PORT, for Wyoming → address and port. SetupError for anything else."""
    address, _, port = given.strip().rpartition(":")
    address = address.removeprefix("[").removesuffix("]") or "127.0.0.1"
    with contextlib.suppress(ValueError):
        if port.isascii() and port.isdigit() and int(port) < 1 << 16:
            return str(ipaddress.ip_address(address)), int(port)
    raise SetupError(
        f"--wyoming {given[:60]!r} cannot be used: write a port, such as 10300, or an address and a port, such as "
        "0.0.0.0:10300."
    )


def speech_options(wyoming: str | None = None) -> tuple[str, ...]:
    """What `orpheus speech` is given, so that it has an agent too."""
    return ("--agent", *(("--wyoming", wyoming) if wyoming is not None else ()))


def announcer(settings: Settings, house: tuple[str, int] | None = None) -> serve.Announce:
    """What to call once the pair is ready. Asks now, not then, whether Ollama runs here: that takes up to half a second.

    `house`: where Wyoming is taken.
    """
    suggestion = None if settings.llm_url else suggest_llm()
    return functools.partial(_announce, suggestion, house)


def _announce(
    suggestion: str | None,
    house: tuple[str, int] | None,
    settings: Settings,
    host: str,
    port: int,
    console: Console,
) -> None:
    """What `orpheus serve` prints, where to talk, and what hears and thinks."""
    serve.announce(settings, host, port, console)
    url = url_of(host, port)
    lines = [
        f"Talk to it at {url}/ in a browser, or from a program at {url.replace('http', 'ws', 1)}/v1/realtime",
        f"  hears   {hearing(settings)}",
        f"  thinks  {thinking(settings)}",
    ]
    if not settings.llm_url:
        lines.append(
            "          It is for trying and testing: for a clever one set ORPHEUS_LLM_URL, ORPHEUS_LLM_MODEL and, if "
            "it needs a key, ORPHEUS_LLM_API_KEY."
        )
    if suggestion:
        lines.append(f"          {suggestion}")
    if house is not None:
        lines.append(f"  house   Wyoming at {house[0]}, port {house[1]}, for Home Assistant")
        if not _is_loopback(house[0]):
            lines.append("          It has no keys: whoever reaches that port may use it.")
    if not _is_loopback(host):
        lines.append("  note    Browsers give a page the microphone only at localhost or over https.")
    console.print("\n".join([*lines, ""]), soft_wrap=True, highlight=False, markup=False)


def hearing(settings: Settings) -> str:
    """The recognizer, in words; without what an address may hold."""
    if settings.stt_url:
        return f"{settings.stt_model} at {redaction.address(settings.stt_url)}"
    return "Whisper base, embedded"


def thinking(settings: Settings) -> str:
    """The LLM, in words."""
    if settings.llm_url:
        return f"{settings.llm_model or 'the model'} at {redaction.address(settings.llm_url)}"
    return f"{embedded_llm.MODEL_NAME}, embedded"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
