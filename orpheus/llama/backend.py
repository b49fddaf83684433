"""A GGUF file → its vocabulary, its tokenizer and a context that decodes rows of many streams at once.

The only file that touches llama_cpp and its pointers. Knows nothing of streams, slots or HTTP.
Names and traps are those of llama-cpp-python 0.3.36; its structures move with every release.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from orpheus import llamacpp
from orpheus.errors import EngineError, SetupError, WeightsError
from orpheus.llama.batches import NO_KV_SLOT, Row
from orpheus.llamacpp import llama_cpp
from orpheus.vocabulary import Vocabulary
from orpheus.weights import check_gguf

_FLASH_AUTO = -1  # flash attention wherever the backend has it
_KV_TYPES = {"f16": llama_cpp.GGML_TYPE_F16, "q8_0": llama_cpp.GGML_TYPE_Q8_0}


@dataclass(frozen=True)
class ContextOptions:
    """What a context is built with; the reasons stand in settings.py."""

    sequences: int
    sequence_tokens: int
    batch_tokens: int
    outputs: int
    threads: int
    kv_type: Literal["f16", "q8_0"] = "f16"


class Model:
    """Weights and vocabulary; shared by contexts, safe to read from any thread."""

    def __init__(self, path: Path, gpu_layers: int) -> None:
        """Load `path`. WeightsError where it is missing, no GGUF, or speaks no Orpheus."""
        check_gguf(path)
        llamacpp.start()
        self._open = threading.Lock()  # freed weights must not be read: that is no exception but a crash
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        # A build with AMX crashes at its first token (gcc 12, Sapphire Rapids): compiled so, weights stay as they lie.
        params.use_extra_bufts = b"AMX_INT8 = 1" not in llama_cpp.llama_print_system_info()
        self._model: Any = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise WeightsError(
                f"llama.cpp could not load {path}: the file is damaged, of an unknown architecture, or too large "
                "for the memory there is. Fetch it again, or set ORPHEUS_MODEL to another GGUF."
            )
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.n_vocab: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        try:
            self.vocabulary = Vocabulary.from_tokens(
                (
                    llama_cpp.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace")
                    for token in range(self.n_vocab)
                ),
                path.name,
            )
        except WeightsError:
            self.close()
            raise

    def tokenize(self, text: str, *, add_bos: bool, parse_special: bool) -> list[int]:
        """Ids of `text`. `add_bos` adds what the file declares. User-defined tokens are parsed in any case."""
        data = text.encode("utf-8", "replace")
        room = len(data) + 2
        buffer = (llama_cpp.llama_token * room)()
        with self._open:
            count = llama_cpp.llama_tokenize(
                self._loaded(), data, len(data), buffer, room, add_bos, parse_special
            )
        if count < 0:
            raise EngineError(f"llama.cpp could not tokenize a text of {len(data)} bytes.")
        return buffer[:count]

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for; special tokens as their text. Empty for an id outside the vocabulary."""
        if not 0 <= token < self.n_vocab:
            return b""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            with self._open:
                count = llama_cpp.llama_token_to_piece(self._loaded(), token, buffer, size, 0, True)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    @property
    def end_token(self) -> int:
        """The id the file declares to be its end: not the one speech ends with."""
        with self._open:
            return int(llama_cpp.llama_vocab_eos(self._loaded()))

    def close(self) -> None:
        """Free the weights. Idempotent; a call of another thread under way is waited for."""
        with self._open:
            if self._model:
                llama_cpp.llama_model_free(self._model)
                self._model = None

    def _loaded(self) -> Any:
        if not self._model:
            raise EngineError("The engine is closed.")
        return self._vocab


