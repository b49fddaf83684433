"""A copy of a model's file without the rows of its output matrix that speech never needs.

Of the 156,940 tokens of the published vocabulary 28,680 can be generated: the codes of audio and the end of speech. The
other rows of the output matrix are an eighth of the bytes that each step reads, and most of the logits it copies. The
copy holds the rows that are needed and every other tensor, byte for byte, and no tokenizer. llama.cpp wants as many
embeddings as outputs, so a prompt, which is text, goes in as embeddings that are read from the original
(`EmbeddingTable`), which also tokenizes. Logits have the same bits on a CPU; on a GPU a kernel may add in another order.

It is made once, by whatever fetches the weights or first starts tier 1, in a folder beside the original, and again if
that changes. Where it cannot be, a line of the log says why, and the whole model is used. A file in the place of the
folder declines it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orpheus import hub
from orpheus.errors import WeightsError
from orpheus.llama.gguf_file import GgufFile, Tensor, field, head, padded
from orpheus.vocabulary import Vocabulary
from orpheus.weights import Lora, identity

FOLDER = "trimmed-head"  # beside the original
FORMAT = 1  # one more whenever a copy is made otherwise than before
MOST_KEPT = 0.75  # of the rows: where more are needed, a copy would gain little
EMBEDDINGS, OUTPUT = "token_embd.weight", "output.weight"
_ENDS = ("token_embd.", "output.")  # of the model: what has a row for each token
# What the input of these is: the row of the token and nothing more (llama.cpp, src/models). Llama 3.2, Qwen 3 and LFM 2.
ARCHITECTURES = ("llama", "qwen3", "lfm2")
CHUNK_BYTES = 1 << 24
LOCK = "lock"  # in the folder; whoever writes there holds it
_NAME = re.compile(
    r"(?P<stem>(?P<original>.+)\.[0-9a-f]{16})\.(trimmed|sha256|\w+\.(?P<unfinished>incomplete))"
)
_FIRST_ID, _SOURCE_ROWS, _BYTES = "orpheus.first_id", "orpheus.source_rows_at", "orpheus.file_bytes"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrimmedHead:
    """A copy, and what of the original goes with it."""

    path: Path
    first_id: int  # the token of the first row, by the original's vocabulary
    rows: int
    source: Path  # the original
    source_rows_at: int  # bytes before its embeddings
    row_bytes: int
    width: int  # of a row, in numbers
    type: int  # of the numbers, ggml's

    def is_current(self) -> bool:
        """Whether the original is still what was copied."""
        try:
            return _place(self.source) == self.path
        except OSError:
            return False


def find(source: Path) -> TrimmedHead | None:
    """The copy of `source` as it is now, if there is one."""
    try:
        path = _place(source.resolve())
        if not path.is_file():
            return None
        copy = GgufFile.read(path)
        embeddings = copy.tensor(EMBEDDINGS)
        if embeddings is None or copy.values[_BYTES] != path.stat().st_size:
            return None
        return TrimmedHead(
            path,
            int(copy.values[_FIRST_ID]),
            embeddings.shape[1],
            source.resolve(),
            int(copy.values[_SOURCE_ROWS]),
            embeddings.row_bytes,
            embeddings.shape[0],
            embeddings.type,
        )
    except (KeyError, OSError, WeightsError):
        return None


def find_or_make(source: Path, lora: Lora | None = None) -> TrimmedHead | None:
    """The copy of `source`, made unless it is there; None, and why in the log, where the whole model has to be used.

    Making it reads and writes all of the file once.
    """
    try:
        if lora is not None and _changes_ends(lora.path):
            log.info("%s changes embeddings or outputs: each step reads all rows of them", lora.path)
            return None
        if (found := find(source)) is not None:
            return found
        path = _place(source.resolve())  # before its head is read, so that a change after that is noticed
        original = GgufFile.read(source.resolve())
        kept = _kept(original)
    except (OSError, WeightsError):
        return None  # what loads the file next says what is wrong with it
    if kept is None:
        return None
    try:
        with _turn(path.parent):
            if (found := find(source)) is not None:  # another process made it meanwhile
                return found
            _make(original, kept, path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        log.log(
            logging.WARNING if full else logging.INFO,
            "each step reads all rows of %s, as a copy without those that speech never needs cannot be written to %s: %s%s",
            source.name,
            path.parent,
            error.strerror or error,
            ". Free some of the disk" if full else "",
        )
        return None
    return find(source)


def find_or_make_checked(source: Path, lora: Lora | None = None) -> TrimmedHead | None:
    """Like `find_or_make`, with a copy that is damaged made again. Reads all of it."""
    found = find_or_make(source, lora)
    if found is None or is_intact(found):
        return found
    log.warning("%s is damaged: it is made again", found.path)
    return find_or_make(source, lora)


def is_intact(trimmed: TrimmedHead) -> bool:
    """Whether the copy still has the SHA-256 that was noted when it was made; removed if not. Reads all of it."""
    with contextlib.suppress(OSError):
        with trimmed.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if _digest_path(trimmed.path).read_bytes().startswith(digest.encode()):
            return True
    with contextlib.suppress(OSError):
        trimmed.path.unlink()
    return False


def _place(source: Path) -> Path:
    """The copy's path, another one for every content of `source`."""
    content = identity(source)
    # The hub's cache names files by their hash. The times of those in a Volume may differ from container to container.
    if content != source.name:
        content += f"|{source.stat().st_mtime_ns}"
    told = hashlib.sha256(f"{FORMAT}|{content}".encode()).hexdigest()[:16]
    # Not .gguf: what looks for models is to find the original.
    return source.parent / FOLDER / f"{source.name}.{told}.trimmed"


