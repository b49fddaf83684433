"""ORPHEUS_LORA: an adapter over the embedded weights, of random numbers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orpheus import embedded, weights
from orpheus.errors import WeightsError
from orpheus.llama.engine import Engine
from orpheus.settings import load_settings
from tests.support.checkpoints import save_lora
from tests.support.llama import collect, completion, settings


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_lora(tmp_path_factory.mktemp("lora") / "voice.gguf")


def numbers(lora: str | None) -> list[int]:
    """What an engine with this setting generates for one seed."""
    engine = Engine.load(embedded.MODEL, settings(lora=lora))

    async def generate() -> list[int]:
        return await collect(engine.submit(completion(engine, tokens=70)))

    try:
        return asyncio.run(generate())
    finally:
        engine.close()


def test_an_adapter_changes_what_is_said_and_none_of_it_changes_nothing(adapter: Path) -> None:
    without = numbers(None)
    whole = numbers(str(adapter))
    assert len(without) == len(whole) == 70
    assert whole != without
    assert numbers(f"{adapter}:0") == without
    assert numbers(f"{adapter}:1.0") == whole
    assert numbers(f"{adapter}:0.25") not in (without, whole)


@pytest.mark.parametrize(
    ("given", "scale"), [("", 1.0), (":0.8", 0.8), (":1", 1.0), (":-0.5", -0.5), (":0", 0.0)]
)
def test_a_scale_stands_behind_a_colon(adapter: Path, given: str, scale: float) -> None:
    assert weights.find_lora(load_settings(lora=f"{adapter}{given}")) == weights.Lora(adapter, scale)


def test_a_colon_may_be_part_of_the_name(tmp_path: Path) -> None:
    path = save_lora(tmp_path / "my:0.5")
    assert weights.find_lora(load_settings(lora=str(path))) == weights.Lora(path, 1.0)
    assert weights.find_lora(load_settings(lora=f"{path}:2")) == weights.Lora(path, 2.0)


@pytest.mark.parametrize("given", ["no.gguf", "no.gguf:0.5", ":0.5", "a:b", "{}:nan", "{}:inf", "{}:much"])
def test_what_is_no_adapter_is_told_in_a_sentence(adapter: Path, given: str) -> None:
    with pytest.raises(WeightsError, match=r"^ORPHEUS_LORA='.*' is no adapter here: give the path"):
        weights.find_lora(load_settings(lora=given.format(adapter)))


def test_a_model_is_no_adapter_and_an_adapter_no_model(adapter: Path) -> None:
    with pytest.raises(WeightsError, match="is no LoRA adapter: set ORPHEUS_MODEL to it"):
        weights.find_lora(load_settings(lora=str(embedded.MODEL)))
    with pytest.raises(WeightsError, match="is a LoRA adapter: set ORPHEUS_LORA to it"):
        weights.find_model(load_settings(model=str(adapter)))


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    other = save_lora(tmp_path / "other.gguf", width=128)
    with pytest.raises(WeightsError, match="it was made for another model"):
        Engine.load(embedded.MODEL, settings(lora=str(other)))
