"""Errors as both tiers answer them."""

from __future__ import annotations

import httpx
from fastapi import FastAPI

from orpheus.http.responses import UNFORESEEN, install_error_handlers
from tests.support.live import served


def test_an_unexpected_error_is_reported_without_its_details() -> None:
    app = FastAPI()
    install_error_handlers(app)

    @app.get("/")
    async def broken() -> None:
        raise ZeroDivisionError("a bug that names /secret/paths")

    with served(app) as url:
        response = httpx.get(url, trust_env=False)
    assert response.status_code == 500
    assert response.json()["error"]["message"] == UNFORESEEN
