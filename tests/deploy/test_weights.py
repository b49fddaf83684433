from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orpheus.deploy import weights
from orpheus.errors import WeightsError
from orpheus.settings import load_settings
from tests.deploy.conftest import run
from tests.deploy.container import ContainerPlane
from tests.support.hub import Hub
from tests.support.live import served
from tests.test_weights import GGUF, _use_hub

MODEL, CODEC = "some/one:m.gguf", "some/codec"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    hub = Hub()
    hub.files = {
        "some/one": {"m.gguf": GGUF * 1000},
        "some/codec": {"config.json": b"{}", "pytorch_model.bin": b"x" * 1000},
    }
    with served(hub.app) as url:
        _use_hub(monkeypatch, url, tmp_path)
        yield hub


def test_weights_are_fetched_once_and_checked_each_time(hub: Hub) -> None:
    settings = load_settings(model=MODEL, codec=CODEC)
    for _ in range(2):
        assert "some/one:m.gguf, 0 MB, checked" in weights.fetch_model(settings)
        assert "some/codec" in weights.fetch_codec(settings)
    assert hub.asked == ["some/one/m.gguf", "some/codec/config.json", "some/codec/pytorch_model.bin"]
    assert weights.model_at_hand(settings).read_bytes() == GGUF * 1000


def test_what_changes_on_the_hub_changes_nothing_here(hub: Hub) -> None:
    settings = load_settings(model=MODEL)
    weights.fetch_model(settings)
    hub.files["some/one"]["m.gguf"] = GGUF + b"pushed later"
    weights.fetch_model(settings)
    assert weights.model_at_hand(settings).read_bytes() == GGUF * 1000


def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.breaks = {"m.gguf"}
    settings = load_settings(model=MODEL)
    weights.fetch_model(settings)
    assert hub.ranges == [f"bytes={len(GGUF) * 500 // 1000 * 1000}-"]  # by whole chunks
    assert weights.model_at_hand(settings).read_bytes() == GGUF * 1000


@pytest.mark.parametrize("script", ["orpheus_llama_modal", "orpheus_fastapi_modal"])
def test_the_function_of_each_script_fetches_its_own_and_keeps_it(
    hub: Hub, plane: ContainerPlane, script: str, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    source = f"import {script}; print({script}.fetch_weights.local())"
    given = {
        "ORPHEUS_MODEL": MODEL,
        "ORPHEUS_CODEC": CODEC,
        "HF_ENDPOINT": constants.ENDPOINT,
        "HF_HUB_CACHE": str(tmp_path / "volume"),
        "HF_HUB_DISABLE_XET": "1",
    }
    done = run([sys.executable, "-c", source], plane, **given)
    assert done.returncode == 0, done.stderr
    assert "checked in" in done.stdout
    assert [name for name, _ in plane.calls].count("VolumeCommit") == 1
    assert len(hub.asked) == {"orpheus_llama_modal": 1, "orpheus_fastapi_modal": 2}[script]


def test_a_damaged_file_is_removed_and_fetched_again(hub: Hub) -> None:
    settings = load_settings(model=MODEL)
    weights.fetch_model(settings)
    blob = weights.model_at_hand(settings).resolve()
    content = blob.read_bytes()
    blob.write_bytes(content[:-1] + b"?")
    with pytest.raises(WeightsError, match="damaged and was removed"):
        weights.fetch_model(settings)
    weights.fetch_model(settings)
    assert weights.model_at_hand(settings).read_bytes() == content


def test_small_files_are_checked_as_git_names_them(tmp_path: Path) -> None:
    blob = tmp_path / "9e26dfeeb6e641a33dae4961196235bdb965b21b"  # git hash-object of "{}"
    blob.write_bytes(b"{}")
    weights.check_digest(blob)
    blob.write_bytes(b"[]")
    with pytest.raises(WeightsError, match="damaged"):
        weights.check_digest(blob)


def test_a_file_that_has_no_digest_cannot_be_checked(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(GGUF)
    with pytest.raises(WeightsError, match="cannot be checked"):
        weights.check_digest(path)
    assert path.exists()


def test_the_embedded_voice_needs_no_fetching(hub: Hub) -> None:
    settings = load_settings(model="embedded")
    assert "nothing to fetch" in weights.fetch_model(settings) + weights.fetch_codec(settings)
    assert hub.asked == []


def test_a_container_without_its_weights_says_how_they_get_there(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # as in the containers that serve
    settings = load_settings(model=MODEL, codec=CODEC)
    with pytest.raises(WeightsError, match=r"modal run orpheus_llama_modal\.py::fetch_weights"):
        weights.model_at_hand(settings)
    with pytest.raises(WeightsError, match=r"modal run orpheus_fastapi_modal\.py::fetch_weights"):
        weights.codec_at_hand(settings)
    assert hub.asked == []
