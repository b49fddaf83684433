"""Checks a set-up, on this machine or at a URL: one line per finding, with what to do.

The checks come in the order in which a set-up is built; each runs in its own process, so that none can hang or crash
the others.
"""

from __future__ import annotations

from functools import partial

from orpheus.ops.doctor import machine, remote, speech, tier1, weights
from orpheus.ops.doctor.check import Check, examine
from orpheus.settings import EMBEDDED, Settings

__all__ = ["examine", "local_checks", "remote_checks"]

OF_THE_MODEL = ("model", "fit", "engine", "capacity", "listeners")  # checks of one that is here
FETCH_S = 4 * 3600.0  # 4 GB over the slowest line worth waiting for


def local_checks(settings: Settings, *, thorough: bool = False) -> list[Check]:
    """This machine and the weights its settings name; `thorough`: also how they sound, for all voices, and how soon.

    With a tier 1 that is elsewhere and no model named, of the weights only the codec that belongs to it.
    """
    elsewhere = settings.llama_endpoint is not None and settings.model is None
    here = settings
    if elsewhere:
        settings = settings.model_copy(update={"codec": tier1.codec_for(settings)})
        here = settings.model_copy(update={"model": EMBEDDED})  # which fetches nothing
    checks = [
        Check("python", machine.python, 20),
        Check("compiler", machine.compiler, 60),
        Check("packages", machine.packages, 60),
        Check("ports", partial(machine.ports, settings), 20),
        Check("memory", partial(machine.memory, here), 60),
        Check("hub", partial(machine.hub, here), 60),
        Check("fetch", partial(weights.fetch, here), FETCH_S, shows_progress=True),
        Check("model", partial(weights.model, here), 300, ("fetch",)),
        Check("codec", partial(weights.codec, here), 120, ("fetch",)),
        Check("fit", partial(weights.fit, here), 120, ("model", "codec")),
        Check("engine", partial(tier1.engine, here), 300, ("model",)),
        Check("exactness", partial(weights.exactness, here), 180, ("codec",)),
        Check("capacity", partial(tier1.capacity, here), 300, ("engine", "exactness")),
        Check("seam", partial(tier1.seam, settings), 240, () if settings.llama_endpoint else ("model",)),
    ]
    if thorough:
        checks += [
            Check("voices", partial(speech.voices, settings), 300, ("engine", "exactness")),
            Check("listeners", partial(speech.listeners, settings), 300, ("engine", "exactness")),
        ]
    return [check for check in checks if not (elsewhere and check.name in OF_THE_MODEL)]


def remote_checks(url: str, headers: dict[str, str], cold_wait_s: float = 0) -> list[Check]:
    """A running pair, over HTTP and WebSockets alone; one that is asleep is waited for."""
    wait_s = max(cold_wait_s, remote.COLD_S)
    return [
        Check("server", partial(remote.server, url, headers, cold_wait_s), wait_s + 2 * remote.LIMIT_S),
        Check("speech", partial(remote.speech, url, headers), 180, ("server",)),
        Check("sockets", partial(remote.sockets, url, headers), 120, ("server",)),
    ]
