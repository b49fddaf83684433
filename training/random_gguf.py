"""A GGUF of random weights in a given shape, with the size and layout of the published Orpheus vocabulary.

For benchmarks and tests, not for listening.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gguf
import numpy as np

from orpheus.vocabulary import BEGIN_OF_TEXT, END_OF_TURN, LAST_CODE, LEGACY_AUDIO, token_text

VOCABULARY = 156_940  # 128,256 of Llama 3, <custom_token_0> … <custom_token_28681>, <|audio|> and one more
_TEXT = 128_000


@dataclass(frozen=True)
class Body:
    """The transformer's shape. The output matrix is the embedding's own if `tied`, as in Llama-3.2-3B."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    ffn: int
    weights: Literal["f16", "q8_0"] = "f16"
    context: int = 8192
    tied: bool = True


TINY = Body(layers=1, width=64, heads=2, kv_heads=1, ffn=64)
SMALL = Body(layers=6, width=256, heads=4, kv_heads=2, ffn=704)  # the embedded voice's body
ORPHEUS_3B = Body(layers=28, width=3072, heads=24, kv_heads=8, ffn=8192, weights="q8_0", context=131072)


def write_gguf(path: Path, body: Body, *, seed: int = 0, speech: bool = True) -> Path:
    """Write the file and return its path. Without `speech` the audio tokens have no names of their own."""
    writer = gguf.GGUFWriter(path, "llama")
    head = body.width // body.heads
    writer.add_name("Random weights in the shape of Orpheus")
    writer.add_context_length(body.context)
    writer.add_embedding_length(body.width)
    writer.add_block_count(body.layers)
    writer.add_feed_forward_length(body.ffn)
    writer.add_head_count(body.heads)
    writer.add_head_count_kv(body.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(500_000.0)
    writer.add_vocab_size(VOCABULARY)
    tokens, kinds = _vocabulary(speech)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["Ā Ā"])
    writer.add_bos_token_id(_TEXT)
    writer.add_eos_token_id(_TEXT + 9)  # wrong on purpose, as in the published files
    writer.add_add_bos_token(True)

    rng = np.random.default_rng(seed)

    def matrix(name: str, rows: int, columns: int, spread: float) -> None:
        if body.weights == "f16":
            values = (rng.standard_normal((rows, columns), np.float32) * spread).astype(np.float16)
            writer.add_tensor(f"{name}.weight", values)
            return
        # Q8_0: blocks of a float16 scale and 32 bytes. Made as bytes: quantising 3 billion floats takes minutes.
        blocks = np.empty((rows, columns // 32, 34), np.uint8)
        blocks[..., :2] = np.array([spread / 74], np.float16).view(np.uint8)  # 74: spread of a uniform byte
        blocks[..., 2:] = np.frombuffer(rng.bytes(rows * columns), np.uint8).reshape(rows, -1, 32)
        writer.add_tensor(
            f"{name}.weight", blocks.reshape(rows, -1), raw_dtype=gguf.GGMLQuantizationType.Q8_0
        )

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(body.width, np.float32))

    spread = body.width**-0.5
    matrix("token_embd", VOCABULARY, body.width, 2 * spread)
    if not body.tied:
        matrix("output", VOCABULARY, body.width, 2 * spread)
    norm("output_norm")
    for layer in range(body.layers):
        block = f"blk.{layer}"
        norm(f"{block}.attn_norm")
        norm(f"{block}.ffn_norm")
        matrix(f"{block}.attn_q", body.width, body.width, spread)
        matrix(f"{block}.attn_k", body.kv_heads * head, body.width, spread)
        matrix(f"{block}.attn_v", body.kv_heads * head, body.width, spread)
        matrix(f"{block}.attn_output", body.width, body.width, spread)
        matrix(f"{block}.ffn_gate", body.ffn, body.width, spread)
        matrix(f"{block}.ffn_up", body.ffn, body.width, spread)
        matrix(f"{block}.ffn_down", body.width, body.ffn, body.ffn**-0.5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _vocabulary(speech: bool) -> tuple[list[str], list[int]]:
    normal, control, user = (
        int(kind) for kind in (gguf.TokenType.NORMAL, gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED)
    )
    tokens = [*_byte_characters(), *(f"t{n}" for n in range(256, _TEXT))]
    kinds = [normal] * _TEXT
    names = {0: BEGIN_OF_TEXT, 1: "<|end_of_text|>", 9: END_OF_TURN}
    tokens += [names.get(n, f"<|reserved_special_token_{n}|>") for n in range(256)]
    kinds += [control] * 256
    numbers = range(LAST_CODE + 1)
    tokens += [token_text(n) if speech else f"<unused_{n}>" for n in numbers]
    kinds += [user] * len(numbers)
    tokens += [LEGACY_AUDIO, "<|last|>"]
    kinds += [control] * 2
    assert len(tokens) == VOCABULARY
    return tokens, kinds


def _byte_characters() -> list[str]:
    """GPT-2's stand-ins for the 256 bytes, in byte order."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    moved = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(moved)) for byte in range(256)]
