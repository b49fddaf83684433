from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.random_snac import save_random_snac


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TINY SNAC."""
    return save_random_snac(tmp_path_factory.mktemp("service") / "tiny")
