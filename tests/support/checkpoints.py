"""Small files in the formats that fine-tuning leaves: adapters as GGUF and as PEFT saves them, checkpoints."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from orpheus import embedded
from orpheus.llama.gguf_file import GgufFile

RANK = 2


ATTENTION = ("attn_q.weight", "attn_v.weight")


def save_lora(
    path: Path,
    *,
    strength: float = 1.0,
    width: int | None = None,
    model: Path = embedded.MODEL,
    tensors: tuple[str, ...] = ATTENTION,
) -> Path:
    """A LoRA of random numbers for what of `model` ends with `tensors`; of another `width` it fits no model."""
    shapes = {
        tensor.name: tensor.shape for tensor in GgufFile.read(model).tensors if tensor.name.endswith(tensors)
    }
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(RANK))
    for name, (inputs, outputs) in shapes.items():
        # NumPy's order of axes is the reverse of GGUF's.
        down = random.normal(size=(RANK, width or inputs)).astype(np.float32)
        up = strength * random.normal(size=(outputs, RANK)).astype(np.float32) / inputs
        writer.add_tensor(f"{name}.lora_a", down)
        writer.add_tensor(f"{name}.lora_b", up.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
