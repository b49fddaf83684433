"""docs/reference.md is what the code has, whoever writes it."""

from __future__ import annotations

import pytest

from docs.reference import reference
from orpheus.deploy.settings import Deployment
from orpheus.settings import Settings, setting_name
from tests.support.live import ROOT

PAGE = ROOT / "docs" / "reference.md"


def test_the_page_matches_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("ORPHEUS_PORT", "1")
    monkeypatch.setenv("ORPHEUS_STREAMS", "3")
    same = PAGE.read_text(encoding="utf-8") == reference()
    assert same, "docs/reference.md is not what the code has: run `make docs`."


def test_every_setting_is_in_it_once() -> None:
    names = [setting_name(field) for kind in (Settings, Deployment) for field in kind.model_fields]
    for name in names:
        assert PAGE.read_text(encoding="utf-8").count(f"| `{name}` |") == 1, name
