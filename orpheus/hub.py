"""The Hugging Face hub: `owner/repo[@revision][:file]` → files in its cache on this disk, fetched if they are missing.

huggingface_hub shows progress, resumes and checks what it fetches, but waits minutes for a hub that does not answer:
here every request ends once nothing has arrived for STALL_S. Every failure is a WeightsError of one sentence.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from orpheus.errors import WeightsError
from orpheus.settings import EMBEDDED, Settings

STALL_S = 30.0  # without a byte from the hub
REPORT_S = 5.0  # without one, after which the log says what is being waited for
POLL_S = 0.1

_REPOSITORY = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?(:(?P<file>[\w./ -]+))?", re.ASCII
)

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Repository:
    """`owner/repo[@revision][:file]`, parsed."""

    id: str
    revision: str | None
    file: str | None


def parse(name: str) -> Repository | None:
    """The repository that a setting names, or None if it does not have that form."""
    match = _REPOSITORY.fullmatch(name)
    if match is None or ".." in name:
        return None
    return Repository(match["repo"], match["revision"], match["file"])


def fetch(
    repository: Repository,
    file: str,
    settings: Settings,
    setting: str,
    sized: Callable[[int], None] = lambda size: None,
) -> Path:
    """One file of a repository, from the cache or the hub. `setting` is what errors name.

    A cached copy is used as it is, so that a voice does not change because somebody pushed to its repository. Another
    revision is chosen with @. Before anything is fetched, its size is told and compared with the disk, and `sized` gets
    it in bytes; what it raises is passed on. Afterwards the file is compared with the hub's SHA-256.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    with _clear_errors(repository, setting, file):
        kept = try_to_load_from_cache(repository.id, file, revision=repository.revision)
        if isinstance(kept, str):
            return Path(kept)
        size = _while_it_answers(repository, lambda _: _size_of(repository, file, settings))
    if size is not None:
        _check_disk(repository, file, size, setting)
        sized(size)
    with _clear_errors(repository, setting, file):
        path = _while_it_answers(
            repository,
            lambda bar: Path(
                hf_hub_download(
                    repository.id,
                    file,
                    revision=repository.revision,
                    token=_token(settings),
                    tqdm_class=bar,
                )
            ),
        )
    _check_hash(path, repository, setting)
    return path


def _size_of(repository: Repository, file: str, settings: Settings) -> int | None:
    """Bytes of a file of the hub, if it tells."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repository.id, file, revision=repository.revision)
    return get_hf_file_metadata(url, token=_token(settings)).size


def _check_disk(repository: Repository, file: str, size: int, setting: str) -> None:
    """Tell what is fetched, how large it is and where to. WeightsError if the disk has no room for it."""
    folder = _cache_of(repository).parent
    there = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(there).free
    # What an earlier try has left is resumed, and takes no more room.
    missing = size - min(size, _bytes_in(_cache_of(repository), "*.incomplete"))
    log.info(
        "fetching %s of %s from the Hugging Face hub: %s into %s, where %s are free",
        file,
        repository.id,
        gb(size) if missing == size else f"the remaining {gb(missing)} of {gb(size)}",
        folder,
        gb(free),
    )
    if missing > free:
        raise WeightsError(
            f"{file} of {repository.id} takes {gb(missing)}, and {folder} has {gb(free)} free: free some, set HF_HOME "
            f"to a folder with more, or set {setting} to something smaller, such as '{EMBEDDED}'."
        )


def _check_hash(path: Path, repository: Repository, setting: str) -> None:
    """WeightsError, and the file removed, if it is not what the hub has. The cache names large files by their hash."""
    blob = path.resolve()
    if not re.fullmatch("[0-9a-f]{64}", blob.name):
        return
    with blob.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != blob.name:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise WeightsError(
            f"{path.name} of {repository.id} arrived damaged (sha256 {found[:16]}, on the hub {blob.name[:16]}) and was "
            f"removed: start again, or set {setting} to a local path."
        )


def gb(size: int) -> str:
    """Bytes, as people read them."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def list_files(repository: Repository, settings: Settings, setting: str) -> list[str]:
    """The files of a repository, by the hub, or by the cache if the hub does not say."""
    try:
        return [sibling.rfilename for sibling in _info(repository, settings, setting).siblings or ()]
    except WeightsError:
        if not (files := _kept_files(repository)):
            raise
        return files


