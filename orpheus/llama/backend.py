"""The interface to llama.cpp: a GGUF's vocabulary and tokenizer, and a context that decodes many sequences at once.

The only file that touches llama_cpp's structures and pointers, which change with every release of llama-cpp-python;
written for 0.3.36.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from orpheus import llamacpp
from orpheus.errors import EngineError, SetupError, WeightsError
from orpheus.llama.batches import NO_KV_ROOM, BatchRow
from orpheus.llama.embedding_table import EmbeddingTable
from orpheus.llama.trimmed_head import TrimmedHead
from orpheus.llamacpp import llama_cpp
from orpheus.vocabulary import Vocabulary
from orpheus.weights import Lora, check_gguf, identity

_FLASH_ATTENTION_AUTO = -1  # used if the backend has it
_KV_TYPES = {"f16": llama_cpp.GGML_TYPE_F16, "q8_0": llama_cpp.GGML_TYPE_Q8_0}


@dataclass(frozen=True)
class ContextOptions:
    """What a context is built with."""

    sequences: int
    context_tokens: int  # per sequence
    batch_tokens: int  # most tokens in one decode
    outputs: int  # most rows of logits of one decode
    threads: int
    kv_type: Literal["f16", "q8_0"] = "f16"


@dataclass(frozen=True)
class ModelShape:
    """The sizes that decide how much memory a token of context takes."""

    layers: int
    kv_channels: int  # of a key, or of a value, in a layer


PUBLISHED_SHAPE = ModelShape(layers=28, kv_channels=8 * 128)  # Orpheus-3B's, known before it is fetched


def read_shape(path: Path) -> ModelShape:
    """From a GGUF's metadata, without its weights. WeightsError if llama.cpp cannot read it."""
    model = _open_without_weights(path)
    try:

        def value(name: str) -> str:
            buffer = ctypes.create_string_buffer(256)
            count = llama_cpp.llama_model_meta_val_str(model, name.encode(), buffer, len(buffer))
            return buffer.value.decode() if count >= 0 else ""

        kind = value("general.architecture")
        heads = int(value(f"{kind}.attention.head_count") or 1)
        kv_heads = int(value(f"{kind}.attention.head_count_kv") or heads)
        embedding = int(value(f"{kind}.embedding_length") or 0)
        head_channels = int(value(f"{kind}.attention.key_length") or embedding // heads)
        return ModelShape(int(value(f"{kind}.block_count") or 0), kv_heads * head_channels)
    except ValueError as error:
        raise WeightsError(f"{path} has sizes that are not numbers ({error}): fetch it again.") from error
    finally:
        llama_cpp.llama_model_free(model)


def _open_without_weights(path: Path) -> Any:
    """A model of llama.cpp with no more than metadata and tokenizer. WeightsError if it cannot be read."""
    check_gguf(path)
    llamacpp.start()
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise WeightsError(
            f"llama.cpp could not read {path}: fetch it again, or set ORPHEUS_MODEL to another."
        )
    return model


class Weights:
    """A GGUF's weights and tokenizer, of any model; shared by contexts, safe to use from any thread."""

    def __init__(self, path: Path, gpu_layers: int, trimmed: TrimmedHead | None = None) -> None:
        """Load `path`, or `trimmed` in its place with its tokenizer. WeightsError if it is missing or not a GGUF."""
        check_gguf(path)
        llamacpp.start()
        # llama.cpp reads a vocabulary from any number of threads at once; but reading freed weights would crash the
        # process, not raise, so `close` waits for the readers.
        self._readers = 0
        self._changed = threading.Condition()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        mapped = not (gpu_layers and llamacpp.gpu_available())
        if not mapped:
            # Uploaded from pinned memory: mapped files are read page by page, slowest from a network's file system.
            params.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE
        # A build with AMX crashes at its first token (gcc 12, Sapphire Rapids) unless weights keep their layout.
        params.use_extra_bufts = b"AMX_INT8 = 1" not in llama_cpp.llama_print_system_info()
        self._model: Any = None
        # Another model of llama.cpp, where the weights have no tokenizer. First, as it looks whether the file is whole.
        self._tokenizer: Any = _open_without_weights(path) if trimmed else None
        loaded = trimmed.path if trimmed else path
        with llamacpp.listening() as told:
            self._model = llama_cpp.llama_model_load_from_file(str(loaded).encode(), params)
        if not self._model:
            self.close()
            raise WeightsError(
                f"llama.cpp could not load {loaded}: the file is damaged, of an unknown architecture, or too large "
                f"for the memory. {'Delete it' if trimmed else 'Fetch it again'}, or set ORPHEUS_MODEL to another GGUF."
            )
        self.device = _device(told)
        self._vocab = llama_cpp.llama_model_get_vocab(self._tokenizer or self._model)
        self.n_vocab: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        # What can be generated, and fed back as tokens: all, or those of the rows that are left.
        self.outputs = (
            range(trimmed.first_id, trimmed.first_id + trimmed.rows) if trimmed else range(self.n_vocab)
        )
        self.embeddings = EmbeddingTable(trimmed, self.n_vocab, mapped=mapped) if trimmed else None
        if trimmed and not trimmed.is_current():
            self.close()
            raise WeightsError(f"{path} changed while it was loaded: start again.")
        self.width: int = llama_cpp.llama_model_n_embd(self._model)

    def tokenize(self, text: str, *, add_bos: bool, parse_special: bool) -> list[int]:
        """Token ids of `text`. `add_bos` adds the BOS the file declares. User-defined tokens are always parsed."""
        data = text.encode("utf-8", "replace")
        size = len(data) + 2
        buffer = (llama_cpp.llama_token * size)()
        with self._reading() as vocab:
            count = llama_cpp.llama_tokenize(vocab, data, len(data), buffer, size, add_bos, parse_special)
        if count < 0:
            raise EngineError(f"llama.cpp could not tokenize a text of {len(data)} bytes.")
        return buffer[:count]

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for, special tokens as their text; empty for an id outside the vocabulary."""
        if not 0 <= token < self.n_vocab:
            return b""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            with self._reading() as vocab:
                count = llama_cpp.llama_token_to_piece(vocab, token, buffer, size, 0, True)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    @property
    def end_token(self) -> int:
        """The end token that the file declares, which is not the one that ends speech."""
        with self._reading() as vocab:
            return int(llama_cpp.llama_vocab_eos(vocab))

    def close(self) -> None:
        """Free the weights, after calls of other threads that are under way. Idempotent."""
        with self._changed:
            self._changed.wait_for(lambda: not self._readers)
            for model in (self._model, self._tokenizer):
                if model:
                    llama_cpp.llama_model_free(model)
            self._model = self._tokenizer = None

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        """The vocabulary, which stays loaded meanwhile."""
        with self._changed:
            if not self._model:
                raise EngineError("The engine is closed.")
            self._readers += 1
        try:
            yield self._vocab
        finally:
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()


def _device(told: list[str]) -> str:
    """Where the layers really are, by what llama.cpp told while it loaded them."""
    offloaded = re.search(r"offloaded (\d+)/(\d+) layers to GPU", "\n".join(told))
    if offloaded is None or offloaded[1] == "0":
        return "processor"
    from orpheus.gpu import find_gpu

    gpu = find_gpu()
    name = f"{gpu.name} ({gpu.description})" if gpu else "GPU"
    return f"{name}, {offloaded[1]} of {offloaded[2]} layers"


class Model(Weights):
    """An Orpheus model: weights that have its vocabulary."""

    def __init__(
        self, path: Path, gpu_layers: int, lora: Lora | None = None, trimmed: TrimmedHead | None = None
    ) -> None:
        """Load `path`, and the adapter of it. WeightsError if it is missing, not a GGUF, or not an Orpheus model."""
        super().__init__(path, gpu_layers, trimmed)
        self.lora = lora
        self.fingerprint = f"{identity(path)} {lora and (identity(lora.path), lora.scale)}"
        self._adapter: Any = None  # freed with the model
        try:
            if lora is not None:
                self._adapter = llama_cpp.llama_adapter_lora_init(self._model, str(lora.path).encode())
                if not self._adapter:
                    raise WeightsError(
                        f"llama.cpp could not use {lora.path} with {path.name}: it was made for another model, or is "
                        "damaged. Set ORPHEUS_MODEL to the model it was trained on, or unset ORPHEUS_LORA."
                    )
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

    def adapt(self, context: Any) -> None:
        """Add the adapter, if there is one, to all that a context of llama.cpp computes. SetupError if it cannot be."""
        if self.lora is None:
            return
        adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(self._adapter)
        scales = (ctypes.c_float * 1)(self.lora.scale)
        if llama_cpp.llama_set_adapters_lora(context, adapters, 1, scales) != 0:
            raise SetupError(f"llama.cpp could not apply {self.lora.path}: unset ORPHEUS_LORA.")


class Context:
    """The KV cache of all sequences, and `llama_decode`. Used from one thread."""

    def __init__(self, model: Weights, options: ContextOptions) -> None:
        """SetupError if llama.cpp refuses the options or lacks the memory."""
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = options.sequences * options.context_tokens
        params.n_batch = params.n_ubatch = options.batch_tokens
        params.n_seq_max = options.sequences
        params.n_outputs_max = options.outputs  # 0 would reserve a row of logits per token of a batch
        params.n_threads = params.n_threads_batch = options.threads
        params.flash_attn_type = _FLASH_ATTENTION_AUTO
        params.type_k = params.type_v = _KV_TYPES[options.kv_type]
        params.kv_unified = False  # with one cache for all, each sequence would read past the others' tokens
        params.no_perf = True
        self._model = model
        self._context: Any = llama_cpp.llama_init_from_model(model._model, params)
        if not self._context:
            raise SetupError(
                f"llama.cpp could not make a context of {options.sequences} streams × {options.context_tokens} "
                "tokens: lower ORPHEUS_STREAMS or ORPHEUS_CONTEXT_TOKENS, or set ORPHEUS_KV_TYPE=f16 if the "
                "device has no flash attention."
            )
        if isinstance(model, Model):
            model.adapt(self._context)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self.sequences = options.sequences
        self._batch_tokens = options.batch_tokens
        self._allocate_batch(options.batch_tokens)
        self._logits = np.empty((0, len(model.outputs)), np.float32)
        self._logits_address = 0

    def _allocate_batch(self, size: int) -> None:
        # Our own arrays instead of llama_batch_init's: five vectorised writes per step, not five per token.
        self._token = np.zeros(size, np.int32)
        self._pos = np.zeros(size, np.int32)
        self._seq_id = np.zeros(size, np.int32)
        self._output = np.zeros(size, np.int8)
        self._n_seq_id = np.ones(size, np.int32)
        self._seq_id_pointers = (self._seq_id.ctypes.data + 4 * np.arange(size)).astype(np.uintp)
        batch = llama_cpp.llama_batch()
        fields: dict[str, Any] = {name: kind for name, kind, *_ in llama_cpp.llama_batch._fields_}
        for name, array in (
            ("token", self._token),
            ("pos", self._pos),
            ("n_seq_id", self._n_seq_id),
            ("seq_id", self._seq_id_pointers),
            ("logits", self._output),
        ):
            setattr(batch, name, ctypes.cast(array.ctypes.data, fields[name]))
        self._batch = batch
        if self._model.embeddings is not None:
            self._embd = np.zeros((size, self._model.width), np.float32)
            self._embd_batch = llama_cpp.llama_batch.from_buffer_copy(batch)
            self._embd_batch.token = fields["token"]()  # null: llama.cpp takes one or the other
            self._embd_batch.embd = ctypes.cast(self._embd.ctypes.data, fields["embd"])

    def decode(self, rows: Sequence[BatchRow]) -> int:
        """One `llama_decode` of `rows`, sorted by sequence id. Releases the GIL meanwhile.

        Returns 0, or NO_KV_ROOM if there was no room, in which case nothing was changed. Raises EngineError on any
        other status: the context is lost.
        """
        tokens: list[int] = []
        positions: list[int] = []
        seq_ids: list[int] = []
        outputs: list[int] = []
        for row in rows:
            count = len(row.tokens)
            tokens += row.tokens
            positions += range(row.position, row.position + count)
            seq_ids += [row.seq_id] * count
            if row.needs_logits:
                outputs.append(len(tokens) - 1)
        size = len(tokens)
        if not 0 < size <= self._batch_tokens:
            raise EngineError(f"A batch of {size} tokens does not fit {self._batch_tokens}.")
        self._token[:size], self._pos[:size], self._seq_id[:size] = tokens, positions, seq_ids
        self._output[:size] = 0
        self._output[outputs] = 1
        batch = self._batch if self._model.embeddings is None else self._trimmed_batch(size)
        batch.n_tokens = size
        status: int = llama_cpp.llama_decode(self._context, batch)
        if status not in (0, NO_KV_ROOM):
            raise EngineError(f"llama.cpp could not decode (status {status}).")
        return status

    def _trimmed_batch(self, size: int) -> Any:
        """The first `size` tokens by the ids of the trimmed model; all as embeddings if it lacks one of them.

        llama.cpp takes a batch of either, and computes the same from both.
        """
        model = self._model
        assert model.embeddings is not None
        ids = self._token[:size]
        if ids.min() < model.outputs.start or ids.max() >= model.outputs.stop:
            model.embeddings.read(ids, self._embd)
            return self._embd_batch
        ids -= model.outputs.start
        return self._batch

    def logits(self, rows: int) -> NDArray[np.float32]:
        """float32 (rows, outputs of the model) of the last decode in batch order: a view, valid until the next."""
        pointer = llama_cpp.llama_get_logits(self._context)  # waits for the GPU
        address = ctypes.cast(pointer, ctypes.c_void_p).value or 0
        if address != self._logits_address or rows > len(self._logits):
            # Kept between steps: wrapping a pointer costs more than copying a slice.
            self._logits = np.ctypeslib.as_array(pointer, shape=(rows, len(self._model.outputs)))
            self._logits_address = address
        return self._logits[:rows]

    def free(self, seq_id: int, keep: int = 0) -> None:
        """Free a sequence's cache, except for its first `keep` tokens."""
        llama_cpp.llama_memory_seq_rm(self._memory, seq_id, keep, -1)

    def copy(self, source: int, target: int) -> None:
        """Make the sequence `target` equal to `source`. The copy itself runs with the next decode."""
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def move(self, source: int, target: int) -> None:
        """Give the sequence `source` the id `target`."""
        self.copy(source, target)
        self.free(source)

    def close(self) -> None:
        if self._context:
            llama_cpp.llama_free(self._context)
            self._context = None
