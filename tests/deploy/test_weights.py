from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orpheus.deploy import weights
from orpheus.errors import WeightsError
from orpheus.settings import load_settings
from orpheus.weights import find_model
from tests.support.hub import GGUF, Hub, use_hub
from tests.support.live import served

MODEL, CODEC = "some/one:m.gguf", "some/codec"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    hub = Hub()
    hub.files = {
        "some/one": {"m.gguf": GGUF * 1000},
        "some/codec": {"config.json": b"{}", "pytorch_model.bin": b"x" * 1000},
    }
    with served(hub.app) as url:
        use_hub(monkeypatch, url, tmp_path)
        yield hub


def test_weights_are_fetched_once_and_checked_each_time(hub: Hub) -> None:
    settings = load_settings(model=MODEL, codec=CODEC)
    for _ in range(2):
        assert "some/one:m.gguf, 0 MB, checked" in weights.fetch_model(settings)
        assert "some/codec" in weights.fetch_codec(settings)
        hub.files["some/one"]["m.gguf"] = GGUF + b"pushed later"
    assert hub.asked == ["some/one/m.gguf", "some/codec/config.json", "some/codec/pytorch_model.bin"]
    assert find_model(settings).read_bytes() == GGUF * 1000


def test_a_broken_connection_resumes_where_it_broke(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.breaks = {"m.gguf"}
    settings = load_settings(model=MODEL)
    weights.fetch_model(settings)
    assert hub.ranges == [f"bytes={len(GGUF) * 500 // 1000 * 1000}-"]  # in whole chunks
    assert find_model(settings).read_bytes() == GGUF * 1000


def test_a_damaged_file_is_removed_and_fetched_again(hub: Hub) -> None:
    settings = load_settings(model=MODEL)
    weights.fetch_model(settings)
    blob = find_model(settings).resolve()
    content = blob.read_bytes()
    blob.write_bytes(content[:-1] + b"?")
    with pytest.raises(WeightsError, match="damaged and was removed"):
        weights.fetch_model(settings)
    weights.fetch_model(settings)
    assert find_model(settings).read_bytes() == content


def test_small_files_are_checked_as_git_names_them(tmp_path: Path) -> None:
    blob = tmp_path / "9e26dfeeb6e641a33dae4961196235bdb965b21b"  # git hash-object of "{}"
    blob.write_bytes(b"{}")
    weights.check_digest(blob)
    blob.write_bytes(b"[]")
    with pytest.raises(WeightsError, match="damaged"):
        weights.check_digest(blob)


def test_a_file_without_a_digest_cannot_be_checked_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(GGUF)
    with pytest.raises(WeightsError, match="cannot be checked"):
        weights.check_digest(path)
    assert path.exists()


def test_the_embedded_voice_needs_no_fetching(hub: Hub) -> None:
    settings = load_settings(model="embedded")
    assert "nothing to fetch" in weights.fetch_model(settings)
    assert "nothing to fetch" in weights.fetch_codec(settings)
    assert hub.asked == []
