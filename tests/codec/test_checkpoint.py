"""Checkpoints and devices that cannot be used say why; older files can be used."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from orpheus.codec import Codec
from orpheus.codec.checkpoint import Checkpoint, read_config
from orpheus.errors import SetupError, WeightsError
from orpheus.settings import Settings
from tests.support.random_snac import save_random_snac


def codec_settings(**changes: object) -> Settings:
    return Settings(_env_file=None, **{"codec_device": "cpu", **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_snac(tmp_path_factory.mktemp("checkpoint") / "tiny")


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder: Path, edit: Callable[[torch.Tensor], object]) -> None:
    path = folder / "pytorch_model.bin"
    tensors = torch.load(path, weights_only=True)
    torch.save({name: edit(tensor) for name, tensor in tensors.items()}, path)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "config.json").unlink(), "No config.json in .*ORPHEUS_CODEC"),
        (lambda folder: (folder / "config.json").write_text("{"), "no SNAC configuration .*Fetch it again"),
        (lambda folder: (folder / "config.json").write_text("{}"), "no SNAC configuration .*Fetch it again"),
        (lambda folder: (folder / "pytorch_model.bin").unlink(), "No pytorch_model.bin in .*ORPHEUS_CODEC"),
        (
            lambda folder: (folder / "pytorch_model.bin").write_bytes(b"<html>"),
            "cannot be read .*Fetch it again",
        ),
        (lambda folder: (folder / "pytorch_model.bin").write_bytes(b""), "cannot be read .*Fetch it again"),
        (lambda folder: torch.save([1], folder / "pytorch_model.bin"), "holds no weights by name"),
        (lambda folder: torch.save({}, folder / "pytorch_model.bin"), "should be .* found nothing"),
        (lambda folder: (folder / "config.json").write_text("[" * 100_000), "no SNAC configuration"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"), "no SNAC configuration"),
        (lambda folder: edit_config(folder, sampling_rate=0), "sampling_rate: .*greater"),
        (lambda folder: edit_config(folder, sampling_rate=float("inf")), "no SNAC configuration"),
        (lambda folder: edit_config(folder, codebook_size=1e400), "no SNAC configuration"),
        (lambda folder: edit_config(folder, decoder_dim=2**70), "no SNAC configuration"),
        (lambda folder: edit_config(folder, decoder_rates="8842"), "no SNAC configuration"),
        (lambda folder: edit_config(folder, decoder_rates=[2] * 10_000), "no SNAC configuration"),
        (lambda folder: edit_config(folder, latent_dim=None, encoder_dim=None), "neither latent_dim"),
        (lambda folder: (folder / "pytorch_model.bin").write_text("cbuiltins\nprint\n."), "cannot be read"),
        (lambda folder: (folder / "pytorch_model.bin").write_text("(" * 10_000), "cannot be read"),
        (lambda folder: (folder / "pytorch_model.bin").write_text("weights, they said"), "cannot be read"),
        (lambda folder: edit_weights(folder, lambda tensor: "text"), "should be .* found nothing"),
        (lambda folder: edit_weights(folder, lambda tensor: tensor.to(torch.int32)), "found nothing"),
        (lambda folder: edit_weights(folder, lambda tensor: tensor.to_sparse()), "found nothing"),
        (lambda folder: edit_weights(folder, lambda tensor: tensor / 0), "holds infinities"),
        (lambda folder: edit_config(folder, attn_window_size=32), "attention .*attn_window_size 32"),
        (lambda folder: edit_config(folder, vq_strides=[8, 4, 2, 1]), "vq_strides .*seven tokens"),
        (lambda folder: edit_config(folder, decoder_rates=[4, 1]), "decoder_rates .* must be 2 or more"),
        (lambda folder: edit_config(folder, decoder_rates=[]), "decoder_rates .* must be 2 or more"),
        (lambda folder: edit_config(folder, decoder_dim=64), "does not fit its config.json"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_says_why_in_one_sentence(
    damage: object, sentence: str, folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    damage(copy)  # type: ignore[operator]
    with pytest.raises(WeightsError, match=sentence) as error:
        Codec.load(copy, codec_settings())
    assert "\n" not in str(error.value)


def test_a_pickle_that_would_run_code_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    torch.save({"decoder": threading.Event}, copy / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="cannot be read"):
        Codec.load(copy, codec_settings())


def test_older_checkpoints_with_weight_g_and_weight_v_load_the_same(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    old = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in tensors.items()
    }
    torch.save(old, copy / "pytorch_model.bin")
    name = "decoder.model.1.weight"
    config = read_config(folder)
    shape = (config.channels, config.latent_channels, 1)
    assert torch.equal(
        Checkpoint(copy).take_normed(name, *shape), Checkpoint(folder).take_normed(name, *shape)
    )


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "nonsense:1", "mps"])
def test_a_device_that_is_not_there_is_a_setup_error(name: str, folder: Path) -> None:
    with pytest.raises(SetupError, match="ORPHEUS_CODEC_DEVICE"):
        Codec.load(folder, codec_settings(codec_device=name))
