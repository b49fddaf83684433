"""Settings, environment and `.env` → what `orpheus settings` prints, and warnings about names that are no setting.

Knows nothing of what a setting means.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from dotenv import dotenv_values

from orpheus.deploy.settings import Deployment
from orpheus.settings import ENV_FILE, PREFIX, Settings, setting_name


@dataclass(frozen=True)
class SettingRow:
    """One setting as `orpheus settings` prints it."""

    name: str
    value: str
    source: str  # "environment" | ".env" | "default"
    description: str


def unknown_names() -> Iterator[str]:
    """A sentence for each ORPHEUS_ name in the environment or `.env` that is no setting."""
    known = {setting_name(field) for kind in (Settings, Deployment) for field in kind.model_fields}
    for name in sorted({*os.environ, *_dotenv()}):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.0)
            yield f"{name} is no setting and is ignored; did you mean {near[0]}?"


def setting_rows(settings: Settings | Deployment) -> Iterator[SettingRow]:
    """All settings with their values and where each came from. Secrets are masked."""
    environment = {name.upper(): value for name, value in os.environ.items() if value}
    dotenv = {name.upper(): value for name, value in _dotenv().items() if value}
    for field, info in type(settings).model_fields.items():
        name = setting_name(field)
        source = "environment" if name in environment else ".env" if name in dotenv else "default"
        value = getattr(settings, field)
        yield SettingRow(name, "" if value is None else str(value), source, info.description or "")


def _dotenv() -> dict[str, str | None]:
    return dotenv_values(ENV_FILE) if ENV_FILE.is_file() else {}
