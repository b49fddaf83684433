"""No key reaches a log or a console, in whatever form and at whatever level."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from orpheus import logs
from orpheus.errors import SetupError
from orpheus.ops.settings_table import setting_rows
from orpheus.redaction import Redactor, address, redacted
from orpheus.settings import load_settings
from tests.support.live import clean_environment, free_port, healthy

SECRET = "s3cret-Value"


@pytest.mark.parametrize(
    "text",
    [
        "GET /ws?api_key={} HTTP/1.1",
        "GET /ws?voice=tara&api_key={} HTTP/1.1",
        "GET /ws?api%5Fkey={} HTTP/1.1",
        "GET /ws?AUTH_ID={}",
        '127.0.0.1:1 - "POST /v1/completions?key={}&x=1 HTTP/1.1" 200',
        "GET /x?token={}#there",
        "< x-api-key: {}",
        "< X-Api-Key:{}",
        "> kyutai-api-key: {}",
        "> authorization: Bearer {}",
        "> Authorization: Basic {}",
        "> proxy-authorization: {}",
        "> Modal-Key: {}",
        "> modal-secret: two words {}",
        "< cookie: a=b; session={}",
        "{{'x-api-key': '{}', 'b': 1}}",
        '{{"api_key": "{}"}}',
        '{{\\"api_key\\": \\"{}\\"}}',
        "[(b'Modal-Secret', b'{}'), (b'host', b'a')]",
        "Headers({{'authorization': 'Bearer {}'}})",
        "ORPHEUS_API_KEY={} orpheus say",
        "ORPHEUS_PROXY_SECRET={}",
        "HF_TOKEN = {}",
        "key={}",
        "token={}",
        "password={}",
        "http://user:{}@host:8000/v1",
        "https://user:p@{}@host/v1",
        "HTTPS://{}@host",
        "ws://{}:x@[::1]:5005/ws",
        "Bearer {}",
        "token hf_{}",
        "wk-{}.ws-{}",
        "sk-{}",
    ],
)
def test_a_secret_is_found_however_it_is_written(text: str) -> None:
    shown = redacted(text.format(*[SECRET] * text.count("{}")))
    assert SECRET not in shown
    assert redacted(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "route=/v1/audio/speech status=200 outcome=done chars=12 request_id=req_1",
        "The model did not reach the end of a segment of 280 characters within 5930 tokens.",
        "set ORPHEUS_PROXY_KEY and ORPHEUS_PROXY_SECRET to the proxy token, and ORPHEUS_API_KEY if needed.",
        "Orpheus is ready at http://127.0.0.1:5005",
        "Is it a@b.example? Yes: https://host/path.",
        "unexpected token: <custom_token_7>",
        "tier 1 at http://127.0.0.1:5006/v1/completions: ReadError()",
    ],
)
def test_the_rest_stays_as_it_is(text: str) -> None:
    assert redacted(text) == text


def test_the_values_of_our_own_settings_go_in_any_form() -> None:
    redact = Redactor(["p@ss/wörd", "abc"])
    assert redact("it was p@ss/wörd, or p%40ss%2Fw%C3%B6rd") == "it was …, or …"
    assert redact("abc is too short to be looked for") == "abc is too short to be looked for"


def test_an_address_is_shown_without_user_password_query_and_fragment() -> None:
    assert address("http://u:p@host:1/v1/completions?key=x#y") == "http://host:1/v1/completions"


@pytest.mark.parametrize(
    "filler", ["a-", "a.", "cookie ", "x://", "?a", "&", "api", "bearer ", "'", "key=", "@", "a://@"]
)
def test_a_text_that_a_client_chose_takes_no_time(filler: str) -> None:
    text = filler * (64_000 // len(filler))
    started_s = time.process_time()
    redacted(text)
    assert time.process_time() - started_s < 5  # a square of the length would take minutes


@pytest.mark.parametrize("format", ["text", "json"])
def test_both_formats_redact_message_fields_and_traceback(
    format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As any library would log, with the lines that this process configured."""
    settings = load_settings(
        log_format=format,
        log_level="debug",
        api_keys=f"first-key, {SECRET}",
        llama_endpoint="http://u:open-sesame@h",
    )
    before = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        logs.configure(settings)
        log = logging.getLogger("some.library")
        log.debug("< GET %s HTTP/1.1", "/ws?api_key=unknown-key&voice=tara")
        log.info("known: %s", SECRET, extra={"fields": {"path": f"/x/{SECRET}", "list": [SECRET], "n": 1}})
        try:
            raise ValueError(f"http://u:open-sesame@h {SECRET}")
        except ValueError:
            log.exception("it failed with x-api-key: another-key")
    finally:
        logging.basicConfig(handlers=before[0], level=before[1], force=True)
    written = capsys.readouterr().err
    for secret in (SECRET, "first-key", "unknown-key", "another-key", "open-sesame"):
        assert secret not in written
    assert "Traceback" in written
    assert "path" in written
    if format == "json":
        assert json.loads(written.splitlines()[1])["n"] == 1


