"""`python deploy_orpheus_modal.py` and `modal run` as a user runs them, with each exit code."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import modal
import pytest
from grpclib import Status

from orpheus.deploy import modal_api
from orpheus.deploy.agent import Answer
from orpheus.deploy.errors import DeployFailed, NotLoggedIn, TokenRefused, Unreachable
from orpheus.deploy.settings import AGENT_APP, LLAMA_APP, LLM_APP, SPEECH_APP
from orpheus.errors import WeightsError
from tests.deploy.conftest import AGENT_SCRIPT, EMBEDDED, KEY, run
from tests.deploy.control_plane import ControlPlane
from tests.support.live import ROOT, Pair, clean_environment

PROXY = {"ORPHEUS_PROXY_KEY": "wk-1", "ORPHEUS_PROXY_SECRET": "ws-1"}


def deploy(
    plane: ControlPlane, *options: str, code: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The script, which must end with this exit code and no traceback."""
    done = run(plane, str(ROOT / "deploy_orpheus_modal.py"), *options, **environment)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_both_tiers_are_deployed_in_order_with_their_weights_and_their_urls_are_printed(
    plane: ControlPlane,
) -> None:
    done = deploy(plane, "--max-containers", "7", "--gpu-llama", "H100", "--region", "us-west")
    assert plane.unknown == []
    order = [name for name, _ in plane.calls if name in ("AppPublish", "FunctionMap")]
    assert order == ["AppPublish", "FunctionMap"] * 2
    assert plane.published == [LLAMA_APP, SPEECH_APP]
    assert f"{LLAMA_APP}: fetched" in done.stdout
    assert f"{SPEECH_APP}: fetched" in done.stdout
    llama = plane.function(LLAMA_APP, "Llama")
    assert llama["resources"]["gpu_config"]["gpu_type"] == "H100"
    assert llama["autoscaler_settings"]["max_containers"] == 7
    assert llama["http_config"]["proxy_regions"] == ["us-west"]
    assert "-DCMAKE_CUDA_ARCHITECTURES=90" in "\n".join(llama["image"])
    assert f"\nORPHEUS_LLAMA_ENDPOINT=https://{LLAMA_APP}.modal.test\n" in done.stdout
    assert f"\nORPHEUS_FASTAPI_URL=https://{SPEECH_APP}.modal.test\n" in done.stdout


@pytest.mark.slow
def test_containers_that_are_kept_running_start_after_their_weights_are_there(plane: ControlPlane) -> None:
    deploy(plane, "--only", "llama", "--min-containers", "2")
    order = [name for name, _ in plane.calls if name in ("AppPublish", "FunctionMap")]
    assert order == ["AppPublish", "FunctionMap", "AppPublish"]
    kept = [
        request.function.autoscaler_settings.min_containers
        for name, request in plane.calls
        if name == "FunctionCreate" and request.function.function_name.startswith("Llama")
    ]
    assert kept[0] == 0
    assert plane.function(LLAMA_APP, "Llama")["autoscaler_settings"]["min_containers"] == 2


