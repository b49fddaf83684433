"""llama.cpp's shared library: loaded once, with its log routed to Python's; and whether it can use a GPU.

Importing this module loads the library, which takes a second: import it inside the function that needs it. It raises
ModuleNotFoundError if llama-cpp-python is not installed, and SetupError if it is but cannot be loaded.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
from collections.abc import Iterator
from typing import Any

from orpheus.errors import SetupError

try:
    import llama_cpp
except ModuleNotFoundError:
    raise
except Exception as error:  # installed, but the library or one of CUDA's cannot be loaded
    raise SetupError(
        f"llama.cpp does not load: {error}. `orpheus doctor` shows how to rebuild it."
    ) from error

__all__ = ["gpu_available", "listening", "llama_cpp", "start"]

_log = logging.getLogger("orpheus.llama.cpp")
_listeners: dict[int, list[str]] = {}  # by id: lists that are equal are not the same
# llama.cpp is verbose: loading prints hundreds of "info" lines, and some of its warnings do not apply here.
_LOG_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.INFO, 4: logging.WARNING}


def gpu_available() -> bool:
    """Whether this build of llama.cpp can offload layers to a GPU of this machine."""
    start()
    return bool(llama_cpp.llama_supports_gpu_offload())


@functools.cache
def start() -> None:
    """Initialise the library, once: llama.cpp keeps one logger per process."""
    llama_cpp.llama_log_set(_to_logging, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()


@contextlib.contextmanager
def listening() -> Iterator[list[str]]:
    """The lines that llama.cpp logs meanwhile: some of what it decides, it tells there alone."""
    lines: list[str] = []
    _listeners[id(lines)] = lines
    try:
        yield lines
    finally:
        del _listeners[id(lines)]


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _to_logging(level: int, text: bytes, _: Any) -> None:
    line = text.decode("utf-8", "replace").rstrip("\n")
    for lines in list(_listeners.values()):
        lines.append(line)
    _log.log(_LOG_LEVELS.get(level, logging.DEBUG), "%s", line)
