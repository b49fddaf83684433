"""What a program of this folder prints of its client, for test_others.py."""

from __future__ import annotations

from typing import Any

report: dict[str, Any] = {
    "errors": [],
    "called": [],
    "interrupted": 0,
    "samples": [],
    "heard": [],
    "said": [],
}