@pytest.mark.slow
def test_the_smoke_test_speaks_and_the_printed_commands_work(
    plane: ControlPlane, pair: Pair, tmp_path: Path
) -> None:
    plane.urls = {SPEECH_APP: pair.url, LLAMA_APP: pair.llama_url}
    done = deploy(plane, "--smoke", **EMBEDDED, **PROXY)
    assert done.stdout.count("warm:") == 2
    assert (tmp_path / "hello.wav").stat().st_size > 10_000
    commands = dict(re.findall(r"^  (tier 1|\w+) +((?:curl|python) .*)$", done.stdout, re.MULTILINE))
    assert set(commands) == {"tier 1", "health", "speech", "streaming", "WebSocket"}
    (tmp_path / "hello.wav").unlink()
    given = clean_environment(no_proxy="*", ORPHEUS_API_KEY="", **PROXY)
    printed = {
        name: subprocess.run(
            command.replace("python clients", f"{shlex.quote(sys.executable)} {ROOT}/clients"),
            shell=True,
            env=given,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for name, command in commands.items()
    }
    assert '"ok"' in printed["tier 1"]
    assert '"ready"' in printed["health"]
    assert "speech.audio.delta" in printed["streaming"]
    assert (tmp_path / "hello.mp3").stat().st_size > 1000
    assert (tmp_path / "hello.wav").stat().st_size > 1000


@pytest.mark.slow
def test_modal_run_asks_tier_1_for_a_frame_and_tier_2_for_speech(
    plane: ControlPlane, pair: Pair, tmp_path: Path
) -> None:
    plane.urls = {SPEECH_APP: pair.url, LLAMA_APP: pair.llama_url}
    options = ["--text", "The boat drifted slowly down the river.", "--out", "river.wav"]
    llama = run(plane, "-m", "modal", "run", str(ROOT / "orpheus_llama_modal.py"), **EMBEDDED)
    speech = run(plane, "-m", "modal", "run", str(ROOT / "orpheus_fastapi_modal.py"), *options, **EMBEDDED)
    for done, what in ((llama, "one frame"), (speech, "first audio")):
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(rf"cold: {what} after \d.*\nwarm: {what} after \d", done.stdout)
    assert (tmp_path / "river.wav").stat().st_size > 24_000
    assert plane.unknown == []


@pytest.mark.slow
def test_the_agent_and_its_llm_come_after_the_pair_and_into_one_region(plane: ControlPlane) -> None:
    plane.secrets["voice-auth"]["ORPHEUS_API_KEYS"] = KEY
    plane.secrets["huggingface-secret"] = {"HF_TOKEN": "hf_1"}
    done = deploy(plane, "--agent", "--gpu-llm", "H100", **EMBEDDED)
    assert plane.unknown == []
    assert plane.published == [LLAMA_APP, SPEECH_APP, LLM_APP, AGENT_APP]
    assert f"{LLM_APP}: fetched" in done.stdout
    llm, agent = plane.function(LLM_APP, "Llm"), plane.function(AGENT_APP, "Agent.*")
    tiers = [plane.function(LLAMA_APP, "Llama"), plane.function(SPEECH_APP, "Speech.*"), llm, agent]
    assert [tier["scheduler_placement"]["regions"] for tier in tiers] == [["us-east"]] * 4
    assert llm["http_config"]["proxy_regions"] == ["us-east"]
    assert llm["resources"]["gpu_config"]["gpu_type"] == "H100"
    assert plane.function(LLM_APP, "fetch_weights")["secrets"] == ["st-named.huggingface_secret"]
    for line in (
        f"curl https://{LLM_APP}.modal.test/v1/models",
        f'clients/realtime.py --text "What is the capital of France?" --url https://{AGENT_APP}.modal.test',
        f"https://{AGENT_APP}.modal.test/ in a browser",
    ):
        assert line in done.stdout
    stopped = deploy(plane, "--agent", "--stop")
    order = [LLM_APP, SPEECH_APP, LLAMA_APP]
    assert re.findall(r"^(\S+) is stopped", stopped.stdout, re.MULTILINE) == [AGENT_APP, *order]


@pytest.mark.slow
def test_everything_goes_onto_one_gpu(plane: ControlPlane) -> None:
    plane.secrets["voice-auth"] = {"ORPHEUS_API_KEYS": KEY}
    done = deploy(plane, "--single", **EMBEDDED)
    assert plane.published == [AGENT_APP]
    assert "compiles llama.cpp" in done.stdout
    agent = plane.function(AGENT_APP, "Agent.*")
    assert agent["resources"]["gpu_config"]["gpu_type"] == "L40S"
    assert agent["environment"]["ORPHEUS_SINGLE"] == "True"
    lines = "\n".join(agent["image"])
    assert all(part in lines for part in ("vllm==", "-DGGML_CUDA=ON", "faster-whisper", " torch "))
    assert deploy(plane, "--single", "--stop").stdout.startswith(f"{AGENT_APP} is stopped")


@pytest.mark.slow
def test_an_llm_elsewhere_is_used_and_none_deployed(plane: ControlPlane) -> None:
    plane.secrets["voice-auth"]["ORPHEUS_API_KEYS"] = KEY
    elsewhere = {"ORPHEUS_LLM_URL": "https://api.example", "ORPHEUS_LLM_MODEL": "small"}
    deploy(plane, "--agent", **elsewhere, **EMBEDDED)
    assert plane.published == [LLAMA_APP, SPEECH_APP, AGENT_APP]
    environment = plane.function(AGENT_APP, "Agent.*")["environment"]
    assert elsewhere.items() <= environment.items()


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--agent", "--single"])
def test_an_agent_that_anybody_could_use_is_not_deployed(plane: ControlPlane, option: str) -> None:
    done = deploy(plane, option, code=13, **EMBEDDED)
    assert plane.published == []
    (command,) = [line.strip() for line in done.stderr.splitlines() if line.startswith("    modal secret")]
    assert command.startswith("modal secret create voice-auth --force ")
    assert command.endswith("ORPHEUS_API_KEYS=KEY")
    plane.secrets.clear()
    done = deploy(plane, "--only", "agent", code=13, **EMBEDDED)
    assert (
        "with ORPHEUS_PROXY_KEY and ORPHEUS_PROXY_SECRET and ORPHEUS_API_KEYS does not exist" in done.stderr
    )


@pytest.mark.slow
def test_a_gated_llm_is_an_error_with_the_steps_to_take(plane: ControlPlane) -> None:
    steps = "it is gated. Three steps:\n  1. accept\n  2. make\n  3. store it"
    plane.results = {LLM_APP: WeightsError(steps)}
    done = deploy(plane, "--only", "llm", code=15, ORPHEUS_LLM_MODEL="meta-llama/Llama-3.1-8B-Instruct")
    assert f"The weights of {LLM_APP} were not fetched: {steps}" in done.stderr


@pytest.mark.slow
def test_modal_run_answers_a_recording_in_a_file_and_prints_the_stages(
    plane: ControlPlane, tmp_path: Path
) -> None:
    plane.secrets["voice-auth"]["ORPHEUS_API_KEYS"] = KEY
    plane.results = {AGENT_APP: Answer(b"RIFF of the agent", ["[ASR] one", "[LLM] two", "[TTS] three"])}
    (tmp_path / "input.wav").write_bytes(b"RIFF of the caller")
    options = ["--audio", "input.wav", "--seed", "3"]
    done = run(plane, "-m", "modal", "run", "-m", AGENT_SCRIPT, *options, **EMBEDDED)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[ASR] one\n[LLM] two\n[TTS] three\noutput.wav\n" in done.stdout
    assert (tmp_path / "output.wav").read_bytes() == b"RIFF of the agent"
    (sent,) = [request for name, request in plane.calls if name == "FunctionMap"]
    assert b"RIFF of the caller" in sent.pipelined_inputs[0].input.args
    assert plane.unknown == []


@pytest.mark.slow
def test_an_agent_that_does_not_answer_is_a_failure(plane: ControlPlane) -> None:
    plane.secrets["voice-auth"]["ORPHEUS_API_KEYS"] = KEY
    plane.urls = {AGENT_APP: "http://127.0.0.1:9"}
    done = deploy(plane, "--only", "agent", "--smoke", code=17, **EMBEDDED)
    assert "does not speak" in done.stderr


def test_a_deployment_that_does_not_speak_is_a_failure(plane: ControlPlane) -> None:
    plane.urls = {SPEECH_APP: "http://127.0.0.1:9"}
    done = deploy(plane, "--only", "speech", "--smoke", code=17, **EMBEDDED)
    assert "does not speak" in done.stderr


@pytest.mark.slow
def test_one_tier_alone_is_deployed_and_stopped(plane: ControlPlane) -> None:
    plane.secrets.clear()  # tier 1 needs none
    done = deploy(plane, "--only", "llama", **EMBEDDED)
    assert plane.published == [LLAMA_APP]
    assert "ORPHEUS_FASTAPI_URL" not in done.stdout
    done = deploy(
        plane, "--stop", code=16
    )  # of tier 2, which is stopped first; tier 1 is stopped all the same
    assert f"{SPEECH_APP} cannot be stopped: App '{SPEECH_APP}' not found" in done.stderr
    assert f"{LLAMA_APP} is stopped" in done.stdout
    deploy(plane, "--stop", "--only", "llama", code=16)


@pytest.mark.slow
def test_the_environment_is_used_for_everything_and_recreating_waits_for_the_old_containers(
    plane: ControlPlane,
) -> None:
    deploy(plane, "--env", "staging", "--strategy", "recreate", **EMBEDDED)
    named = {"AppCreate", "VolumeGetOrCreate", "FunctionGet", "ClassGet", "TaskList"}
    asked = [(name, request.environment_name) for name, request in plane.calls if name in named]
    assert set(asked) == {(name, "staging") for name in named}


def test_an_environment_that_does_not_exist_is_an_error(plane: ControlPlane) -> None:
    done = deploy(plane, "--env", "nowhere", code=14, **EMBEDDED)
    assert "Environment 'nowhere' not found" in done.stderr
    assert plane.published == []


@pytest.mark.parametrize(
    ("token", "code", "says"),
    [("", 10, "run `modal setup` once"), ("ak-wrong", 11, "refused the token")],
)
def test_a_machine_without_permission_to_deploy_gets_an_exit_code(
    plane: ControlPlane, token: str, code: int, says: str
) -> None:
    done = deploy(plane, code=code, MODAL_TOKEN_ID=token, MODAL_TOKEN_SECRET=token and "as-wrong")
    assert says in done.stderr


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (modal.exception.AuthError("Token missing. Could not authenticate client."), NotLoggedIn),
        (modal.exception.AuthError("Token ID is malformed"), TokenRefused),
        (modal.exception.PermissionDeniedError("not yours"), TokenRefused),
        (modal.exception.ConnectionError("no route"), Unreachable),
        (modal.exception.RemoteError("nvcc failed"), DeployFailed),
    ],
)
def test_each_of_modals_errors_is_one_of_ours(raised: Exception, error: type[Exception]) -> None:
    with pytest.raises(error) as caught, modal_api.clear_errors(DeployFailed, "Not deployed"):
        raise raised
    assert caught.value.__cause__ is raised


