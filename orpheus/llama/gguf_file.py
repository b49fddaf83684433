"""What the head of a GGUF says, and where its tensors lie; and a head written anew. Touches no tensor's numbers.

Not llama.cpp's own reader: weights are also fetched where a build for a GPU does not load, for want of its driver.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from orpheus.errors import WeightsError

VERSIONS = (2, 3)  # which differ in nothing here
MAX_HEAD_BYTES = 1 << 28  # of a damaged file no more is looked at; Llama 3's head has 8 MB
ALIGNMENT = 32  # where the file declares no other
_STRING, _ARRAY, _UINT32, _UINT64 = 8, 9, 4, 10
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

_LENGTH = struct.Struct("<Q")  # before each string
_ENDLESS = "its head does not end"
_MALFORMED = (OSError, ValueError, LookupError, ArithmeticError, struct.error)

Value = int | float | bool | str


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies."""

    name: str
    shape: tuple[int, ...]  # the length of a row first
    type: int  # ggml's
    start: int  # in the file
    size: int  # bytes to the next one, padding and all

    @property
    def row_bytes(self) -> int:
        """Of a matrix with more rows than there can be bytes of padding."""
        return self.size // self.shape[1]


@dataclass(frozen=True)
class GgufFile:
    """The head of one file."""

    path: Path
    values: Mapping[str, Value]  # all but arrays
    fields: Mapping[str, bytes]  # each key with its value as the file has it
    tensors: tuple[Tensor, ...]  # in the order of the file
    alignment: int

    @classmethod
    def read(cls, path: Path) -> GgufFile:
        """WeightsError if it cannot be read."""
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _Reader(content).head(path)
        except _MALFORMED as error:
            raise _unreadable(path, error) from error

    @property
    def tokens(self) -> list[str]:
        """The vocabulary; empty if there is none. WeightsError if it cannot be read."""
        field = self.fields.get("tokenizer.ggml.tokens")
        try:
            return [] if field is None else _Reader(field).texts()
        except _MALFORMED as error:
            raise _unreadable(self.path, error) from error

    def tensor(self, name: str) -> Tensor | None:
        return next((tensor for tensor in self.tensors if tensor.name == name), None)


def _unreadable(path: Path, error: Exception) -> WeightsError:
    return WeightsError(f"{path} cannot be read as a GGUF ({error}): fetch it again.")


class _Reader:
    def __init__(self, content: mmap.mmap | bytes) -> None:
        self._content = content
        self._end = min(len(content), MAX_HEAD_BYTES)
        self.at = 0

    def head(self, path: Path) -> GgufFile:
        magic, version, tensors, fields = struct.unpack("<4sIQQ", self.skip(24))
        if magic != b"GGUF" or version not in VERSIONS:
            raise ValueError("another format or version")
        values: dict[str, Value] = {}
        raw: dict[str, bytes] = {}
        for _ in range(fields):
            start = self.at
            key = self.text()
            value = self._value(self._number("I"))
            if value is not None:
                values[key] = value
            raw[key] = self._content[start : self.at]
        found = [
            (
                self.text(),
                [self._number("Q") for _ in range(self._number("I"))],
                *struct.unpack("<IQ", self.skip(12)),
            )
            for _ in range(tensors)
        ]
        alignment = int(values.get("general.alignment", ALIGNMENT))
        data = padded(self.at, alignment)
        found.sort(key=lambda tensor: tensor[3])
        ends = [*(data + start for *_, start in found[1:]), len(self._content)]
        placed = tuple(
            Tensor(name, tuple(shape), kind, data + start, end - data - start)
            for (name, shape, kind, start), end in zip(found, ends, strict=True)
        )
        if any(tensor.size < 0 for tensor in placed):
            raise ValueError("it ends before its tensors do")
        return GgufFile(path, values, raw, placed, alignment)

    def text(self) -> str:
        return self.skip(self._number("Q")).decode("utf-8", "replace")

    def texts(self) -> list[str]:
        """Of a field that is an array of strings."""
        self.text()  # the key
        _, _, count = struct.unpack("<IIQ", self.skip(16))  # the kinds of the value and of its items
        return [self._content[start:end].decode("utf-8", "replace") for start, end in self._spans(count)]

    def _spans(self, count: int) -> Iterator[tuple[int, int]]:
        """Where each of so many strings lies, in a loop of its own: a vocabulary with its merges has 440,000."""
        content, at, end = self._content, self.at, self._end
        size_of = _LENGTH.unpack_from
        for _ in range(count):
            start = at + _LENGTH.size
            at = start + size_of(content, at)[0]
            if at > end:
                raise ValueError(_ENDLESS)
            yield start, at
        self.at = at

    def skip(self, count: int) -> bytes:
        """The next bytes. ValueError past the end."""
        start = self.at
        self.at += count
        if self.at > self._end:
            raise ValueError(_ENDLESS)
        return self._content[start : self.at]

    def _number(self, form: str) -> int:
        (number,) = struct.unpack(f"<{form}", self.skip(struct.calcsize(form)))
        return int(number)

    def _value(self, kind: int) -> Value | None:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            kind, count = self._number("I"), self._number("Q")
            if kind == _STRING:
                for _ in self._spans(count):
                    pass
            else:
                self.skip(count * struct.calcsize(_NUMBERS[kind]))
            return None
        form = f"<{_NUMBERS[kind]}"
        return struct.unpack(form, self.skip(struct.calcsize(form)))[0]  # type: ignore[no-any-return]


def padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def field(key: str, value: int | str, *, wide: bool = False) -> bytes:
    """A key with its value, a string or an unsigned integer, of 64 bits if `wide`."""
    if isinstance(value, str):
        return _text(key) + struct.pack("<I", _STRING) + _text(value)
    kind, form = (_UINT64, "Q") if wide else (_UINT32, "I")
    return _text(key) + struct.pack(f"<I{form}", kind, value)


def head(fields: Iterable[bytes], tensors: Iterable[Tensor], alignment: int) -> bytes:
    """The head of a file of these fields and tensors, padded. The tensors are to follow in this order, each padded.

    Of a tensor its name, shape, type and size are looked at.
    """
    fields, tensors = list(fields), list(tensors)
    told = [struct.pack("<4sIQQ", b"GGUF", VERSIONS[-1], len(tensors), len(fields)), *fields]
    offset = 0
    for tensor in tensors:
        dimensions = len(tensor.shape)
        told.append(_text(tensor.name) + struct.pack(f"<I{dimensions}Q", dimensions, *tensor.shape))
        told.append(struct.pack("<IQ", tensor.type, offset))
        offset += padded(tensor.size, alignment)
    whole = b"".join(told)
    return whole + bytes(padded(len(whole), alignment) - len(whole))


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
