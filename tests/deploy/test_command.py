"""`python deploy_orpheus_modal.py` as a user runs it, each of its ways out."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from grpclib import Status

from orpheus.deploy.settings import LLAMA_APP, SPEECH_APP
from orpheus.errors import WeightsError
from tests.deploy.conftest import EMBEDDED, run
from tests.deploy.container import ContainerPlane
from tests.support.live import ROOT, Pair, clean_environment

PROXY = {"ORPHEUS_PROXY_KEY": "wk-1", "ORPHEUS_PROXY_SECRET": "ws-1"}


def script(plane: ContainerPlane, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, str(ROOT / "deploy_orpheus_modal.py"), *options], plane, **environment)


def test_both_are_deployed_in_order_with_their_weights_and_where_they_are_is_said(
    plane: ContainerPlane,
) -> None:
    plane.secrets["huggingface-secret"] = ["HF_TOKEN"]
    plane.results = {
        (LLAMA_APP, "fetch_weights"): "model: there",
        (SPEECH_APP, "fetch_weights"): "codec: there",
    }
    done = script(plane, "--max-containers", "7", "--gpu-llama", "H100", "--region", "us-west")
    assert done.returncode == 0, done.stderr
    assert plane.unknown == []
    names = [name for name, _ in plane.calls]
    publishing = [index for index, name in enumerate(names) if name == "AppPublish"]
    fetching = [index for index, name in enumerate(names) if name == "FunctionMap"]
    assert plane.published == [LLAMA_APP, SPEECH_APP]
    assert publishing[0] < fetching[0] < publishing[1] < fetching[1]
    assert "model: there" in done.stdout
    assert "codec: there" in done.stdout

    llama = plane.function(LLAMA_APP, "Llama")
    assert llama["resources"]["gpu_config"]["gpu_type"] == "H100"
    assert llama["autoscaler_settings"]["max_containers"] == 7
    assert llama["http_config"]["proxy_regions"] == ["us-west"]
    assert "-DCMAKE_CUDA_ARCHITECTURES=90" in "\n".join(llama["image"])
    assert plane.function(LLAMA_APP, "fetch_weights")["secrets"] == ["huggingface-secret"]

    assert (
        "\nORPHEUS_LLAMA_ENDPOINT=https://ws--orpheus-llama-cpp-llama.us-west.modal.direct\n" in done.stdout
    )
    assert "\nORPHEUS_FASTAPI_URL=https://ws--orpheus-fastapi-tts-speech-web.modal.run\n" in done.stdout


def test_the_commands_it_prints_work(plane: ContainerPlane, pair: Pair, tmp_path: Path) -> None:
    plane.urls = {SPEECH_APP: pair.url, LLAMA_APP: pair.llama_url}
    done = script(plane, **EMBEDDED)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.split("Try it")[1].splitlines()[1:]
    commands = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in shown if line.strip())
    assert set(commands) == {"tier 1", "health", "speech", "streaming", "WebSocket"}
    said = {}
    for name, command in commands.items():
        command = command.replace("python clients", f"{shlex.quote(sys.executable)} {ROOT}/clients")
        given = clean_environment(no_proxy="*", ORPHEUS_API_KEY="", **PROXY)
        tried = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            env=given,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        said[name] = tried.stdout
    assert '"ok"' in said["tier 1"]
    assert '"ready"' in said["health"]
    assert "speech.audio.delta" in said["streaming"]
    assert (tmp_path / "hello.mp3").stat().st_size > 1000
    assert (tmp_path / "hello.wav").stat().st_size > 1000


def test_the_smoke_test_speaks_through_what_was_deployed(
    plane: ContainerPlane, pair: Pair, tmp_path: Path
) -> None:
    plane.urls = {SPEECH_APP: pair.url, LLAMA_APP: pair.llama_url}
    done = script(plane, "--smoke", NO_PROXY="127.0.0.1", **EMBEDDED, **PROXY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("warm:") == 2
    assert (tmp_path / "hello.wav").stat().st_size > 10_000


def test_a_deployment_that_does_not_speak_is_told(plane: ContainerPlane) -> None:
    plane.urls = {SPEECH_APP: "http://127.0.0.1:9"}
    done = script(plane, "--only", "speech", "--smoke", **EMBEDDED)
    assert done.returncode == 17
    assert "does not speak" in done.stderr


def test_one_tier_alone_is_deployed_and_stopped(plane: ContainerPlane) -> None:
    plane.secrets.clear()  # tier 1 needs none
    done = script(plane, "--only", "llama", **EMBEDDED)
    assert done.returncode == 0, done.stderr
    assert plane.published == [LLAMA_APP]
    assert "ORPHEUS_FASTAPI_URL" not in done.stdout
    done = script(plane, "--stop", "--only", "llama")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_environment_is_used_for_all_and_recreating_waits_for_the_old_to_end(
    plane: ContainerPlane,
) -> None:
    done = script(plane, "--env", "staging", "--strategy", "recreate", **EMBEDDED)
    assert done.returncode == 0, done.stderr
    named = {"AppCreate", "VolumeGetOrCreate", "FunctionGet", "ClassGet", "SecretGetOrCreate", "TaskList"}
    assert named <= {name for name, _ in plane.calls}
    used = [request for name, request in plane.calls if name in named and name != "SecretGetOrCreate"]
    assert {request.environment_name for request in used} == {"staging"}


def test_an_environment_that_is_not_there(plane: ContainerPlane) -> None:
    done = script(plane, "--env", "nowhere", **EMBEDDED)
    assert done.returncode == 14
    assert "Environment 'nowhere' not found" in done.stderr
    assert plane.published == []


@pytest.mark.parametrize(
    ("token", "code", "says"),
    [("", 10, "run `modal setup` once"), ("ak-wrong", 11, "refused the token")],
)
def test_a_machine_that_may_not_deploy(plane: ContainerPlane, token: str, code: int, says: str) -> None:
    done = script(plane, MODAL_TOKEN_ID=token, MODAL_TOKEN_SECRET=token and "as-wrong")
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_proxy_token_the_exact_commands_are_printed(plane: ContainerPlane) -> None:
    plane.secrets.clear()
    done = script(plane, "--env", "staging", **EMBEDDED)
    assert done.returncode == 13
    assert plane.published == []
    commands = [line.strip() for line in done.stderr.splitlines() if line.startswith("    modal ")]
    assert len(commands) == 2
    for command in commands:  # each is a command of this modal
        words = command.split("=")[0].split()[1:-1] if "=" in command else command.split()[1:]
        shown = run([sys.executable, "-m", "modal", *words[:3], "--help"], plane)
        assert shown.returncode == 0, shown.stderr


def test_the_secret_is_made_of_the_proxy_token_that_is_set_here(plane: ContainerPlane) -> None:
    plane.secrets.clear()
    done = script(plane, "--only", "speech", ORPHEUS_API_KEYS="k1,k2", **PROXY, **EMBEDDED)
    assert done.returncode == 0, done.stderr
    assert plane.secret_values["voice-auth"] == {**PROXY, "ORPHEUS_API_KEYS": "k1,k2"}
    assert not any(secret in done.stdout + done.stderr for secret in ("ws-1", "k1"))


def test_a_secret_that_was_asked_for_by_name_must_be_there(plane: ContainerPlane) -> None:
    done = script(plane, ORPHEUS_HF_SECRET="mine", **EMBEDDED)
    assert done.returncode == 13
    assert "modal secret create mine HF_TOKEN=" in done.stderr


def test_a_deployment_that_modal_refuses(plane: ContainerPlane) -> None:
    plane.refuse["FunctionCreate"] = (Status.INVALID_ARGUMENT, "no capacity for that")
    done = script(plane, **EMBEDDED)
    assert done.returncode == 14
    assert done.stderr == "orpheus: orpheus-llama-cpp was not deployed: no capacity for that\n"


def test_weights_that_do_not_arrive(plane: ContainerPlane) -> None:
    plane.results = {(LLAMA_APP, "fetch_weights"): WeightsError("it is gated: set HF_TOKEN")}
    done = script(plane)
    assert done.returncode == 15
    assert "it is gated: set HF_TOKEN" in done.stderr
    assert plane.published == [LLAMA_APP]


def test_stopping_and_stopping_what_is_not_there(plane: ContainerPlane) -> None:
    assert script(plane, "--only", "llama", **EMBEDDED).returncode == 0
    done = script(plane, "--stop")
    assert done.returncode == 16  # of tier 2, which was tried first; that does not keep tier 1
    assert f"{SPEECH_APP} cannot be stopped" in done.stderr
    assert f"{LLAMA_APP} is stopped" in done.stdout
    done = script(plane, "--stop", "--only", "llama")
    assert done.returncode == 16
    assert "not found" in done.stderr


def test_a_dry_run_asks_modal_nothing_and_tells_the_price(plane: ContainerPlane) -> None:
    done = script(
        plane,
        "--dry-run",
        "--min-containers",
        "1",
        "--max-containers",
        "2",
        MODAL_TOKEN_ID="",
        ORPHEUS_TOP_P="0.7",
    )
    assert done.returncode == 0, done.stderr
    assert plane.calls == []
    for line in ("L40S, 4 cores, 8 GiB; 1 to 2 containers", "ORPHEUS_TOP_P=0.7", "idle: 3.26", "busy: 6.51"):
        assert line in done.stdout
    assert re.search(r"as read \d{4}-\d\d", done.stdout)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--gpu-llama", "L41"), "ORPHEUS_GPU_LLAMA='L41'"),
        (("--min-containers", "4"), "less than ORPHEUS_MIN_CONTAINERS"),
        (("--strategy", "blue"), "--strategy"),
        (("--only", "both"), "--only"),
        (("--max-containers", "many"), "--max-containers"),
    ],
)
def test_an_option_that_cannot_be_is_named(
    plane: ContainerPlane, options: tuple[str, ...], says: str
) -> None:
    done = script(plane, *options)
    assert done.returncode == 2
    assert says in done.stderr
    assert plane.calls == []
