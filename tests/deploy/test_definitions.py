"""What `modal deploy` of the two scripts sends to Modal."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from orpheus.deploy import images
from orpheus.deploy.settings import AGENT_APP, LLAMA_APP, LLM_APP, LLM_MODEL, SPEECH_APP
from tests.deploy.conftest import EMBEDDED, modal_deploy, run
from tests.deploy.control_plane import ControlPlane
from tests.support.hub import TOKEN
from tests.support.live import ROOT


@pytest.fixture(scope="module")
def llama(deployed: ControlPlane) -> dict[str, Any]:
    return deployed.function(LLAMA_APP, "Llama")


@pytest.fixture(scope="module")
def speech(deployed: ControlPlane) -> dict[str, Any]:
    return deployed.function(SPEECH_APP, "Speech.*")


def test_the_control_plane_knows_every_call(deployed: ControlPlane) -> None:
    assert deployed.published == [LLAMA_APP, SPEECH_APP] == ["orpheus-llama-cpp", "orpheus-fastapi-tts"]
    assert deployed.unknown == []


def test_containers_have_a_gpu_four_cores_and_8_gib_and_scale_to_zero(
    llama: dict[str, Any], speech: dict[str, Any]
) -> None:
    for tier, gpu in ((llama, "L40S"), (speech, "L4")):
        assert tier["resources"]["gpu_config"] == {"gpu_type": gpu, "count": 1}
        assert (tier["resources"]["milli_cpu"], tier["resources"]["memory_mb"]) == (4000, 8192)
        scaler = tier["autoscaler_settings"]
        assert (scaler.get("min_containers", 0), scaler["max_containers"]) == (0, 3)
        assert (scaler["scaledown_window"], scaler.get("buffer_containers", 0)) == (1200, 0)
        assert tier["startup_timeout_secs"] == 600


def test_tier_1_is_a_server_behind_a_proxy_token_that_takes_its_streams_and_those_that_wait(
    llama: dict[str, Any],
) -> None:
    http = llama["http_config"]
    assert llama["is_server"] is True
    assert http["port"] == int(llama["environment"]["ORPHEUS_LLAMA_PORT"])
    assert not http.get("unauthenticated")
    assert (http["proxy_regions"], http["exit_grace_period"]) == (["us-east"], 60)
    assert llama["autoscaler_settings"]["target_concurrency_float"] == 24  # of 32 streams
    assert llama["max_concurrent_inputs"] == 32 + 8 + 8


def test_tier_2_is_a_web_function_with_long_calls_behind_a_proxy_token(speech: dict[str, Any]) -> None:
    config = speech["method_definitions"]["web"]["webhook_config"]
    assert (config["type"], config["requires_proxy_auth"]) == ("WEBHOOK_TYPE_ASGI_APP", True)
    assert speech["timeout_secs"] == 3600
    assert (speech["target_concurrent_inputs"], speech["max_concurrent_inputs"]) == (48, 64 + 8)
    assert not speech.get("checkpointing_enabled")


def test_the_weights_are_read_only_where_they_are_used_and_writable_where_they_are_fetched(
    deployed: ControlPlane, llama: dict[str, Any], speech: dict[str, Any]
) -> None:
    for tier in (llama, speech):
        assert tier["volumes"] == {"/weights": ("vo-orpheus_weights", True)}
        assert tier["environment"]["HF_HUB_OFFLINE"] == "1"
    for app in (LLAMA_APP, SPEECH_APP):
        fetch = deployed.function(app, "fetch_weights")
        assert fetch["volumes"] == {"/weights": ("vo-orpheus_weights", False)}
        assert fetch["environment"]["HF_HUB_CACHE"] == "/weights"
        assert "HF_HUB_OFFLINE" not in fetch["environment"]
        assert not fetch["resources"].get("gpu_config", {}).get("count")


def test_each_container_gets_the_secrets_it_needs(
    deployed: ControlPlane, llama: dict[str, Any], speech: dict[str, Any]
) -> None:
    assert (llama["secrets"], speech["secrets"]) == ([], ["st-named.voice_auth"])
    assert "HF_TOKEN" not in {*llama["environment"], *speech["environment"]}
    for app in (LLAMA_APP, SPEECH_APP):
        assert deployed.function(app, "fetch_weights")["environment"]["HF_TOKEN"] == TOKEN


def test_the_image_of_tier_1_compiles_llama_cpp_for_the_gpu_and_for_any_processor(
    llama: dict[str, Any],
) -> None:
    lines = "\n".join(llama["image"])
    assert "FROM nvidia/cuda:12.8.1-devel-ubuntu24.04" in lines
    assert "-DGGML_CUDA=ON" in lines
    assert "-DCMAKE_CUDA_ARCHITECTURES=89" in lines
    assert "-DGGML_NATIVE=OFF" in lines
    assert "-DGGML_AVX2=ON" in lines
    assert "llama-cpp-python==0.3.36" in lines
    assert "--no-binary llama-cpp-python" in lines
    assert "ENTRYPOINT []" in lines
    assert "torch" not in lines
    assert lines.index("CMAKE_ARGS") < lines.index("llama-cpp-python==")


def test_the_image_of_tier_2_has_torch_and_no_llama_cpp(speech: dict[str, Any]) -> None:
    lines = "\n".join(speech["image"])
    assert " torch " in lines
    assert "llama" not in lines


def test_both_images_install_what_their_extra_asks_for_as_locked(
    llama: dict[str, Any], speech: dict[str, Any]
) -> None:
    for tier, extra in ((llama, "llama"), (speech, "speech")):
        install = [line for line in tier["image"] if "/.uv/uv pip install" in line][-1]
        assert "--constraints /constraints.txt" in install
        assert {*images.requirements(), *images.requirements(extra)} <= set(shlex.split(install))
        assert any(line.startswith("COPY --from=ghcr.io/astral-sh/uv:0.") for line in tier["image"])


def test_all_of_our_sources_are_shipped_with_the_embedded_voice(
    llama: dict[str, Any], speech: dict[str, Any]
) -> None:
    ours = {
        path for path in (ROOT / "orpheus").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    for tier, script in ((llama, "orpheus_llama_modal.py"), (speech, "orpheus_fastapi_modal.py")):
        shipped = {Path(path).relative_to("/root") for path in tier["files"]}
        assert shipped == {path.relative_to(ROOT) for path in ours} | {Path(script), Path("pyproject.toml")}


@pytest.mark.slow
def test_the_agent_is_a_web_function_of_long_calls_that_browsers_can_reach(
    deployed_agent: ControlPlane,
) -> None:
    agent = deployed_agent.function(AGENT_APP, "Agent.*")
    config = agent["method_definitions"]["web"]["webhook_config"]
    assert (config["type"], config.get("requires_proxy_auth", False)) == ("WEBHOOK_TYPE_ASGI_APP", False)
    assert agent["resources"]["gpu_config"] == {"gpu_type": "L4", "count": 1}
    assert (agent["timeout_secs"], agent["startup_timeout_secs"]) == (3600, 600)
    assert agent["autoscaler_settings"]["scaledown_window"] == 1200
    assert (agent["target_concurrent_inputs"], agent["max_concurrent_inputs"]) == (12, 16 + 8)
    assert agent["environment"]["ORPHEUS_MAX_CONVERSATIONS"] == "16"
    assert agent["secrets"] == ["st-named.voice_auth"]
    assert agent["volumes"] == {"/weights": ("vo-orpheus_weights", True)}
    assert agent["environment"]["ORPHEUS_LLM_MODEL"] == LLM_MODEL


@pytest.mark.slow
def test_the_llm_is_a_server_behind_a_proxy_token_that_keeps_what_it_compiles(
    deployed_agent: ControlPlane,
) -> None:
    llm = deployed_agent.function(LLM_APP, "Llm")
    assert llm["is_server"] is True
    assert not llm["http_config"].get("unauthenticated")
    assert llm["http_config"]["port"] == int(llm["environment"]["ORPHEUS_LLAMA_PORT"]) + 1
    assert llm["resources"]["gpu_config"] == {"gpu_type": "L40S", "count": 1}
    assert (llm["autoscaler_settings"]["target_concurrency_float"], llm["max_concurrent_inputs"]) == (24, 40)
    assert llm["startup_timeout_secs"] == 600
    assert llm["environment"]["HF_HUB_OFFLINE"] == "1"
    assert llm["volumes"] == {"/weights": ("vo-orpheus_weights", False)}
    assert (llm["secrets"], "HF_TOKEN" in llm["environment"]) == ([], False)
    lines = "\n".join(llm["image"])
    assert "FROM nvidia/cuda:13" in lines
    assert "vllm==0." in lines
    assert not any(part in lines for part in ("llama-cpp", "faster-whisper", " torch "))


@pytest.mark.slow
def test_the_image_of_the_agent_hears_and_speaks_and_the_callers_does_neither(
    deployed_agent: ControlPlane,
) -> None:
    lines = "\n".join(deployed_agent.function(AGENT_APP, "Agent.*")["image"])
    for extra in ("speech", "agent"):
        assert set(images.requirements(extra)) <= set(shlex.split(lines))
    assert "llama-cpp" not in lines
    caller = deployed_agent.function(AGENT_APP, "speech_to_speech")
    assert not caller["resources"].get("gpu_config", {}).get("count")
    assert not {"torch", "faster-whisper"} & set(shlex.split("\n".join(caller["image"])))


@pytest.mark.slow
def test_all_of_our_sources_are_shipped_to_the_agent_once(deployed_agent: ControlPlane) -> None:
    ours = {
        path.relative_to(ROOT)
        for path in (ROOT / "orpheus").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    for app, tag in ((AGENT_APP, "Agent.*"), (AGENT_APP, "speech_to_speech"), (LLM_APP, "Llm")):
        shipped = {Path(path).relative_to("/root") for path in deployed_agent.function(app, tag)["files"]}
        assert shipped == ours | {Path("pyproject.toml")}


def test_settings_of_the_deploying_machine_reach_the_containers_but_secrets_do_not(
    plane: ControlPlane,
) -> None:
    modal_deploy(
        plane,
        "orpheus_fastapi_modal.py",
        ORPHEUS_TOP_P="0.7",
        ORPHEUS_SCALEDOWN_S="300",
        ORPHEUS_MAX_REQUESTS="16",
        ORPHEUS_MIN_CONTAINERS="1",
        ORPHEUS_MAX_CONTAINERS="5",
        ORPHEUS_GPU_SPEECH="t4",
        ORPHEUS_REGION="eu-west",
        ORPHEUS_OPEN_SPEECH="true",
        ORPHEUS_MEMORY_SNAPSHOT="true",
        ORPHEUS_API_KEYS="our-key",
        ORPHEUS_PROXY_SECRET="ws-ours",
        ORPHEUS_PORT="1",
        ORPHEUS_LLAMA_ENDPOINT="http://127.0.0.1:5006",
        HF_TOKEN="hf_ours",
    )
    speech = plane.function(SPEECH_APP, "Speech.*")
    environment, scaler = speech["environment"], speech["autoscaler_settings"]
    assert environment["ORPHEUS_TOP_P"] == "0.7"
    assert environment["ORPHEUS_MODEL"] == "lex-au/Orpheus-3b-FT-Q8_0.gguf"
    assert environment["ORPHEUS_CODEC"].startswith("hubertsiuzdak/snac_24khz@d73ad176")
    assert environment["ORPHEUS_CODEC_DEVICE"] == "cuda"
    assert not {"ORPHEUS_PORT", "ORPHEUS_LLAMA_ENDPOINT", "ORPHEUS_API_KEYS"} & set(environment)
    assert not any(secret in str(environment) for secret in ("our-key", "ws-ours", "hf_ours"))
    assert (scaler["min_containers"], scaler["max_containers"], scaler["scaledown_window"]) == (1, 5, 300)
    assert (speech["target_concurrent_inputs"], speech["max_concurrent_inputs"]) == (12, 24)
    assert speech["resources"]["gpu_config"]["gpu_type"] == "T4"
    assert speech["scheduler_placement"]["regions"] == ["eu-west"]
    assert speech["checkpointing_enabled"] is True
    assert not speech["method_definitions"]["web"]["webhook_config"].get("requires_proxy_auth")


@pytest.mark.slow
def test_deploying_again_changes_what_is_there(plane: ControlPlane) -> None:
    for gpu in ("L4", "T4"):
        modal_deploy(plane, "orpheus_fastapi_modal.py", ORPHEUS_GPU_SPEECH=gpu, **EMBEDDED)
    assert plane.published == [SPEECH_APP] * 2
    assert plane.function(SPEECH_APP, "Speech.*")["resources"]["gpu_config"]["gpu_type"] == "T4"


def test_without_the_secret_nothing_is_deployed(plane: ControlPlane) -> None:
    plane.secrets.clear()
    done = run(plane, "-m", "modal", "deploy", str(ROOT / "orpheus_fastapi_modal.py"), **EMBEDDED)
    assert done.returncode == 1
    assert "voice-auth" in done.stdout + done.stderr
    assert plane.published == []
