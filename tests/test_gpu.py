"""Which GPUs the published model is the default on, by what llama.cpp and the driver tell of them."""

from __future__ import annotations

import logging

import pytest

from orpheus import gpu as gpu_module
from orpheus import llamacpp, weights
from orpheus.gpu import Gpu, find_gpu

GIB = 1 << 30


def gpu(
    name: str, description: str, gib: float, bandwidth: float | None = None, integrated: bool = False
) -> Gpu:
    return Gpu(name, description, integrated, round(gib * 0.97 * GIB), round(gib * GIB), bandwidth)


@pytest.mark.parametrize(
    ("device", "keeps_up"),
    [
        (gpu("CUDA0", "NVIDIA L40S", 44.4, 864), True),
        (gpu("CUDA0", "NVIDIA L4", 22.5, 300), False),
        (gpu("CUDA0", "NVIDIA GeForce RTX 3060", 11.6, 360), False),
        (gpu("CUDA0", "NVIDIA GeForce RTX 3060 Ti", 7.7, 448), True),
        (gpu("CUDA0", "NVIDIA GeForce GTX 1650", 3.8, 128), False),
        (gpu("CUDA0", "Orin", 30, 204, integrated=True), False),
        (gpu("CUDA0", "one whose driver does not tell", 24), True),
        (gpu("ROCm0", "AMD Radeon RX 7900 XTX", 24), True),
        (gpu("ROCm0", "AMD Radeon 780M", 16, integrated=True), False),
        (gpu("MTL0", "Apple M1", 10.7, integrated=True), False),
        (gpu("MTL0", "Apple M4 Pro", 32, integrated=True), False),
        (gpu("MTL0", "Apple M1 Max", 21.3, integrated=True), True),
        (gpu("MTL0", "Apple M2 Ultra", 128, integrated=True), True),
        (gpu("Vulkan0", "llvmpipe (LLVM 15.0.6, 256 bits)", 24), False),
        (gpu("Vulkan0", "AMD Radeon RX 7900 XTX (RADV NAVI31)", 24), True),
        (gpu("Vulkan0", "Intel(R) Arc(tm) A380 Graphics", 6), False),
        (gpu("Vulkan0", "Intel(R) Iris(R) Xe Graphics", 16, integrated=True), False),
    ],
)
def test_the_published_model_is_the_default_only_where_it_keeps_up(
    device: Gpu, keeps_up: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gpu_module, "find_gpu", lambda: device)
    with caplog.at_level(logging.WARNING):
        assert weights.gpu_keeps_up.__wrapped__() is keeps_up
    assert ("embedded voice" in caplog.text) is not keeps_up


def test_what_llama_cpp_lists_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without a GPU its CPU stands in for one: the same structure, by the same calls."""
    monkeypatch.setattr(llamacpp, "gpu_available", lambda: True)
    monkeypatch.setattr(gpu_module, "_GPU", 0)
    found = find_gpu()
    assert found is not None
    assert found.name
    assert found.description
    assert 0 < found.free_bytes <= found.total_bytes


def test_a_build_without_a_gpu_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llamacpp, "gpu_available", lambda: False)
    assert find_gpu() is None
