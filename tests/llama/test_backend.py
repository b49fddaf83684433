"""Assumptions about llama.cpp, checked against it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from orpheus import embedded, llamacpp
from orpheus.gpu import Gpu
from orpheus.llama import backend
from orpheus.llama.backend import Model
from orpheus.llama.batches import BatchRow, count_passes

BATCHES = [
    [(n, 1) for n in range(8)],
    [(n, 1) for n in (0, 2, 4, 6)],
    [(n, 1) for n in (0, 1, 2, 3, 8, 9)],
    [*((n, 1) for n in range(8)), (8, 40)],
    [(3, 20), (4, 30), (5, 1)],
    [(0, 100), (1, 100)],
]
# One decode per batch, in a separate process: llama.cpp reads LLAMA_BATCH_DEBUG once.
PROGRAM = f"""
import logging, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, format="%(message)s")
from orpheus import embedded
from orpheus.llama.backend import Context, ContextOptions, Model
from orpheus.llama.batches import BatchRow
model = Model(embedded.MODEL, 0)
context = Context(model, ContextOptions(12, 256, 64, 12, 1))
for n, batch in enumerate({BATCHES!r}):
    if sum(tokens for _, tokens in batch) > 64:
        continue
    print("BATCH", n, file=sys.stderr, flush=True)
    assert context.decode([BatchRow(seq_id, 0, (65,) * tokens, True) for seq_id, tokens in batch]) == 0
    context.logits(len(batch))
    for seq_id, _ in batch:
        context.free(seq_id)
print("BATCH end", file=sys.stderr, flush=True)
context.close()
model.close()
"""


@pytest.fixture(scope="module")
def counted() -> dict[int, int]:
    """Passes that llama.cpp says it made, by batch."""
    environment = {**os.environ, "LLAMA_BATCH_DEBUG": "1"}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    counts: dict[int, int] = {}
    at: int | None = None
    for line in run.stderr.splitlines():
        if line.startswith("BATCH"):
            words = line.split()
            at = None if words[1] == "end" else int(words[1])
            if at is not None:
                counts[at] = 0
        elif at is not None and "added ubatch to split" in line:
            counts[at] += 1
    return counts


def test_the_count_of_passes_is_llama_cpps_own(counted: dict[int, int]) -> None:
    assert len(counted) == 5
    for n, count in counted.items():
        rows = [BatchRow(seq_id, 0, (65,) * tokens, True) for seq_id, tokens in BATCHES[n]]
        assert count_passes(rows, 64) == count, BATCHES[n]


def test_a_sequence_copied_and_cut_goes_on_as_one_that_was_read_at_once() -> None:
    from orpheus import embedded
    from orpheus.llama.backend import Context, ContextOptions, Model

    model = Model(embedded.MODEL, 0)
    context = Context(model, ContextOptions(3, 256, 64, 3, 1))
    context.decode([BatchRow(0, 0, tuple(range(60, 100)), False)])
    context.copy(0, 2)
    context.free(2, keep=20)
    context.decode([BatchRow(2, 20, (65, 66, 67), True)])
    copied = context.logits(1)[0].copy()
    context.decode([BatchRow(1, 0, tuple(range(60, 80)), False)])
    context.decode([BatchRow(1, 20, (65, 66, 67), True)])
    assert (context.logits(1)[0] == copied).all()
    context.decode([BatchRow(0, 40, (65,), True)])  # what it was copied from is whole
    context.close()
    model.close()


def test_what_llama_cpp_tells_is_heard_by_all_who_listen() -> None:
    """Lists of the same lines are equal, and still two."""
    with llamacpp.listening() as outer:
        with llamacpp.listening() as inner:
            pass
        assert outer == inner == []
        with llamacpp.listening() as inner:
            Model(embedded.MODEL, 0).close()
        assert outer == inner
        assert any("n_layer" in line for line in outer)


def test_without_a_gpu_the_layers_are_on_the_processor() -> None:
    model = Model(embedded.MODEL, 0)
    model.close()
    assert model.device == "processor"


@pytest.mark.parametrize(
    ("told", "device"),
    [
        (["load_tensors: offloaded 29/29 layers to GPU"], "CUDA0 (NVIDIA L40S), 29 of 29 layers"),
        (["load_tensors: offloaded 12/29 layers to GPU"], "CUDA0 (NVIDIA L40S), 12 of 29 layers"),
        (["load_tensors: offloaded 0/29 layers to GPU"], "processor"),
        (["print_info: n_layer = 28"], "processor"),
    ],
)
def test_where_the_layers_are_is_read_from_what_llama_cpp_tells(
    told: list[str], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orpheus.gpu.find_gpu", lambda: Gpu("CUDA0", "NVIDIA L40S", False, 1, 1))
    assert backend._device(told) == device
