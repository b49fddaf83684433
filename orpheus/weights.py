"""ORPHEUS_MODEL and ORPHEUS_CODEC → files on this disk: the embedded voice, a path, or a Hugging Face repository.

Every failure is a WeightsError with one sentence that says what to do. llama/backend.py and codec/checkpoint.py check
what is in the files.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path

from orpheus import embedded, hub
from orpheus.errors import WeightsError
from orpheus.settings import EMBEDDED, REAL_CODEC, REAL_MODEL, Settings

GGUF_VERSIONS = (2, 3)
CODEC_FILES = ("config.json", "pytorch_model.bin")

log = logging.getLogger(__name__)


def path_of(name: str) -> Path | None:
    """The path that a setting names, or None if there is no such file or folder."""
    path = os.path.expanduser(name)
    return Path(path) if os.path.exists(path) else None  # Path.exists raises on names that no file can have


def model_name(settings: Settings) -> str:
    """The model in use, as ORPHEUS_MODEL would name it."""
    return settings.model or (REAL_MODEL if gpu_keeps_up() else EMBEDDED)


def codec_name(settings: Settings) -> str:
    """The codec in use, as ORPHEUS_CODEC would name it; by default the one the model was trained with."""
    if settings.codec:
        return settings.codec
    return EMBEDDED if model_name(settings) == EMBEDDED else REAL_CODEC


@functools.cache
def gpu_keeps_up() -> bool:
    """Whether a GPU here speaks Orpheus-3B in real time, which makes it the default model.

    SetupError if llama.cpp is installed but does not load.
    """
    try:
        from orpheus.gpu import find_gpu
    except ModuleNotFoundError:
        return _torch_sees_gpu()  # a machine with tier 2 alone
    gpu = find_gpu()
    if gpu is not None and not gpu.keeps_up:
        log.warning(
            "%s is not expected to speak Orpheus-3B in real time: the embedded voice is used. Set ORPHEUS_MODEL=%s "
            "to use it all the same; `orpheus bench` measures it.",
            gpu,
            REAL_MODEL,
        )
    return gpu is not None and gpu.keeps_up


def _torch_sees_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def find_model(settings: Settings, sized: Callable[[int], None] = lambda size: None) -> Path:
    """The GGUF file, fetched if ORPHEUS_MODEL names a repository; a cached copy needs no network. WeightsError.

    `sized` gets the file's size in bytes before it is fetched, and may refuse it.
    """
    name = model_name(settings)
    if name == EMBEDDED:
        return embedded.MODEL
    path = path_of(name)
    if path is None:
        repository = hub.parse(name)
        if repository is None or name.startswith((".", "/", "~")):
            raise WeightsError(
                f"ORPHEUS_MODEL={name!r} is not a file here. Give the path of a GGUF file, owner/repo, "
                f"or '{EMBEDDED}'."
            )
        file = repository.file or _only_gguf(repository, settings)
        path = hub.fetch(repository, file, settings, "ORPHEUS_MODEL", sized)
    check_gguf(path)
    return path


def find_codec(settings: Settings) -> Path:
    """The folder of a SNAC checkpoint (config.json and pytorch_model.bin), fetched as in `find_model`. WeightsError."""
    name = codec_name(settings)
    if name == EMBEDDED:
        return embedded.CODEC
    path = path_of(name)
    if path is None:
        repository = hub.parse(name)
        if repository is None or repository.file or name.startswith((".", "/", "~")):
            raise WeightsError(
                f"ORPHEUS_CODEC={name!r} is not a folder here. Give a folder with {' and '.join(CODEC_FILES)}, "
                f"owner/repo such as {REAL_CODEC}, or '{EMBEDDED}'."
            )
        fetched = [hub.fetch(repository, file, settings, "ORPHEUS_CODEC") for file in CODEC_FILES]
        path = fetched[0].parent
    for file in CODEC_FILES:
        if not (path / file).is_file():
            raise WeightsError(f"ORPHEUS_CODEC={name!r} has no {file}: it is not a SNAC checkpoint's folder.")
    return path


def repository_of(name: str) -> hub.Repository | None:
    """The repository of the hub that a setting names, if it names one."""
    return None if name == EMBEDDED or path_of(name) is not None else hub.parse(name)


def check_gguf(path: Path) -> None:
    """WeightsError unless the file begins like a GGUF of a version that llama.cpp reads."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}.") from error
    if len(head) < 8 or head[:4] != b"GGUF":
        raise WeightsError(
            f"{path} is not a GGUF file. Set ORPHEUS_MODEL to one, for example {REAL_MODEL}, "
            f"or to '{EMBEDDED}'."
        )
    if (version := int.from_bytes(head[4:], "little")) not in GGUF_VERSIONS:
        raise WeightsError(
            f"{path} is a GGUF of version {version}, which this llama.cpp does not read. Set ORPHEUS_MODEL to one of "
            f"version {GGUF_VERSIONS[-1]}."
        )


def _only_gguf(repository: hub.Repository, settings: Settings) -> str:
    """The GGUF of a repository named without a file: the one with the repository's name, or its only one."""
    repository_name = repository.id.split("/")[1]
    if repository_name.endswith(".gguf"):
        return repository_name
    files = hub.list_files(repository, settings, "ORPHEUS_MODEL")
    found = [file for file in files if file.endswith(".gguf")]
    if len(found) == 1:
        return found[0]
    if not found:
        raise WeightsError(f"{repository.id} has no GGUF file. Set ORPHEUS_MODEL to a repository with one.")
    raise WeightsError(
        f"{repository.id} has {len(found)} GGUF files. Name one: ORPHEUS_MODEL={repository.id}:{found[0]}"
    )
