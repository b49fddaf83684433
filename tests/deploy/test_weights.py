from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orpheus.deploy import weights
from orpheus.errors import WeightsError
from orpheus.llama.trimmed_head import find
from orpheus.settings import load_settings
from orpheus.weights import find_model
from tests.support.hub import GGUF, Hub, use_hub
from tests.support.live import served
from training.random_gguf import Body, write_gguf

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


def test_the_trimmed_head_is_made_with_the_fetching_and_checked_each_time(hub: Hub, tmp_path: Path) -> None:
    """Containers that serve mount the Volume read-only."""
    body = Body(layers=1, width=32, heads=1, kv_heads=1, ffn=32)
    hub.files["some/one"]["m.gguf"] = write_gguf(tmp_path / "m.gguf", body).read_bytes()
    assert "trimmed head" not in weights.fetch_model(load_settings(model=MODEL, unconstrained=True))
    settings = load_settings(model=MODEL)
    assert weights.fetch_model(settings).endswith("; trimmed head: 2 MB")
    trimmed = find(find_model(settings))
    assert trimmed is not None
    assert trimmed.source.parent == find_model(settings).resolve().parent
    content = trimmed.path.read_bytes()
    trimmed.path.write_bytes(content[:-1] + b"?")
    assert weights.fetch_model(settings).endswith("; trimmed head: 2 MB")
    assert trimmed.path.read_bytes() == content


def test_the_embedded_voice_needs_no_fetching(hub: Hub) -> None:
    settings = load_settings(model="embedded")
    assert "nothing to fetch" in weights.fetch_model(settings)
    assert "nothing to fetch" in weights.fetch_codec(settings)
    assert hub.asked == []


LLM_FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"[]",
    "model-00001-of-00002.safetensors": b"x" * 1000,
    "model-00002-of-00002.safetensors": b"y" * 1000,
    "model.gguf": b"z" * 1000,
    "original/consolidated.safetensors": b"z" * 1000,
}


def test_of_an_llm_only_what_vllm_reads_is_fetched_and_checked(hub: Hub) -> None:
    hub.files["some/llm"] = LLM_FILES
    settings = load_settings(llm_model="some/llm")
    with pytest.raises(WeightsError, match="some/llm is not in the cache"):
        weights.find_llm(settings)
    assert weights.fetch_llm(settings).startswith("LLM: some/llm, 0 MB, checked in")
    assert hub.asked == [f"some/llm/{name}" for name in list(LLM_FILES)[:4]]
    weights.find_llm(settings)


def test_an_llm_without_files_for_vllm_is_refused(hub: Hub) -> None:
    hub.files["some/llm"] = {"model.gguf": b"x", "config.json": b"{}"}
    with pytest.raises(WeightsError, match=r"some/llm has no \.safetensors files"):
        weights.fetch_llm(load_settings(llm_model="some/llm"))


@pytest.mark.parametrize(("status", "code"), [(401, "GatedRepo"), (403, "GatedRepo"), (403, None)])
@pytest.mark.parametrize("token", [None, "hf_of_somebody_else"])
def test_gated_weights_are_answered_with_the_three_steps_to_take(
    hub: Hub, status: int, code: str | None, token: str | None
) -> None:
    """Whichever way the hub says it: without a token, with one that may not, or whose account accepted nothing."""
    hub.gated = {"some/one", "some/codec", "some/llm"}
    hub.refusal = (status, code)
    hub.files["some/llm"] = LLM_FILES
    settings = load_settings(model=MODEL, codec=CODEC, llm_model="some/llm", hf_token=token)
    for fetch, name in (
        (weights.fetch_model, "some/one"),
        (weights.fetch_codec, "some/codec"),
        (weights.fetch_llm, "some/llm"),
    ):
        with pytest.raises(WeightsError) as refused:
            fetch(settings)
        said = str(refused.value).splitlines()
        assert said[0].startswith(f"{name} is gated, and ")
        assert f"https://huggingface.co/{name}" in said[1]
        assert "https://huggingface.co/settings/tokens" in said[2]
        assert "modal secret create huggingface-secret" in said[3]


def test_a_repository_that_does_not_exist_is_not_called_gated(hub: Hub) -> None:
    with pytest.raises(WeightsError, match="neither a path here nor a repository"):
        weights.fetch_llm(load_settings(llm_model="some/nothing"))
