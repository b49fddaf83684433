"""Entry point of `orpheus` and of `python -m orpheus`."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    # Modules take most of a second to load. Ctrl-C meanwhile ends the process without a traceback; where it is ignored
    # (nohup, a job in the background of a script), it stays ignored.
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from orpheus import cli

    try:
        if interruptible:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        cli.main()
    except KeyboardInterrupt:  # before there was a command to handle it
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
