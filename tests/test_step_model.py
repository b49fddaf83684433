"""The arithmetic of `benchmarks.roofline`: bytes as in a file, and steps as others have measured them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from benchmarks.step_model import (
    CARDS,
    KEPT_ROWS,
    PUBLISHED_STEPS_MS,
    REAL_TIME_MS,
    RTX_4090,
    Card,
    Machine,
    described,
    find_card,
    from_gguf,
    most_in_memory,
    most_in_time,
    published_check,
    step_ms,
)
from training.random_gguf import TINY, VOCABULARY, write_gguf

BODY = dataclasses.replace(TINY, layers=2, weights="q8_0")


def no_host(streams: int) -> float:
    return 0.0


@pytest.mark.slow  # gguf's reader takes six seconds for the vocabulary
def test_a_described_model_is_that_of_a_file_of_its_shape(tmp_path: Path) -> None:
    read = from_gguf(write_gguf(tmp_path / "shape.gguf", BODY))
    assert dataclasses.replace(read, name="") == dataclasses.replace(described("Q8_0", BODY), name="")


def test_the_published_files_have_their_sizes() -> None:
    assert described("Q8_0").file_bytes / 1e9 == pytest.approx(3.51, abs=0.01)
    # Llama-3.2-3B's is 2.02 GB, whose vocabulary lacks 28,684 rows of 3,072 at Q6_K.
    assert described("Q4_K_M").file_bytes / 1e9 == pytest.approx(
        2.02 + 28_684 * 3072 * 210 / 256 / 1e9, abs=0.02
    )


def test_a_trimmed_head_takes_its_rows_off_the_pass_the_file_and_the_logits() -> None:
    whole = described("Q8_0")
    trimmed = whole.trimmed()
    assert trimmed is not None
    dropped = (VOCABULARY - KEPT_ROWS) * 3072 * 34 / 32
    assert whole.bytes - trimmed.bytes == pytest.approx(dropped)
    assert whole.file_bytes - trimmed.file_bytes == pytest.approx(dropped, abs=1)
    assert trimmed.logits_bytes == pytest.approx(4 * KEPT_ROWS)
    assert dataclasses.replace(whole, rows=14_601).trimmed() is None


def test_a_step_is_its_bytes_its_operations_and_its_host() -> None:
    model = described("Q8_0")
    bandwidth_alone = Machine(bytes_s=1e12, operations_s=float("inf"))
    alone = step_ms(model, bandwidth_alone, 1, 0.5, "f16", joining=False)
    assert alone == pytest.approx(model.bytes / 1e9, rel=1e-4)
    many = step_ms(model, bandwidth_alone, 32, 700, "f16", joining=False)
    assert many - alone == pytest.approx(32 * 700 * 112 * 1024 / 1e9, rel=1e-3)
    host = dataclasses.replace(bandwidth_alone, host_ms=lambda streams: 0.1 * streams)
    assert step_ms(model, host, 32, 700, "f16", joining=False) == pytest.approx(many + 3.2)
    arithmetic_alone = Machine(bytes_s=float("inf"), operations_s=1e12)
    assert step_ms(model, arithmetic_alone, 1, 0.5, "f16", joining=False) == pytest.approx(6.6, abs=0.02)


def test_the_arithmetic_is_within_a_tenth_of_what_was_published_of_another_model() -> None:
    for rows, ms in published_check().items():
        assert ms == pytest.approx(PUBLISHED_STEPS_MS[rows], rel=0.1)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_one_stream_more_than_a_card_carries_is_late(card: Card) -> None:
    model, machine = described("Q8_0"), Machine.of(card, no_host)
    most = most_in_time(model, machine, 700, "f16")
    assert step_ms(model, machine, most + 1, 700, "f16") > REAL_TIME_MS
    assert most == 0 or step_ms(model, machine, most, 700, "f16") <= REAL_TIME_MS


def test_memory_holds_what_the_documentation_says_it_does() -> None:
    text = Path(__file__).parents[1].joinpath("docs", "deploy.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) GB \| (\d+) \| (\d+)", text, re.MULTILINE)
    model = described("Q8_0").trimmed()
    assert model is not None
    assert len(rows) > 3
    for gb, f16, q8_0 in rows:
        card = Card("", int(gb), 1, 1, 1)
        found = most_in_memory(model, card, "f16"), most_in_memory(model, card, "q8_0")
        assert found == (int(f16), int(q8_0))


def test_cards_are_known_by_their_drivers_names() -> None:
    names = ("NVIDIA L4", "NVIDIA L40S", "NVIDIA A10G", "NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3")
    assert [getattr(find_card(name), "name", None) for name in names] == [
        "L4",
        "L40S",
        "A10G",
        "A100-80",
        "H100",
    ]
    assert find_card("NVIDIA GeForce RTX 4090") == RTX_4090
    assert find_card("NVIDIA A100-SXM4-40GB") is None
    assert find_card("AMD Radeon RX 7900 XTX") is None
