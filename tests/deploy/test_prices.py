from __future__ import annotations

import pytest

from orpheus.deploy.prices import hourly_usd


def test_a_container_costs_its_gpu_its_cores_and_its_memory() -> None:
    assert hourly_usd("L40S", 0, 0, None) == pytest.approx(1.95, abs=0.005)
    assert hourly_usd("L4", 0, 0, None) == pytest.approx(0.80, abs=0.005)
    assert hourly_usd("L40S", 4, 16, None) == pytest.approx(2.27, abs=0.005)
    assert hourly_usd("L4", 4, 16, None) == pytest.approx(1.12, abs=0.005)


def test_a_region_costs_more_and_a_narrow_one_most() -> None:
    anywhere = hourly_usd("L4", 4, 8, None)
    assert hourly_usd("L4", 4, 8, "us") == pytest.approx(1.15 * anywhere)
    assert hourly_usd("L4", 4, 8, "us-east") == pytest.approx(1.75 * anywhere)
