"""Waits for what another thread or process does, by polling up to a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(condition: Callable[[], object], within_s: float = 15) -> None:
    """Return once `condition` holds; fail after `within_s` seconds, which a busy machine must not reach."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
