"""Checks a set-up, on this machine or at a URL: one line per finding, with what to do.

The checks come in the order in which a set-up is built; each runs in its own process, so that none can hang or crash
the others.
"""

from __future__ import annotations

from functools import partial

from orpheus.ops.doctor import machine, remote, speech, tier1, weights
from orpheus.ops.doctor.check import Check, examine
from orpheus.settings import Settings

__all__ = ["examine", "local_checks", "remote_checks"]

FETCH_S = 4 * 3600.0  # 4 GB over the slowest line worth waiting for


def local_checks(settings: Settings, *, thorough: bool = False) -> list[Check]:
    """This machine and the weights its settings name; `thorough`: also how they sound, for all voices, and how soon."""
    checks = [
        Check("python", machine.python, 20),
        Check("compiler", machine.compiler, 60),
        Check("packages", machine.packages, 60),
        Check("ports", partial(machine.ports, settings), 20),
        Check("memory", partial(machine.memory, settings), 60),
        Check("hub", partial(machine.hub, settings), 60),
        Check("fetch", partial(weights.fetch, settings), FETCH_S, shows_progress=True),
        Check("model", partial(weights.model, settings), 300, ("fetch",)),
        Check("codec", partial(weights.codec, settings), 120, ("fetch",)),
        Check("fit", partial(weights.fit, settings), 120, ("model", "codec")),
        Check("engine", partial(tier1.engine, settings), 300, ("model",)),
        Check("exactness", partial(weights.exactness, settings), 180, ("codec",)),
        Check("seam", partial(tier1.seam, settings), 240, () if settings.llama_endpoint else ("model",)),
    ]
    if thorough:
        checks += [
            Check("voices", partial(speech.voices, settings), 300, ("engine", "exactness")),
            Check("listeners", partial(speech.listeners, settings), 300, ("engine", "exactness")),
        ]
    return checks


def remote_checks(url: str, headers: dict[str, str], cold_wait_s: float = 0) -> list[Check]:
    """A running pair, over HTTP and WebSockets alone; one that is asleep is waited for."""
    wait_s = max(cold_wait_s, remote.COLD_S)
    return [
        Check("server", partial(remote.server, url, headers, cold_wait_s), wait_s + 2 * remote.LIMIT_S),
        Check("speech", partial(remote.speech, url, headers), 180, ("server",)),
        Check("sockets", partial(remote.sockets, url, headers), 120, ("server",)),
    ]