def commit_of(repository: Repository, settings: Settings, setting: str) -> str:
    """The commit that a repository is at, from the hub."""
    return str(_info(repository, settings, setting).sha)


def is_kept(repository: Repository) -> bool:
    """Whether the cache holds a copy of a repository, or a part of one."""
    return (_cache_of(repository) / "snapshots").is_dir()


def _info(repository: Repository, settings: Settings, setting: str) -> Any:
    from huggingface_hub import HfApi

    api = HfApi(token=_token(settings))
    with _clear_errors(repository, setting):
        return _while_it_answers(
            repository, lambda _: api.model_info(repository.id, revision=repository.revision)
        )


def _cache_of(repository: Repository) -> Path:
    from huggingface_hub import constants, file_download

    folder = file_download.repo_folder_name(repo_id=repository.id, repo_type="model")
    return Path(constants.HF_HUB_CACHE) / folder


def _kept_files(repository: Repository) -> list[str]:
    """The files that the cache holds of a repository at its revision."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(repository.id, revision=repository.revision, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError):
        return []
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))


def _token(settings: Settings) -> str | None:
    return settings.hf_token.get_secret_value() if settings.hf_token else None


class _Stalled(Exception):
    """The hub sent nothing for STALL_S."""


def _while_it_answers(repository: Repository, call: Callable[[type[Any]], T]) -> T:
    """The result of `call`, which gets a class of progress bars; _Stalled once nothing has arrived for STALL_S.

    The call runs in a thread that cannot be stopped, only left behind: it does not delay the end of the process.
    """
    from huggingface_hub import get_session
    from huggingface_hub.utils.tqdm import tqdm

    updates = 0

    class Bar(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            nonlocal updates
            updates += 1
            return super().update(n)  # type: ignore[no-any-return]

    responses: list[Any] = []
    session = get_session()
    hooks = session.event_hooks
    session.event_hooks = {**hooks, "response": [*hooks.get("response", ()), responses.append]}

    def progress() -> tuple[int, int, int, int]:
        """Grows with every byte: of an answer, of a faster protocol, of another process that fetches the same.

        The text of an error is none: a proxy may send it without end.
        """
        received = sum(response.num_bytes_downloaded for response in responses if response.is_success)
        return len(responses), received, updates, _bytes_in(_cache_of(repository))

    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call(Bar))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="orpheus-hub", daemon=True).start()
    seen, since_s, report_s = progress(), time.monotonic(), REPORT_S
    try:
        while True:
            with contextlib.suppress(TimeoutError):
                return outcome.result(POLL_S)
            if outcome.done():
                return outcome.result()  # its own TimeoutError
            quiet_s = time.monotonic() - since_s
            if (now := progress()) != seen:
                seen, since_s, report_s = now, time.monotonic(), REPORT_S
            elif quiet_s >= STALL_S:
                raise _Stalled
            elif quiet_s >= report_s:
                log.warning("nothing from the Hugging Face hub for %.0f s (%s)", quiet_s, repository.id)
                report_s *= 2
    finally:
        session.event_hooks = hooks


def _bytes_in(folder: Path, pattern: str = "*") -> int:
    """The size of what a repository's cache holds so far."""
    total = 0
    for path in (folder / "blobs").glob(pattern):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total


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
        case _Stalled():
            return (
                f"The Hugging Face hub sent nothing for {STALL_S:g} s while {repo} was fetched: check the network or "
                f"a proxy and start again, which resumes, or set {setting} to a local path or to '{EMBEDDED}'."
            )
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
