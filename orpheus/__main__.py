"""Entry point of `orpheus` and of `python -m orpheus`."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    _open_standard_streams()
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


def _open_standard_streams() -> None:
    """Give a process that was started without some of them, as by `>&-`, streams that say nothing and keep nothing.

    Otherwise the next file or socket gets the number of one, and with it what a library writes there.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


if __name__ == "__main__":
    main()
