from __future__ import annotations

from pathlib import Path

import pytest

from orpheus.deploy.settings import (
    LLM_MODEL,
    Deployment,
    Sizes,
    agent_environment,
    agent_sizes,
    container_environment,
    llama_sizes,
    load_deployment,
    routing_region,
    speech_sizes,
)
from orpheus.errors import SetupError
from orpheus.ops.settings_table import setting_rows, unknown_names
from orpheus.settings import Settings, load_settings


def test_the_defaults_cost_nothing_while_nobody_speaks() -> None:
    deployment = load_deployment()
    assert (deployment.min_containers, deployment.scaledown_s) == (0, 1200)
    assert (deployment.gpu_llama, deployment.gpu_speech) == ("L40S", "L4")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("gpu_llama", "L41", "L40S"),
        ("gpu_speech", "", "L40S"),
        ("gpu_llm", "L41", "L40S"),
        ("min_containers", -1, "greater"),
        ("max_containers", 0, "greater"),
        ("scaledown_s", 3601, "3600"),
        ("scaledown_s", 1, "2"),
        ("min_containers", "many", "integer"),
    ],
)
def test_what_modal_would_refuse_is_refused_here_by_name(name: str, value: object, says: str) -> None:
    with pytest.raises(SetupError, match=rf"ORPHEUS_{name.upper()}=.*{says}"):
        load_deployment(**{name: value})


def test_more_kept_running_than_allowed_is_refused() -> None:
    with pytest.raises(SetupError, match="ORPHEUS_MAX_CONTAINERS=3 cannot be used: it is less than"):
        load_deployment(min_containers=4)
    assert load_deployment(min_containers=4, max_containers=4).max_containers == 4


def test_what_opens_a_socket_of_tier_2_does_not_open_it_on_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORPHEUS_UNMUTE_OPEN", "true")
    assert container_environment(load_deployment())["ORPHEUS_UNMUTE_OPEN"] == "True"
    for single in (False, True):
        assert "ORPHEUS_UNMUTE_OPEN" not in agent_environment(load_deployment(single=single))


def test_the_sizes_follow_the_settings_of_the_tiers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORPHEUS_STREAMS", "48")
    monkeypatch.setenv("ORPHEUS_MAX_REQUESTS", "1")
    # Health checks must get through when all streams are taken.
    assert llama_sizes() == Sizes(target=36, most=48 + 12 + 8)
    assert speech_sizes() == Sizes(target=1, most=1 + 8)


@pytest.mark.parametrize(
    ("region", "proxy"),
    [
        (None, "us-east"),
        ("us", "us-east"),
        ("us-west-2", "us-west"),
        ("eu", "eu-west"),
        ("ap-south", "ap-south"),
    ],
)
def test_the_proxy_is_near_the_containers(region: str | None, proxy: str) -> None:
    assert routing_region(region) == proxy


def test_a_container_reads_the_same_deployment_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORPHEUS_REGION", "us")
    monkeypatch.setenv("ORPHEUS_TOP_P", "0.5")
    first = load_deployment()
    environment = container_environment(first)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert load_deployment() == first
    assert container_environment(load_deployment()) == environment


def test_containers_trace_to_the_same_collector_whose_key_stays_out_of_their_definition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://traces.example")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=secret")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "authorization=secret")
    environment = container_environment(load_deployment())
    assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == "https://traces.example"
    assert "secret" not in str(environment)


def test_a_collector_on_the_deploying_machine_is_not_the_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    environment = container_environment(load_deployment())
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" not in environment
    assert environment["OTEL_SERVICE_NAME"] == "mine"


def test_the_codec_belongs_to_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    assert container_environment(load_deployment())["ORPHEUS_CODEC"].startswith("hubertsiuzdak/")
    monkeypatch.setenv("ORPHEUS_MODEL", "embedded")
    assert container_environment(load_deployment())["ORPHEUS_CODEC"] == "embedded"