def _digest_path(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _changes_ends(adapter: Path) -> bool:
    return any(tensor.name.startswith(_ENDS) for tensor in GgufFile.read(adapter).tensors)


def _kept(original: GgufFile) -> range | None:
    """The ids that speech needs, from the first to the last; None if nothing is gained. WeightsError: not an Orpheus."""
    tokens = original.tokens
    if (
        not tokens
        or original.tensor(EMBEDDINGS) is None
        or original.values.get("general.architecture") not in ARCHITECTURES
        or original.values.get("split.count", 1) not in (0, 1)
    ):
        return None
    for tensor in original.tensors:
        if tensor.name.startswith(_ENDS) and (
            tensor.name not in (EMBEDDINGS, OUTPUT)
            or tensor.shape[1:] != (len(tokens),)
            or tensor.size - tensor.row_bytes * len(tokens) >= original.alignment
        ):
            return None  # something that goes with each row, or that is not known
    vocabulary = Vocabulary.from_tokens(tokens, original.path.name)
    needed = [vocabulary.end_of_speech, *(end for ids in vocabulary.code_ids for end in (ids[0], ids[-1]))]
    kept = range(min(needed), max(needed) + 1)
    return kept if len(kept) <= MOST_KEPT * len(tokens) else None


def _make(original: GgufFile, kept: range, path: Path) -> None:
    """Write the copy. OSError if there is no room for it, or no leave, or the original changed meanwhile."""
    tensors = [_trimmed(tensor, kept) for tensor in original.tensors]
    size = sum(padded(tensor.size, original.alignment) for tensor in tensors)
    _remove_stale(path.parent)
    free = shutil.disk_usage(path.parent).free
    log.info(
        "leaving out the rows of %s that speech never needs: a copy of %s in %s, where %s are free",
        original.path.name,
        hub.gb(size),
        path.parent,
        hub.gb(free),
    )
    if size > free:
        raise OSError(errno.ENOSPC, f"it takes {hub.gb(size)}, and {hub.gb(free)} are free")
    began_s = time.monotonic()
    descriptor, unfinished = tempfile.mkstemp(".incomplete", f"{path.stem}.", path.parent)
    digest = hashlib.sha256()
    try:
        with open(descriptor, "wb") as file:
            for part in _contents(original, tensors, kept):
                digest.update(part)
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        if _place(original.path) != path:
            raise OSError(f"{original.path} changed while it was copied")
        os.chmod(unfinished, original.path.stat().st_mode & 0o777)
        _digest_path(path).write_text(f"{digest.hexdigest()}  {path.name}\n")
        os.replace(unfinished, path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
    log.info("%s written in %.1f s", path.name, time.monotonic() - began_s)


@contextlib.contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Alone in the folder, which is made: others wait. A process that is killed lets go."""
    import fcntl  # which Windows, from where one may deploy, does not have

    folder.mkdir(exist_ok=True)
    with (folder / LOCK).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process is writing to %s: waiting for it", folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass  # no locks on this file system: of several who write at once one may end with the whole model
        yield


def _remove_stale(folder: Path) -> None:
    """Remove what a process left that was killed, and copies of originals that changed or are gone."""
    for path in folder.iterdir():
        name = _NAME.fullmatch(path.name)
        if name is None:
            continue
        original = folder.parent / name["original"]
        with contextlib.suppress(OSError):
            if name["unfinished"] or not original.exists() or _place(original).stem != name["stem"]:
                path.unlink()


def _trimmed(tensor: Tensor, kept: range) -> Tensor:
    """What of a tensor goes into the copy, and where that lies in the original."""
    if tensor.name not in (EMBEDDINGS, OUTPUT):
        return tensor
    return dataclasses.replace(
        tensor,
        shape=(tensor.shape[0], len(kept)),
        start=tensor.start + kept.start * tensor.row_bytes,
        size=len(kept) * tensor.row_bytes,
    )


def _contents(original: GgufFile, tensors: list[Tensor], kept: range) -> Iterator[bytes]:
    """The copy's bytes."""
    embeddings = original.tensor(EMBEDDINGS)
    assert embeddings is not None
    architecture = original.values["general.architecture"]
    vocab_size = f"{architecture}.vocab_size"
    fields = [
        told
        for key, told in original.fields.items()
        if not key.startswith("tokenizer.") and key != vocab_size
    ]
    fields += [
        field("tokenizer.ggml.model", "no_vocab"),
        field(vocab_size, len(kept)),
        field(_FIRST_ID, kept.start),
        field(_SOURCE_ROWS, embeddings.start, wide=True),
    ]
    alignment = original.alignment
    data = sum(padded(tensor.size, alignment) for tensor in tensors)
    size = len(head([*fields, field(_BYTES, 0, wide=True)], tensors, alignment)) + data
    yield head([*fields, field(_BYTES, size, wide=True)], tensors, alignment)
    with original.path.open("rb") as file:
        for tensor in tensors:
            file.seek(tensor.start)
            left = tensor.size
            while left:
                part = file.read(min(left, CHUNK_BYTES))
                if not part:
                    raise OSError(f"{original.path} became shorter while it was read")
                left -= len(part)
                yield part
            yield bytes(padded(tensor.size, alignment) - tensor.size)
