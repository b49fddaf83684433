"""What Orpheus-3B takes of a card, by its published sizes, and what is said where it does not fit."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from orpheus import embedded
from orpheus.errors import SetupError
from orpheus.gpu import Gpu
from orpheus.llama import backend, engine
from orpheus.llama.backend import PUBLISHED_SHAPE, read_shape
from orpheus.llama.engine import Engine
from orpheus.llama.engine_config import EngineConfig
from orpheus.llama.gpu_memory import fit_to_gpu, plan_memory
from orpheus.settings import Settings, load_settings
from tests.support.live import ROOT

GIB = 1 << 30
MOST_STREAMS = 254  # of ORPHEUS_STREAMS
ORPHEUS_3B = PUBLISHED_SHAPE
ORPHEUS_BYTES = 3_516_000_000
# Without the rows below the end of speech, of 3,072 numbers in 34 bytes for each 32, and two above the codes.
TRIMMED_BYTES = ORPHEUS_BYTES - (156_940 - 28_680) * 3072 // 32 * 34
DEFAULT = EngineConfig(streams=32, waiting=8, threads=1)


def card(gib: float) -> Gpu:
    return Gpu("CUDA0", "NVIDIA", False, round(gib * GIB), round(gib * GIB), 500)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file of the published model's size and shape, which takes no room."""
    path = tmp_path / "orpheus.gguf"
    with path.open("wb") as file:
        file.truncate(ORPHEUS_BYTES)
    monkeypatch.setattr(backend, "read_shape", lambda _: ORPHEUS_3B)
    return path


def test_a_stream_of_the_published_model_takes_224_mib() -> None:
    plan = plan_memory(ORPHEUS_BYTES, ORPHEUS_3B, DEFAULT, 0)
    assert plan.per_stream == 224 << 20
    assert plan.needed / GIB == pytest.approx(11.3, abs=0.1)


@pytest.mark.parametrize(("gib", "streams"), [(12, 28), (16, 32), (24, 32), (48, 32)])
def test_as_many_streams_as_fit_are_the_default(published: Path, gib: int, streams: int) -> None:
    assert fit_to_gpu(published, DEFAULT, card(gib), asked=False).streams == streams


def test_more_streams_than_fit_say_how_many_do(published: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO),
        pytest.raises(SetupError, match=r"32 streams.*ORPHEUS_STREAMS=28, or ORPHEUS_KV_TYPE=q8_0"),
    ):
        fit_to_gpu(published, DEFAULT, card(12), asked=True)
    assert "this engine takes" in caplog.text
    half = EngineConfig(streams=32, waiting=8, threads=1, kv_type="q8_0")
    assert fit_to_gpu(published, half, card(12), asked=True) == half


def test_a_card_that_is_too_small_says_what_to_do(published: Path) -> None:
    with pytest.raises(SetupError, match=r"does not hold the model.*Q4_K_M"):
        fit_to_gpu(published, DEFAULT, card(5), asked=False)


def test_the_shape_is_read_without_the_weights() -> None:
    shape = read_shape(embedded.MODEL)
    assert shape.layers > 0
    assert shape.kv_channels > 0


def test_layers_that_must_be_on_a_gpu_do_not_start_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orpheus.gpu.find_gpu", lambda: None)
    with pytest.raises(SetupError, match="ORPHEUS_GPU_LAYERS=999 asks for a GPU"):
        Engine.load(embedded.MODEL, load_settings(gpu_layers=999))


def test_a_gpu_below_real_time_gets_as_many_streams_as_a_processor(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[EngineConfig] = []
    apple = Gpu("MTL0", "Apple M1", True, 12 * GIB, 12 * GIB)
    monkeypatch.setattr("orpheus.gpu.find_gpu", lambda: apple)
    monkeypatch.setattr(engine.Engine, "open", lambda path, config, *_: opened.append(config))
    Engine.load(published, load_settings())
    Engine.load(published, load_settings(streams=10))
    assert [config.streams for config in opened] == [8, 10]


def test_a_gpus_room_decides_before_the_weights_are_loaded(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[EngineConfig] = []
    monkeypatch.setattr("orpheus.gpu.find_gpu", lambda: card(12))
    monkeypatch.setattr(engine.Engine, "open", lambda path, config, *_: opened.append(config))
    settings: Settings = load_settings(gpu_layers=-1)
    Engine.load(published, settings)
    assert [config.streams for config in opened] == [28]


def test_the_documented_table_is_what_the_code_computes() -> None:
    rows = re.findall(r"^\| (\d+) GB \| (\d+) \| (\d+)", (ROOT / "docs/deploy.md").read_text(), re.MULTILINE)
    assert [int(card) for card, *_ in rows] == [8, 12, 16, 24, 48]
    for gib, *documented in rows:
        fitting = [
            plan_memory(
                TRIMMED_BYTES,
                ORPHEUS_3B,
                EngineConfig(streams=32, waiting=8, threads=1, kv_type=kv_type),
                round(int(gib) * 0.95 * GIB),
            ).fitting_streams
            for kv_type in ("f16", "q8_0")
        ]
        assert [int(streams) for streams in documented] == [min(MOST_STREAMS, streams) for streams in fitting]
