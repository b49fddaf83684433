"""language.pt ↔ model.gguf, as llama.cpp loads it, with the published vocabulary's names and conventions.

Matrices are F16 or Q8_0, norms F32; the output matrix is the embedding itself.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch

from orpheus.vocabulary import SLOTS
from training import turns
from training.llama import HEAD_SIZE, NORM_EPSILON, ROPE_BASE, Llama, Shape

CONTEXT_TOKENS = 2048
# A file's logits are this many times the model's own, so that at the service's temperature of 0.6 the voice speaks as it would at
# 0.3: fewer slips, and at half of that again no fewer (the model card has the figures).
SHARPNESS = 2.0
_SHARPNESS_KEY = "orpheus.sharpness"


def write(model: Llama, target: Path, kind: str = "F16") -> None:
    """Write `model` with matrices of `kind`, "F16" or "Q8_0"."""
    shape = model.shape
    packing = gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_name("Orpheus embedded voice")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.key_heads)
    writer.add_layer_norm_rms_eps(NORM_EPSILON)
    writer.add_rope_dimension_count(HEAD_SIZE)
    writer.add_key_length(HEAD_SIZE)
    writer.add_value_length(HEAD_SIZE)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_vocab_size(turns.vocabulary_size(shape.codes))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if kind == "F16" else gguf.LlamaFileType.MOSTLY_Q8_0)
    tokens = turns.token_texts(shape.codes)
    normal, control, user = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    # <custom_token_N> render as text, as the published files have it; the three of Llama's own do not.
    writer.add_token_types(
        [normal] * turns.BYTES + [control] * 2 + [user] * (len(tokens) - turns.BYTES - 3) + [control]
    )
    writer.add_token_merges(["Ā Ā"])  # the loader wants one; two NUL bytes never stand in text
    writer.add_bos_token_id(turns.BEGIN)
    # Wrong on purpose: the published files declare the end of the text turn, not of speech.
    writer.add_eos_token_id(turns.END_TURN)
    writer.add_eot_token_id(turns.END_TURN)
    writer.add_pad_token_id(turns.CONTROL_ID[7])
    writer.add_add_bos_token(True)
    writer.add_float32(_SHARPNESS_KEY, SHARPNESS)

    def add(name: str, values: np.ndarray) -> None:
        if values.ndim == 1:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, packing), raw_dtype=packing)

    add("token_embd.weight", model.rows().detach().float().numpy())
    # The norm before the output: the matrix itself is the embedding as well.
    add("output_norm.weight", SHARPNESS * model.output_norm.weight.detach().float().numpy())
    for number, block in enumerate(model.blocks):
        for name, values in block.named_parameters():
            add(f"blk.{number}.{name}", values.detach().float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read(source: Path) -> Llama:
    """The model of a file that `write` wrote, as exact as its packing. Its phoneme read-out, which no file holds, is new."""
    reader = gguf.GGUFReader(source)
    found = {one.name: gguf.quants.dequantize(one.data, one.tensor_type) for one in reader.tensors}
    weights = {name: torch.from_numpy(np.array(values)).float() for name, values in found.items()}

    def told(key: str) -> int:
        return int(reader.fields[f"llama.{key}"].contents())

    rows = weights.pop("token_embd.weight")
    codes = (len(rows) - turns.FIRST_CODE_ID - 1) // SLOTS
    layers = told("block_count")
    shape = Shape(
        codes=codes,
        layers=layers,
        width=told("embedding_length"),
        heads=told("attention.head_count"),
        key_heads=told("attention.head_count_kv"),
        inner=told("feed_forward_length"),
        guided=tuple(one for one in Shape.guided if one < layers),
        phone_layer=min(Shape.phone_layer, layers - 1),
    )
    model = Llama(shape)
    by_slot = rows[turns.FIRST_CODE_ID : -1].reshape(SLOTS, codes, -1)
    state = model.state_dict()
    state["plain"] = torch.cat([rows[: turns.FIRST_CODE_ID], rows[-1:]])
    for level in range(len(state["levels"])):
        # A code's row is its level's and its slot's together: the level's are the mean over the slots that share it.
        sharing = torch.from_numpy(turns.SLOT_LEVEL).eq(level).nonzero()[:, 0]
        state["levels"][level] = by_slot[sharing].mean(dim=0)
        state["slots"][sharing] = (by_slot[sharing] - state["levels"][level]).mean(dim=1, keepdim=True)
    state |= {name.replace("blk.", "blocks."): values for name, values in weights.items()}
    sharpness = reader.fields.get(_SHARPNESS_KEY)  # of an older file: none, which is 1
    state["output_norm.weight"] = state["output_norm.weight"] / (sharpness.contents() if sharpness else 1.0)
    model.load_state_dict(state)
    return model.eval()