class Context:
    """The KV cache of all streams and one `llama_decode` a step. Used from one thread."""

    def __init__(self, model: Model, options: ContextOptions) -> None:
        """SetupError where llama.cpp refuses the options or has not the memory."""
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = options.sequences * options.sequence_tokens
        params.n_batch = params.n_ubatch = options.batch_tokens
        params.n_seq_max = options.sequences
        params.n_outputs_max = options.outputs  # 0 would reserve logits of the whole vocabulary a batch token
        params.n_threads = params.n_threads_batch = options.threads
        params.flash_attn_type = _FLASH_AUTO
        params.type_k = params.type_v = _KV_TYPES[options.kv_type]
        params.kv_unified = False  # with one cache for all, each stream would read past the others' tokens
        params.no_perf = True
        self._model = model
        self._context: Any = llama_cpp.llama_init_from_model(model._model, params)
        if not self._context:
            raise SetupError(
                f"llama.cpp could not make a context of {options.sequences} streams × {options.sequence_tokens} "
                "tokens: lower ORPHEUS_STREAMS or ORPHEUS_CONTEXT_TOKENS, or set ORPHEUS_KV_TYPE=f16 where the "
                "device has no flash attention."
            )
        self._memory = llama_cpp.llama_get_memory(self._context)
        self.sequences = options.sequences
        self._batch_tokens = options.batch_tokens
        self._make_batch(options.batch_tokens)
        self._logits = np.empty((0, model.n_vocab), np.float32)
        self._logits_at = 0

    def _make_batch(self, size: int) -> None:
        # Our own arrays instead of llama_batch_init's: five vectorised writes a step, not five a token.
        self._token = np.zeros(size, np.int32)
        self._pos = np.zeros(size, np.int32)
        self._seq = np.zeros(size, np.int32)
        self._wanted = np.zeros(size, np.int8)
        self._one = np.ones(size, np.int32)
        self._seq_pointers = (self._seq.ctypes.data + 4 * np.arange(size)).astype(np.uintp)
        batch = llama_cpp.llama_batch()
        fields: dict[str, Any] = {name: kind for name, kind, *_ in llama_cpp.llama_batch._fields_}
        for name, array in (
            ("token", self._token),
            ("pos", self._pos),
            ("n_seq_id", self._one),
            ("seq_id", self._seq_pointers),
            ("logits", self._wanted),
        ):
            setattr(batch, name, ctypes.cast(array.ctypes.data, fields[name]))
        self._batch = batch

    def decode(self, rows: Sequence[Row]) -> int:
        """One `llama_decode` of `rows`, sorted by sequence. The GIL is free meanwhile.

        0: done. NO_KV_SLOT: nothing was changed. Raises EngineError on a fatal status: the context is lost.
        """
        tokens: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        outputs: list[int] = []
        for row in rows:
            count = len(row.tokens)
            tokens += row.tokens
            positions += range(row.position, row.position + count)
            sequences += [row.sequence] * count
            if row.wanted:
                outputs.append(len(tokens) - 1)
        size = len(tokens)
        if not 0 < size <= self._batch_tokens:
            raise EngineError(f"A batch of {size} tokens does not fit {self._batch_tokens}.")
        self._token[:size], self._pos[:size], self._seq[:size] = tokens, positions, sequences
        self._wanted[:size] = 0
        self._wanted[outputs] = 1
        self._batch.n_tokens = size
        status: int = llama_cpp.llama_decode(self._context, self._batch)
        if status not in (0, NO_KV_SLOT):
            raise EngineError(f"llama.cpp could not decode (status {status}).")
        return status

    def logits(self, rows: int) -> NDArray[np.float32]:
        """(rows, vocabulary) of the last decode in batch order: a view, valid until the next decode."""
        pointer = llama_cpp.llama_get_logits(self._context)  # waits for the GPU
        address = ctypes.cast(pointer, ctypes.c_void_p).value or 0
        if address != self._logits_at or rows > len(self._logits):
            # Kept between steps: wrapping a pointer costs more than copying a slice.
            self._logits = np.ctypeslib.as_array(pointer, shape=(rows, self._model.n_vocab))
            self._logits_at = address
        return self._logits[:rows]

    def forget(self, sequence: int) -> None:
        """Free a sequence's cache."""
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def move(self, source: int, target: int) -> None:
        """Give a sequence another id. The copy itself runs with the next decode."""
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        llama_cpp.llama_memory_seq_rm(self._memory, source, -1, -1)

    def close(self) -> None:
        if self._context:
            llama_cpp.llama_free(self._context)
            self._context = None
