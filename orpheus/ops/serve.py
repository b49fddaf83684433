"""Both tiers of this machine as two child processes, started and stopped together; `orpheus serve` supervises them."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType

from rich.console import Console

from orpheus import weights
from orpheus.http.process import free_port, url_of
from orpheus.ops.child import POLL_S, ChildEnded, ChildServer, wait_until_healthy
from orpheus.settings import Settings
from orpheus.voices import voices_of

KILL_S = 1.5  # after ORPHEUS_DRAIN_S a tier is killed: by default `orpheus serve` exits within 5 s
IDLE_S = 0.4  # for a tier without streams to end, when the other has used up the time
REPORT_EVERY_S = 5.0  # while waiting, without a terminal
START_S = 600.0  # gigabytes from a slow disk
LOCAL = "127.0.0.1"  # tier 1 serves tier 2 alone

Announce = Callable[[Settings, str, int, Console], None]  # settings, host and port of tier 2, where to print


class Pair:
    """Tier 1 and tier 2, which speaks through it. Used by one thread."""

    def __init__(
        self,
        settings: Settings,
        *,
        speech_options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        capture: bool = False,
    ) -> None:
        """Choose the ports; SetupError if one is taken.

        `speech_options` are given to `orpheus speech`; `environment` and `capture` are those of `ChildServer`.
        """
        host = settings.host
        self.port = free_port(host, settings.port, "--port or ORPHEUS_PORT")
        llama_port = free_port(LOCAL, settings.llama_port, "--llama-port or ORPHEUS_LLAMA_PORT")
        self.url, self.llama_url = url_of(host, self.port), url_of(LOCAL, llama_port)
        self.tiers: list[ChildServer] = []
        self._within_s = settings.drain_s + KILL_S
        self._hosts = {"llama": LOCAL, "speech": host}
        self._options = {"llama": (), "speech": tuple(speech_options)}
        self._capture = capture
        self._environment = {
            "ORPHEUS_PORT": str(self.port),
            "ORPHEUS_LLAMA_PORT": str(llama_port),
            "ORPHEUS_LLAMA_ENDPOINT": self.llama_url,
            # Resolved once here, so that both tiers are sure to mean the same weights.
            "ORPHEUS_MODEL": weights.model_name(settings),
            "ORPHEUS_CODEC": weights.codec_name(settings),
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
        }

    def start(self) -> None:
        """Start both tiers, without waiting for either."""
        for tier, url in (("llama", self.llama_url), ("speech", self.url)):
            self.tiers.append(
                ChildServer(
                    tier,
                    [sys.executable, "-m", "orpheus", tier, "--supervised", *self._options[tier]],
                    url,
                    environment={**self._environment, "ORPHEUS_HOST": self._hosts[tier]},
                    capture=self._capture,
                )
            )

    def wait_until_ready(
        self, within_s: float = math.inf, progress: Callable[[str], None] = lambda waiting_for: None
    ) -> None:
        """As `wait_until_healthy`, for both."""
        wait_until_healthy(self.tiers, within_s, progress)

    def wait_until_one_ends(self) -> ChildServer:
        """The tier that has ended."""
        while True:
            for tier in self.tiers:
                if tier.exit_code is not None:
                    return tier
            time.sleep(POLL_S)

    def stop(self) -> None:
        """Stop both, tier 2 first: until its streams have ended they need tier 1."""
        deadline_s = time.monotonic() + self._within_s
        for tier in reversed(self.tiers):
            tier.stop(max(IDLE_S, deadline_s - time.monotonic()))


@contextlib.contextmanager
def running_pair(settings: Settings, **environment: str) -> Iterator[Pair]:
    """A ready pair on free ports of this machine, stopped at the end; its output shows only in errors.

    Raises ChildEnded if a tier ends before it is ready, and NotReady after START_S.
    """
    local = settings.model_copy(update={"host": LOCAL, "port": 0, "llama_port": 0})
    pair = Pair(local, environment={"ORPHEUS_LOG_LEVEL": "warning", **environment}, capture=True)
    try:
        pair.start()
        pair.wait_until_ready(START_S)
        yield pair
    finally:
        pair.stop()


def supervise(
    settings: Settings,
    console: Console,
    *,
    speech_options: Sequence[str] = (),
    announcing: Announce | None = None,
) -> int:
    """Run both tiers until a signal, or until one of them ends. Returns the exit code.

    `announcing` is called once they are ready, instead of `announce`.
    """
    pair = Pair(settings, speech_options=speech_options)
    with _signals():
        try:
            pair.start()
            with contextlib.suppress(ChildEnded):
                with _progress(console) as progress:
                    pair.wait_until_ready(progress=progress)
                (announcing or announce)(settings, settings.host, pair.port, console)
            ended = pair.wait_until_one_ends()
            console.print(
                f"Tier {ended.name} ended by itself with exit code {ended.exit_code}; stopping the other."
            )
            return ended.exit_code or 1
        except _StopRequested:
            console.print("Stopping.")
            return 0
        finally:
            _ignore_signals()  # a Ctrl-C now must not interrupt the stopping itself
            pair.stop()


def announce(settings: Settings, host: str, port: int, console: Console) -> None:
    """Print the address of the pair, its model and codec, and a command to try."""
    url = url_of(host, port)
    voices = [voice.id for voice in voices_of(weights.model_name(settings), settings.own_voices).all]
    # The key by the name of its setting: what is printed may end up in a log.
    key = ' -H "x-api-key: $ORPHEUS_API_KEY"' if settings.api_keys else ""
    body = f'{{"input": "Hello, I am ready.", "voice": "{voices[0]}"}}'
    console.print(
        f"\nOrpheus is ready at {url}\n"
        f"  model   {weights.model_name(settings)}, codec {weights.codec_name(settings)}\n"
        f"  voice   {voices[0]} ({', '.join(voices)})\n"
        f"  try     curl {url}/v1/audio/speech{key} -H 'Content-Type: application/json' "
        f"-d '{body}' -o hello.mp3\n",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[Callable[[str], None]]:
    """Shows what is being waited for: continuously on a terminal, now and then elsewhere."""
    reported_s = time.monotonic()
    with console.status("Starting both tiers") as status:

        def show(waiting_for: str) -> None:
            nonlocal reported_s
            status.update(f"Waiting for {waiting_for}")
            if not console.is_terminal and time.monotonic() - reported_s > REPORT_EVERY_S:
                console.print(f"Waiting for {waiting_for}")
                reported_s = time.monotonic()

        yield show


class _StopRequested(Exception):
    pass


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """The first SIGINT or SIGTERM raises _StopRequested; later ones are ignored."""

    def stop(number: int, frame: FrameType | None) -> None:
        _ignore_signals()
        raise _StopRequested

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
