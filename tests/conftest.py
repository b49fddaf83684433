from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from orpheus.codec import Codec, Decoder
from orpheus.settings import Settings, load_settings
from tests.support.live import Pair, running_pair


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reads the environment or the .env of whoever runs it."""
    for name in list(os.environ):
        if name.startswith(("ORPHEUS_", "OTEL_")) or name == "HF_TOKEN":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def quiet_settings() -> Settings:
    """The embedded voice."""
    return load_settings(model="embedded", codec="embedded")


@pytest.fixture(scope="session")
def codec(quiet_settings: Settings) -> Iterator[Codec]:
    import torch

    from orpheus import embedded

    torch.set_num_threads(quiet_settings.cpu_threads)  # as Codec.load does; more of them do not round alike
    loaded = Codec(Decoder.load(embedded.CODEC, noise=False))  # so that samples can be compared
    yield loaded
    loaded.close()


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Both tiers as a user starts them, one pair for the whole run."""
    with running_pair(tmp_path_factory.mktemp("pair")) as pair:
        yield pair
