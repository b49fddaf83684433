import os
import re
from pathlib import Path

import pytest

from orpheus.deploy.settings import Deployment
from orpheus.errors import SetupError
from orpheus.ops.settings_table import REPLACED, names_in, setting_rows, unknown_names
from orpheus.settings import ADDRESSES, PREFIX, Settings, endpoint, load_settings

GROUPS = (Settings, Deployment)


def test_the_names_of_the_first_attempt_are_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "ORPHEUS_FASTAPI_URL": "http://a:1",
        "ORPHEUS_LLAMA_ENDPOINT": "http://b:2",
        "ORPHEUS_MODEL_NAME": "m",
        "ORPHEUS_MAX_TOKENS": "900",
        "ORPHEUS_TEMPERATURE": "0.5",
        "ORPHEUS_TOP_P": "0.8",
        "ORPHEUS_SAMPLE_RATE": "16000",
    }.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert (settings.fastapi_url, settings.model_name) == ("http://a:1", "m")
    assert (settings.max_tokens, settings.temperature, settings.top_p) == (900, 0.5, 0.8)
    assert settings.sample_rate == 16000
    assert settings.completions_url == "http://b:2/v1/completions"


def test_their_defaults_are_the_published_ones() -> None:
    settings = load_settings()
    assert (settings.max_tokens, settings.temperature, settings.top_p) == (8192, 0.6, 0.9)
    assert (settings.host, settings.port, settings.llama_port) == ("127.0.0.1", 5005, 5006)


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/completions"])
def test_the_endpoint_may_be_written_in_every_usual_way(url: str) -> None:
    assert load_settings(llama_endpoint=url).completions_url == "http://h:1/v1/completions"


@pytest.mark.parametrize(
    "url", ["http://h:1/api", "http://h:1/api/v1/", "http://h:1/api/v1/audio/transcriptions"]
)
def test_any_endpoint_may_be_written_so(url: str) -> None:
    assert endpoint(url, "/audio/transcriptions") == "http://h:1/api/v1/audio/transcriptions"


def test_the_agents_keys_and_passwords_are_secrets() -> None:
    settings = load_settings(
        llm_url="https://u:llm-pass@a/v1",
        stt_url="https://u:stt-pass@b/v1",
        llm_api_key="llm-key-1",
        stt_api_key="stt-key-1",
    )
    secrets = {"llm-pass", "stt-pass", "llm-key-1", "stt-key-1"}
    assert secrets <= {*settings.secrets}
    shown = "".join(row.value for row in setting_rows(settings))
    assert not [secret for secret in secrets if secret in shown]


def test_the_environment_wins_over_dotenv_and_options_over_both(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("ORPHEUS_PORT=1111\nORPHEUS_TOP_P=0.7\nOTHER=1\nHF_TOKEN=hf_secret\n")
    monkeypatch.setenv("ORPHEUS_PORT", "2222")
    settings = load_settings(host="0.0.0.0")
    assert (settings.port, settings.top_p, settings.host) == (2222, 0.7, "0.0.0.0")
    rows = {row.name: row for row in setting_rows(settings)}
    assert rows["ORPHEUS_PORT"].source == "environment"
    assert rows["ORPHEUS_TOP_P"].source == ".env"
    assert rows["ORPHEUS_TEMPERATURE"].source == "default"
    assert all(row.description for row in rows.values())
    assert "hf_secret" not in "".join(row.value for row in rows.values())


@pytest.mark.parametrize(("name", "value"), [("ORPHEUS_TOP_P", "7"), ("ORPHEUS_STREAMS", str(10**30))])
def test_a_value_out_of_range_is_one_sentence_with_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SetupError, match=f"{name}='{value}'") as caught:
        load_settings()
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ADDRESSES)
@pytest.mark.parametrize(
    "url", ["localhost:5006", "127.0.0.1:5006", "/v1", "http://", "http://[::1", "ftp://h", "http://h:50O6"]
)
def test_an_invalid_url_is_refused_before_any_request(
    monkeypatch: pytest.MonkeyPatch, name: str, url: str
) -> None:
    monkeypatch.setenv(name, url)
    with pytest.raises(SetupError, match=f"{name}=.*write (http://HOST:PORT|memory:)"):
        load_settings()


def test_a_dotenv_that_is_not_utf8_is_an_error_that_names_it() -> None:
    Path(".env").write_bytes("ORPHEUS_MODEL=/home/andré/voice.gguf\n".encode("latin-1"))
    with pytest.raises(SetupError, match=r"\.env cannot be read.*UTF-8"):
        load_settings()


