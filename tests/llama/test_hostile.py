"""Clients that take a stream of tier 1 and read nothing of it."""

from __future__ import annotations

import json

import httpx
import pytest

from benchmarks.faults import hostile
from orpheus.http import connections
from orpheus.llama.server import create_app
from tests.support.live import keep_little_unread, served
from tests.support.llama import TEXT, load, settings
from tests.support.waiting import eventually


def test_readers_that_stop_give_their_streams_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "STALL_S", 0.4)
    monkeypatch.setattr(connections, "CHECK_S", 0.02)
    keep_little_unread(monkeypatch, 1)
    body = {
        "prompt": TEXT,
        "max_tokens": 480,
        "stream": True,
        "constrained": False,
        "temperature": 2,
        "return_token_ids": True,
    }
    app = create_app(settings(), lambda: load(waiting=2))
    with served(app) as url, httpx.Client(base_url=url, timeout=20, trust_env=False) as client:
        eventually(lambda: client.get("/health").status_code == 200)
        stuck = [hostile.opened(url, receive_bytes=1) for _ in range(4)]
        for reader in stuck:
            reader.sendall(hostile.post(json.dumps(body).encode(), "/v1/completions"))
        eventually(lambda: client.get("/health").json()["active"] == 4)
        eventually(lambda: client.get("/health").json()["active"] == 0)
        ends = [hostile.answer_of(reader).end for reader in stuck]
        assert "reset" in ends  # a short one may have come to its end before
        for reader in stuck:
            reader.close()
