"""ORPHEUS_MODEL and ORPHEUS_CODEC → files on this disk: the embedded voice, a path, or a Hugging Face repository.

Every failure is a WeightsError with one sentence that says what to do. llama/backend.py and codec/checkpoint.py check
what is in the files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orpheus import embedded
from orpheus.errors import WeightsError
from orpheus.settings import EMBEDDED, REAL_CODEC, REAL_MODEL, Settings

_REPOSITORY = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?(:(?P<file>[\w./ -]+))?", re.ASCII
)
GGUF_VERSIONS = (2, 3)
CODEC_FILES = ("config.json", "pytorch_model.bin")


@dataclass(frozen=True)
class Repository:
    """`owner/repo[@revision][:file]`, parsed."""

    id: str
    revision: str | None
    file: str | None


def parse_repository(name: str) -> Repository | None:
    """The repository that a setting names, or None if it does not have that form."""
    match = _REPOSITORY.fullmatch(name)
    if match is None or ".." in name:
        return None
    return Repository(match["repo"], match["revision"], match["file"])


def path_of(name: str) -> Path | None:
    """The path that a setting names, or None if there is no such file or folder."""
    path = os.path.expanduser(name)
    return Path(path) if os.path.exists(path) else None  # Path.exists raises on names that no file can have


def model_name(settings: Settings) -> str:
    """The model in use, as ORPHEUS_MODEL would name it."""
    return settings.model or (REAL_MODEL if gpu_at_hand() else EMBEDDED)


def codec_name(settings: Settings) -> str:
    """The codec in use, as ORPHEUS_CODEC would name it; by default the one the model was trained with."""
    if settings.codec:
        return settings.codec
    return EMBEDDED if model_name(settings) == EMBEDDED else REAL_CODEC


def gpu_at_hand() -> bool:
    """Whether llama.cpp, as installed here, can use a GPU, which makes Orpheus-3B the default model.

    SetupError if llama.cpp is installed but does not load.
    """
    try:
        from orpheus import llamacpp
    except ModuleNotFoundError:
        return _torch_sees_gpu()  # a machine with tier 2 alone
    return llamacpp.gpu_available()


def _torch_sees_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def find_model(settings: Settings) -> Path:
    """The GGUF file, fetched if ORPHEUS_MODEL names a repository; a cached copy needs no network. WeightsError."""
    name = model_name(settings)
    if name == EMBEDDED:
        return embedded.MODEL
    path = path_of(name)
    if path is None:
        repository = parse_repository(name)
        if repository is None or name.startswith((".", "/", "~")):
            raise WeightsError(
                f"ORPHEUS_MODEL={name!r} is not a file here. Give the path of a GGUF file, owner/repo, "
                f"or '{EMBEDDED}'."
            )
        path = _fetch(repository, repository.file or _only_gguf(repository, settings), settings)
    check_gguf(path)
    return path


def find_codec(settings: Settings) -> Path:
    """The folder of a SNAC checkpoint (config.json and pytorch_model.bin), fetched as in `find_model`. WeightsError."""
    name = codec_name(settings)
    if name == EMBEDDED:
        return embedded.CODEC
    path = path_of(name)
    if path is None:
        repository = parse_repository(name)
        if repository is None or repository.file or name.startswith((".", "/", "~")):
            raise WeightsError(
                f"ORPHEUS_CODEC={name!r} is not a folder here. Give a folder with {' and '.join(CODEC_FILES)}, "
                f"owner/repo such as {REAL_CODEC}, or '{EMBEDDED}'."
            )
        fetched = [_fetch(repository, file, settings, "ORPHEUS_CODEC") for file in CODEC_FILES]
        path = fetched[0].parent
    for file in CODEC_FILES:
        if not (path / file).is_file():
            raise WeightsError(f"ORPHEUS_CODEC={name!r} has no {file}: it is not a SNAC checkpoint's folder.")
    return path


def is_repository(name: str) -> bool:
    """Whether a setting names a repository of the hub."""
    return name != EMBEDDED and path_of(name) is None and parse_repository(name) is not None


def commit_of(name: str, setting: str, settings: Settings) -> str:
    """The commit that a repository is at, from the hub. WeightsError if the hub does not say."""
    repository = parse_repository(name)
    assert repository is not None
    from huggingface_hub import HfApi

    with _clear_errors(repository, setting):
        api = HfApi(token=_token(settings))
        return str(api.model_info(repository.id, revision=repository.revision, timeout=20).sha)


def is_kept(name: str) -> bool:
    """Whether the hub's cache on this disk holds a copy of a repository, or a part of one."""
    repository = parse_repository(name)
    from huggingface_hub import constants, file_download

    folder = file_download.repo_folder_name(repo_id=repository.id if repository else "", repo_type="model")
    return (Path(constants.HF_HUB_CACHE) / folder / "snapshots").is_dir()


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


