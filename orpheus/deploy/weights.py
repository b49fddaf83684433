"""The weights of all apps in the Volume, which holds a Hugging Face cache: fetched, checked, found.

The Volume is simply the folder HF_HUB_CACHE names. The cache names each file after the digest the hub gave for it, so
a file can be checked against its own name.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orpheus import hub, weights
from orpheus.deploy.settings import HF_SECRET
from orpheus.errors import WeightsError
from orpheus.llama import trimmed_head
from orpheus.settings import EMBEDDED, Settings

SHA256, SHA1 = 64, 40  # hex digits of the digest of a large file, and of a small one as git computes it
READ_BYTES = 1 << 24
# What vLLM reads of a repository; the same weights in other formats would double what is fetched.
LLM_FILES = (".safetensors", ".json", ".jinja", ".txt", ".model")
FORBIDDEN = 403


def fetch_model(settings: Settings) -> str:
    """Put the GGUF into the cache unless it is there, with its trimmed head, and check both. Returns a summary.

    A broken connection resumes where it broke; a lost container starts the file again.
    """
    name = weights.model_name(settings)
    with _gate_explained(name, settings):
        file = weights.find_model(settings)
    told = _checked("model", name, [file])
    if settings.unconstrained:
        return told
    trimmed = trimmed_head.find_or_make_checked(file)  # here, as containers that serve cannot write
    return told if trimmed is None else f"{told}; trimmed head: {trimmed.path.stat().st_size / 1e6:.0f} MB"


def fetch_codec(settings: Settings) -> str:
    """Like `fetch_model`, for the SNAC checkpoint."""
    name = weights.codec_name(settings)
    with _gate_explained(name, settings):
        folder = weights.find_codec(settings)
    return _checked("codec", name, [folder / name for name in weights.CODEC_FILES])


def fetch_llm(settings: Settings) -> str:
    """Like `fetch_model`, for the repository that vLLM serves: ORPHEUS_LLM_MODEL."""
    repository = _llm_repository(settings)
    with _gate_explained(repository.id, settings):
        listed = hub.list_files(repository, settings, "ORPHEUS_LLM_MODEL")
        names = [name for name in listed if name.endswith(LLM_FILES) and "/" not in name]
        if not any(name.endswith(LLM_FILES[0]) for name in names):
            raise WeightsError(
                f"{repository.id} has no {LLM_FILES[0]} files, which vLLM reads: set ORPHEUS_LLM_MODEL to a repository "
                "that has."
            )
        files = [hub.fetch(repository, name, settings, "ORPHEUS_LLM_MODEL") for name in names]
    return _checked("LLM", str(settings.llm_model), files)


def find_llm(settings: Settings) -> None:
    """WeightsError unless what vLLM serves is in the Volume: a server that may not ask the hub should not look there."""
    repository = _llm_repository(settings)
    if not hub.is_kept(repository):
        raise WeightsError(f"{repository.id} is not in the cache.")


def _llm_repository(settings: Settings) -> hub.Repository:
    repository = hub.parse(settings.llm_model or "")
    if repository is None:
        raise WeightsError(
            f"ORPHEUS_LLM_MODEL={settings.llm_model!r} is no Hugging Face repository: write owner/repo."
        )
    return repository


@contextmanager
def _gate_explained(name: str, settings: Settings) -> Iterator[None]:
    """A WeightsError of a repository that wants its licence accepted says how that is done, step by step."""
    try:
        yield
    except WeightsError as error:
        repository = hub.parse(name)
        if repository is None or not _is_forbidden(error):
            raise
        why = "the token has no access to it" if settings.hf_token else "there is no HF_TOKEN"
        raise WeightsError(
            f"{repository.id} is gated, and {why}. Three steps:\n"
            f"  1. accept its licence at https://huggingface.co/{repository.id}\n"
            "  2. make a token at https://huggingface.co/settings/tokens that may read gated repositories\n"
            f"  3. store it: modal secret create {HF_SECRET} --force HF_TOKEN=hf_…\n"
            "Then run the same command again. HF_TOKEN in .env does instead of the third."
        ) from error


def _is_forbidden(error: BaseException) -> bool:
    """Whether the hub refused a repository that exists, for want of an accepted licence or of a right of the token."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, GatedRepoError) or (
            isinstance(cause, HfHubHTTPError) and cause.response.status_code == FORBIDDEN
        ):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


@contextmanager
def in_volume(fetch: str) -> Iterator[None]:
    """For containers that serve and never fetch: a WeightsError of the body says which command fetches the weights."""
    try:
        yield
    except WeightsError as error:
        raise WeightsError(f"The weights are not in the Volume: run `{fetch}`. ({error})") from error


def _checked(what: str, name: str, files: list[Path]) -> str:
    if name == EMBEDDED:
        return f"{what}: embedded, nothing to fetch"
    started = time.monotonic()
    for file in files:
        check_digest(file)
    size = sum(file.stat().st_size for file in files)
    return f"{what}: {name}, {size / 1e6:.0f} MB, checked in {time.monotonic() - started:.1f} s"


def check_digest(file: Path) -> None:
    """Raise WeightsError if a file of the cache is not what its digest says, and remove it so it is fetched again."""
    blob = file.resolve()
    if len(blob.name) == SHA256:
        digest = hashlib.sha256()
    elif len(blob.name) == SHA1:
        digest = hashlib.sha1(b"blob %d\0" % blob.stat().st_size)
    else:
        raise WeightsError(f"{file} is not in a Hugging Face cache: it cannot be checked.")
    with blob.open("rb") as content:
        while part := content.read(READ_BYTES):
            digest.update(part)
    if digest.hexdigest() != blob.name:
        blob.unlink()
        file.unlink(missing_ok=True)
        raise WeightsError(f"{file.name} arrived damaged and was removed: run the same command again.")
