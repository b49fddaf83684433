from __future__ import annotations

from collections.abc import Iterator

import pytest

from orpheus.llama.engine import Engine
from tests.support.llama import engine_of


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """The embedded voice, four streams."""
    with engine_of() as loaded:
        yield loaded