def test_the_deploy_gives_up_in_time_on_a_modal_that_does_not_answer(plane: ControlPlane) -> None:
    plane.slow_s["ClientHello"] = 30
    started = time.monotonic()
    done = run(plane, "-c", "from orpheus.deploy import modal_api; modal_api.check_token(0.2)")
    assert "Unreachable: Modal did not answer within 0.2 s" in done.stderr
    assert time.monotonic() - started < 20


def test_without_the_proxy_token_the_exact_commands_are_printed(plane: ControlPlane) -> None:
    plane.secrets.clear()
    done = deploy(plane, "--env", "staging", code=13, **EMBEDDED)
    assert plane.published == []
    commands = [line.strip() for line in done.stderr.splitlines() if line.startswith("    modal ")]
    assert len(commands) == 2
    for command in commands:  # each exists in this version of modal
        shown = run(plane, "-m", *command.split()[:3], "--help")
        assert shown.returncode == 0, shown.stderr


def test_the_secret_is_created_with_the_proxy_token_that_is_set_here(plane: ControlPlane) -> None:
    plane.secrets.clear()
    keys = {"ORPHEUS_API_KEYS": "k1,k2", "ORPHEUS_LLM_API_KEY": "llm-1", "ORPHEUS_TWILIO_AUTH_TOKEN": "tw-1"}
    done = deploy(plane, "--only", "speech", **keys, **PROXY, **EMBEDDED)
    assert plane.secrets["voice-auth"] == {**PROXY, **keys}
    assert not any(secret in done.stdout + done.stderr for secret in ("ws-1", "k1", "llm-1", "tw-1"))


