"""The OpenAPI document: requests generated from it get no server error and only documented responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from orpheus.tts.encode import CONTENT_TYPES
from tests.support.upstream import Upstream

Start = Callable[..., httpx.Client]
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def test_generated_requests_get_only_documented_responses(speech: Start, upstream: Upstream) -> None:
    client = speech(max_input_chars=200)
    document = client.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    seen: set[tuple[str, int]] = set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=25,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def check(case: Any) -> None:
            response = case.call(base_url=str(client.base_url), session=_session())
            seen.add((case.operation.path, response.status_code))
            case.validate_response(response, checks=CHECKS)

        check()
    assert {(f"/v1/audio/speech{more}", status) for more in ("", "/stream") for status in (200, 400)} <= seen


def _session() -> Any:
    import requests

    session = requests.Session()
    session.trust_env = False
    return session


def test_the_document_lists_every_route_with_its_responses(speech: Start) -> None:
    paths = speech().get("/openapi.json").json()["paths"]
    assert set(paths) == {
        "/v1/audio/speech", "/v1/audio/speech/stream", "/v1/models", "/v1/models/{model_id}", "/v1/audio/models",
        "/v1/audio/voices", "/v1/test", "/v1/", "/health", "/ready", "/live", "/metrics",
        "/api/build_info", "/api/modules_info",
    }  # fmt: skip
    speak = paths["/v1/audio/speech"]["post"]["responses"]
    assert set(speak) == {"200", "400", "401", "413", "429", "500", "502", "503"}
    kinds = {kind.split(";")[0] for kind in CONTENT_TYPES.values()} | {"text/event-stream"}
    assert set(speak["200"]["content"]) == kinds
    for methods in paths.values():
        for operation in methods.values():
            assert "422" not in operation["responses"]
            assert operation.get("description")


def test_the_document_declares_a_key_only_if_one_is_required(speech: Start) -> None:
    assert "security" not in speech().get("/openapi.json").json()
    document = speech(api_keys="k").get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
