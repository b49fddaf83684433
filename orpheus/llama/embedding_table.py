"""The embeddings of a GGUF's tokens as llama.cpp makes them of its rows, for prompts that go in as embeddings."""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from orpheus import llamacpp
from orpheus.llama.trimmed_head import TrimmedHead

_F32 = 0  # ggml's type


class _TypeTraits(ctypes.Structure):
    """The beginning of ggml's `ggml_type_traits`."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("block_size", ctypes.c_int64),
        ("block_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )


class EmbeddingTable:
    """Rows of the embedding matrix in a model's original file. Any thread may read them."""

    def __init__(self, trimmed: TrimmedHead, rows: int, *, mapped: bool) -> None:
        """`rows` of them; `mapped` from the file, or read into memory now."""
        shape = (rows, trimmed.row_bytes)
        if mapped:
            self._rows: NDArray[np.uint8] = np.memmap(
                trimmed.source, np.uint8, "r", trimmed.source_rows_at, shape
            )
        else:
            read = np.fromfile(
                trimmed.source, np.uint8, rows * trimmed.row_bytes, offset=trimmed.source_rows_at
            )
            self._rows = read.reshape(shape)
        self._width = trimmed.width
        self._to_float = None
        if trimmed.type != _F32:
            library = llamacpp.llama_cpp.llama_cpp._lib  # ggml's symbols are found through its handle
            library.ggml_get_type_traits.argtypes = [ctypes.c_int]
            library.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
            # What llama.cpp itself dequantizes with: NumPy's arithmetic may differ in the last bit.
            self._to_float = library.ggml_get_type_traits(trimmed.type).contents.to_float

    def read(self, ids: NDArray[np.int32], out: NDArray[np.float32]) -> None:
        """The embeddings of `ids` (n,) into the first rows of `out` (n or more, width), which is contiguous."""
        rows = self._rows[ids]  # a copy, of rows one after the other
        if self._to_float is None:
            out[: len(ids)] = rows.view(np.float32)
        else:
            self._to_float(rows.ctypes.data, out.ctypes.data, len(ids) * self._width)