def _only_gguf(repository: Repository, settings: Settings) -> str:
    """The GGUF of a repository named without a file: the one with the repository's name, or its only one."""
    repository_name = repository.id.split("/")[1]
    if repository_name.endswith(".gguf"):
        return repository_name
    from huggingface_hub import HfApi

    try:
        with _clear_errors(repository, "ORPHEUS_MODEL"):
            info = HfApi(token=_token(settings)).model_info(repository.id, revision=repository.revision)
        files = [sibling.rfilename for sibling in info.siblings or ()]
    except WeightsError:
        if not (files := _kept_files(repository)):
            raise
    found = [file for file in files if file.endswith(".gguf")]
    if len(found) == 1:
        return found[0]
    if not found:
        raise WeightsError(f"{repository.id} has no GGUF file. Set ORPHEUS_MODEL to a repository with one.")
    raise WeightsError(
        f"{repository.id} has {len(found)} GGUF files. Name one: ORPHEUS_MODEL={repository.id}:{found[0]}"
    )


def _kept_files(repository: Repository) -> list[str]:
    """The files that the cache holds of a repository at its revision."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(repository.id, revision=repository.revision, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError):
        return []
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))


def _fetch(repository: Repository, file: str, settings: Settings, setting: str = "ORPHEUS_MODEL") -> Path:
    """One file of a repository, from the cache or the hub; huggingface_hub shows progress and resumes downloads.

    A cached copy is used as it is, so that a voice does not change because somebody pushed to its repository. Another
    revision is chosen with @.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    with _clear_errors(repository, setting, file):
        kept = try_to_load_from_cache(repository.id, file, revision=repository.revision)
        if isinstance(kept, str):
            return Path(kept)
        return Path(
            hf_hub_download(repository.id, file, revision=repository.revision, token=_token(settings))
        )


def _token(settings: Settings) -> str | None:
    return settings.hf_token.get_secret_value() if settings.hf_token else None


@contextmanager
def _clear_errors(repository: Repository, setting: str, file: str | None = None) -> Iterator[None]:
    """Turn whatever huggingface_hub raises into a WeightsError of one sentence."""
    try:
        yield
    except Exception as error:
        raise WeightsError(_hub_sentence(error, repository, setting, file)) from error


def _hub_sentence(error: Exception, repository: Repository, setting: str, file: str | None) -> str:
    from huggingface_hub import errors as hub

    repo = repository.id
    at = f" at revision {repository.revision!r}" if repository.revision else ""
    match error:
        case hub.GatedRepoError():
            return (
                f"{repo} is gated: accept its terms on its Hugging Face page and set HF_TOKEN to a token "
                "of that account."
            )
        case hub.RepositoryNotFoundError():
            return (
                f"{setting} names {repo!r}, which is neither a path here nor a repository that you can "
                "access: check the spelling, or set HF_TOKEN if it is private."
            )
        case hub.RevisionNotFoundError():
            return f"{repo} has no revision {repository.revision!r}: name a branch, tag or commit of it."
        case hub.HFValidationError():
            return f"{setting} names {repo!r}, which is no valid repository name: write owner/repo."
        case hub.EntryNotFoundError() if not isinstance(error, hub.LocalEntryNotFoundError):
            return f"{repo} has no file {file!r}{at}: name one after a colon, {setting}={repo}:FILE."
        case hub.HfHubHTTPError(response=response) if response is not None:
            return f"The Hugging Face hub answered {response.status_code} for {repo}: try again, or check HF_TOKEN."
        case _:  # no network, no name server, a proxy; or a full disk
            return (
                f"The Hugging Face hub cannot be reached to fetch {repo} ({type(error).__name__}): check the "
                f"network and the disk, or set {setting} to a local path or to '{EMBEDDED}'."
            )