def test_a_wrong_or_listed_address_does_not_tell_its_password(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (f"htp://u:{SECRET}@h", f"http://u:{SECRET}/x@h:port", f"u:{SECRET}@h"):
        for name in ("llama_endpoint", "fastapi_url"):
            with pytest.raises(SetupError) as raised:
                load_settings(**{name: wrong})
            assert SECRET not in str(raised.value)
    rows = setting_rows(
        load_settings(llama_endpoint=f"http://u:{SECRET}@h:1", fastapi_url=f"http://u:{SECRET}@h:2")
    )
    shown = {row.name: row.value for row in rows}
    assert shown["ORPHEUS_LLAMA_ENDPOINT"] == "http://h:1"
    assert shown["ORPHEUS_FASTAPI_URL"] == "http://h:2"


def test_at_debug_level_neither_tier_logs_a_key(tmp_path: Path) -> None:
    """The processes as they are started: uvicorn's, websockets' and httpx's own lines included."""
    port, llama_port = free_port(), free_port()
    environment = clean_environment(
        ORPHEUS_LOG_LEVEL="debug",
        ORPHEUS_API_KEYS="right-key",
        ORPHEUS_MODEL="embedded",
        ORPHEUS_PORT=str(port),
        ORPHEUS_LLAMA_PORT=str(llama_port),
        ORPHEUS_LLAMA_ENDPOINT=f"http://speaker:open-sesame@127.0.0.1:{llama_port}",
    )
    log = tmp_path / "both.log"
    with log.open("w") as out:
        tiers = [
            subprocess.Popen(
                [sys.executable, "-m", "orpheus", tier], env=environment, cwd=tmp_path, stdout=out, stderr=out
            )
            for tier in ("llama", "speech")
        ]
    try:
        url, llama_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{llama_port}"
        deadline_s = time.monotonic() + 120
        while not (healthy(url) and healthy(llama_url)):
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.2)
        secrets = ["right-key", "wrong-key", "open-sesame", "wk-123456789"]
        with httpx.Client(trust_env=False, timeout=30) as client:
            body = {"input": "Hello.", "response_format": "pcm", "max_tokens": 70}
            for key in ("right-key", "wrong-key"):
                headers = {
                    "Authorization": f"Bearer {key}",
                    "Modal-Key": "wk-123456789",
                    "Cookie": "s=wrong-key",
                }
                client.post(f"{url}/v1/audio/speech?key={key}", json=body, headers=headers)
                client.get(f"{llama_url}/v1/models?api_key={key}", headers={"x-api-key": key})
                try:
                    with connect(
                        f"ws://127.0.0.1:{port}/ws?auth_id={key}",
                        additional_headers={"x-api-key": key},
                        proxy=None,
                    ) as ws:
                        ws.send("Hello.")
                        ws.recv()
                except WebSocketException:
                    pass
    finally:
        for tier in tiers:
            tier.terminate()
        for tier in tiers:
            tier.wait(20)
    written = log.read_text()
    assert "/ws?auth_id=" in written  # it is logged, without its value
    assert "/v1/models?api_key=" in written
    for secret in secrets:
        assert secret not in written
