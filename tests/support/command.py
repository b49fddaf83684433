"""`orpheus` as a command, run to its end."""

from __future__ import annotations

import subprocess
import sys

from tests.support.live import clean_environment


def orpheus(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orpheus", *arguments],
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