def test_a_deployment_that_modal_refuses_is_an_error(plane: ControlPlane) -> None:
    plane.refuse["FunctionCreate"] = (Status.INVALID_ARGUMENT, "no capacity for that")
    done = deploy(plane, code=14, **EMBEDDED)
    assert done.stderr == "orpheus: orpheus-llama-cpp was not deployed: no capacity for that\n"


def test_weights_that_do_not_arrive_are_an_error(plane: ControlPlane) -> None:
    plane.results = {LLAMA_APP: WeightsError("it is gated: set HF_TOKEN")}
    done = deploy(plane, code=15)
    assert "it is gated: set HF_TOKEN" in done.stderr
    assert plane.published == [LLAMA_APP]


def test_a_dry_run_prints_the_plan_and_the_price_without_asking_modal(plane: ControlPlane) -> None:
    options = ["--min-containers", "1", "--max-containers", "2"]
    done = deploy(plane, "--dry-run", *options, MODAL_TOKEN_ID="", ORPHEUS_TOP_P="0.7", HF_TOKEN="hf_1")
    assert plane.calls == []
    for line in (
        "L40S, 4 cores, 8 GiB; 1 to 2 containers, another from 24 requests in one, at most 48; gone after 20 idle",
        "Volume orpheus-weights, Secret voice-auth, HF_TOKEN",
        "ORPHEUS_TOP_P=0.7",
        "one orpheus-llama-cpp: 2.20",
        "idle: 3.26",
        "busy: 6.51",
        "single request: 1.09",
    ):
        assert line in done.stdout
    assert re.search(r"as read \d{4}-\d\d", done.stdout)
    assert AGENT_APP not in done.stdout
    assert "hf_1" not in done.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--gpu-llama", "L41"), "ORPHEUS_GPU_LLAMA='L41'"),
        (("--min-containers", "4"), "less than ORPHEUS_MIN_CONTAINERS"),
        (("--strategy", "blue"), "--strategy"),
        (("--only", "both"), "--only"),
        (("--gpu-llm", "L41"), "ORPHEUS_GPU_LLM='L41'"),
        (("--agent", "--single"), "leave out --agent"),
        (("--max-containers", "many"), "--max-containers"),
    ],
)
def test_an_option_that_is_wrong_is_named(plane: ControlPlane, options: tuple[str, ...], says: str) -> None:
    done = deploy(plane, *options, code=2)
    assert says in done.stderr
    assert plane.calls == []
