"""Which device the codec takes, on machines whose GPU torch can use, cannot use, or does not have."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from orpheus.codec.decoder import Decoder
from orpheus.codec.device import choose_device


def test_without_a_gpu_the_codec_takes_the_cpu_and_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    if torch.cuda.device_count():
        pytest.skip("there is a GPU")
    with caplog.at_level(logging.WARNING):
        assert choose_device("auto") == "cpu"
    assert caplog.text == ""


def test_a_gpu_that_computes_nothing_leaves_the_codec_on_the_cpu_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a card does that this torch has no code for, which `is_available` does not tell."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def no_code(*_: object, **__: object) -> None:
        raise torch.AcceleratorError("CUDA error: no kernel image is available\nmany lines")

    monkeypatch.setattr(torch, "ones", no_code)
    with caplog.at_level(logging.WARNING):
        assert choose_device("auto") == "cpu"
    assert "no kernel image is available" in caplog.text
    assert "many lines" not in caplog.text


def test_cuda_is_the_first_card_whichever_is_current_in_a_thread(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices: list[torch.device] = []

    def stop(_: object, device: torch.device) -> None:
        devices.append(device)
        raise StopIteration

    monkeypatch.setattr("orpheus.codec.decoder.to_device", stop)
    for name in ("cuda", "cuda:1", "cpu"):
        with pytest.raises(StopIteration):
            Decoder.load(folder, device=name)
    assert devices == [torch.device("cuda", 0), torch.device("cuda", 1), torch.device("cpu")]