@pytest.mark.parametrize("url", ["https://tokens.example/v1", "https://x--y.us-east.modal.direct"])
def test_another_tier_1_is_passed_to_the_containers(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ORPHEUS_LLAMA_ENDPOINT", url)
    assert container_environment(load_deployment())["ORPHEUS_LLAMA_ENDPOINT"] == url


@pytest.mark.parametrize("name", ["ORPHEUS_MODEL", "ORPHEUS_CODEC"])
@pytest.mark.parametrize("path", ["/home/me/m.gguf", "./m.gguf", "~/m.gguf", "my-voice.gguf", "mine/m.gguf"])
def test_weights_of_this_machine_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/m.gguf").touch()
    monkeypatch.setenv(name, path)
    with pytest.raises(SetupError, match=f"{name}={path} is a path of this machine"):
        container_environment(load_deployment())


def test_an_agent_takes_as_many_conversations_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert agent_sizes() == Sizes(target=12, most=16 + 8)
    monkeypatch.setenv("ORPHEUS_MAX_CONVERSATIONS", "40")
    assert agent_sizes() == Sizes(target=30, most=40 + 8)
    assert agent_environment(load_deployment())["ORPHEUS_MAX_CONVERSATIONS"] == "40"


def test_an_agent_and_its_llm_agree_on_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    assert agent_environment(load_deployment())["ORPHEUS_LLM_MODEL"] == LLM_MODEL
    monkeypatch.setenv("ORPHEUS_LLM_MODEL", "some/one@v2")
    environment = agent_environment(load_deployment())
    assert environment["ORPHEUS_LLM_MODEL"] == "some/one@v2"
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert agent_environment(load_deployment()) == environment


def test_an_llm_elsewhere_is_taken_over_but_not_one_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORPHEUS_LLM_MODEL", "llama3.2")
    monkeypatch.setenv("ORPHEUS_LLM_URL", "https://llm.example")
    monkeypatch.setenv("ORPHEUS_STT_URL", "http://localhost:9000")
    environment = agent_environment(load_deployment())
    assert environment["ORPHEUS_LLM_URL"] == "https://llm.example"
    assert "ORPHEUS_STT_URL" not in environment
    monkeypatch.setenv("ORPHEUS_LLM_URL", "http://127.0.0.1:11434")
    with pytest.raises(SetupError, match=r"ORPHEUS_LLM_MODEL=llama3\.2 is no Hugging Face repository"):
        agent_environment(load_deployment())


def test_the_command_line_knows_these_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORPHEUS_GPU_LLAMA", "L4")
    monkeypatch.setenv("ORPHEUS_GPU_LAMA", "L4")
    assert [sentence.split()[0] for sentence in unknown_names(Settings, Deployment)] == ["ORPHEUS_GPU_LAMA"]
    rows = {row.name: row for row in setting_rows(load_deployment())}
    assert (rows["ORPHEUS_GPU_LLAMA"].value, rows["ORPHEUS_GPU_LLAMA"].source) == ("L4", "environment")
    assert all(row.description.startswith("Modal:") for row in rows.values())


def test_the_voices_of_a_file_go_along_and_an_adapter_on_this_disk_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "voices.yaml"
    path.write_text("- id: ronan\n  sample: |\n    Two\n    lines.\n- {id: anna, language: de}\n")
    monkeypatch.setenv("ORPHEUS_VOICES", str(path))
    sent = container_environment(load_deployment())["ORPHEUS_VOICES"]
    assert "\n" not in sent
    assert load_settings(voices=sent).own_voices == load_settings(voices=str(path)).own_voices
    monkeypatch.setenv("ORPHEUS_VOICES", sent)  # in a container the definition is read again
    assert container_environment(load_deployment())["ORPHEUS_VOICES"] == sent
    monkeypatch.setenv("ORPHEUS_LORA", "my.gguf:0.5")
    with pytest.raises(SetupError, match="ORPHEUS_LORA is a file of this machine: merge it into the model"):
        container_environment(load_deployment())