@pytest.mark.parametrize("keys", [",", " ", " , ,"])
def test_a_list_without_a_key_does_not_open_the_server(keys: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORPHEUS_API_KEYS", keys)
    with pytest.raises(SetupError, match=r"ORPHEUS_API_KEYS=.*no key"):
        load_settings()


def test_keys_are_read_between_commas_and_an_empty_value_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORPHEUS_API_KEYS", ", one ,two,")
    assert load_settings().client_headers == {"x-api-key": "one"}
    monkeypatch.setenv("ORPHEUS_API_KEYS", "")
    assert load_settings().api_keys is None
    assert load_settings(api_keys="").api_keys is None


KEYS = ("API_KEYS", "API_KEY", "LLAMA_API_KEY", "PROXY_KEY", "PROXY_SECRET")


@pytest.mark.parametrize("name", [*(f"ORPHEUS_{name}" for name in KEYS), "HF_TOKEN"])
@pytest.mark.parametrize("value", ["ключ-secret", "secret\nX-Other: 1", "secret\x7f", "secrét", " \n"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SetupError, match=f"^{name}=… cannot be used") as refused:
        load_settings()
    assert "secr" not in str(refused.value)


def test_a_key_that_was_kept_in_a_file_loses_the_end_of_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.setenv(f"ORPHEUS_{name}", f" {name}-secret\r\n")
    settings = load_settings()
    assert settings.client_headers == {
        "Modal-Key": "PROXY_KEY-secret",
        "Modal-Secret": "PROXY_SECRET-secret",
        "x-api-key": "API_KEY-secret",
    }
    assert set(settings.secrets) == {f"{name}-secret" for name in KEYS}


def test_an_unknown_name_is_a_warning_with_the_nearest_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORPHEUS_TEMPRATURE", "1")
    Path(".env").write_text("ORPHEUS_PROT=1\n")
    said = "\n".join(unknown_names(*GROUPS))
    assert "ORPHEUS_TEMPERATURE?" in said
    assert "ORPHEUS_PORT?" in said


def test_the_proxy_token_is_sent_only_if_complete() -> None:
    assert load_settings(proxy_key="wk-1").proxy_headers == {}
    settings = load_settings(proxy_key="wk-1", proxy_secret="ws-1")
    assert settings.proxy_headers == {"Modal-Key": "wk-1", "Modal-Secret": "ws-1"}
    assert "ws-1" not in "".join(row.value for row in setting_rows(settings))


def test_a_setting_that_is_gone_is_a_warning_with_what_replaced_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORPHEUS_SLOT_TOKENS", "1024")
    assert list(unknown_names(*GROUPS)) == [
        "ORPHEUS_SLOT_TOKENS is no longer a setting and is ignored: use ORPHEUS_CONTEXT_TOKENS."
    ]


def test_no_current_setting_is_listed_as_gone_and_every_replacement_exists() -> None:
    known = names_in(*GROUPS)
    assert not {PREFIX + name for name in REPLACED} & {*known}
    for sentence in REPLACED.values():
        assert {*re.findall(r"ORPHEUS_[A-Z_]+", sentence)} <= {*known}


def test_there_are_few_settings() -> None:
    # 51 of the pair and its deployment; 8 of the agent: where its LLM and its recognizer are, how many may talk, who may call.
    # The last of the 51: only an operator knows whether tier 1 is also asked for text, which needs another copy of the model.
    assert len(names_in(*GROUPS)) <= 59, "a constant with its reason does for what nobody needs to change"


def test_clients_send_their_own_key_or_the_first_of_the_servers() -> None:
    assert load_settings(api_keys="one,two").client_headers == {"x-api-key": "one"}
    assert load_settings(api_keys="one,two", api_key="mine").client_headers == {"x-api-key": "mine"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("context_tokens", 2**30),
        ("context_tokens", 2**31 + 256),
        ("threads", 99_999),
        ("gpu_layers", 2**40),
        ("max_tokens", 2**40),
        ("drain_s", 10**20),
        ("cold_wait_s", "inf"),
        ("cold_wait_s", "nan"),
        ("streams", 2**32 + 1),
    ],
)
def test_a_number_that_the_engine_cannot_count_to_is_refused(
    monkeypatch: pytest.MonkeyPatch, field: str, value: object
) -> None:
    monkeypatch.setenv(PREFIX + field.upper(), str(value))
    with pytest.raises(SetupError, match=f"{PREFIX}{field.upper()}=.*cannot be used"):
        load_settings()


def test_more_threads_than_cores_are_not_started() -> None:
    assert load_settings(threads=512).cpu_threads <= (os.cpu_count() or 1)
