"""`orpheus serve` as processes: up together, down together, nothing left behind."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from orpheus.http.process import listen
from orpheus.ops.serve import announce
from orpheus.settings import load_settings
from tests.support.command import orpheus
from tests.support.live import ROOT, Pair, clean_environment, free_port, healthy, running_pair
from tests.support.waiting import eventually


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def gone(pids: list[int], within_s: float = 5) -> bool:
    deadline = time.monotonic() + within_s
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(alive(pid) for pid in pids)


@pytest.fixture
def own_pair(tmp_path: Path):  # type: ignore[no-untyped-def]
    with running_pair(tmp_path) as pair:
        yield pair


def test_it_prints_the_address_the_voice_and_a_command_to_try(pair: Pair) -> None:
    assert pair.url in pair.output
    assert "tara" in pair.output
    command = next(line for line in pair.output.splitlines() if "curl" in line).split("try", 1)[1]
    done = subprocess.run(
        command.replace(
            "-o hello.mp3", "--noproxy '*' -s -w '%{content_type} %{size_download}' -o /dev/null"
        ),
        shell=True,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    kind, size = done.stdout.split()
    assert kind == "audio/mpeg"
    assert int(size) > 4000


def test_the_command_to_try_sends_a_key_if_one_is_needed_and_shows_none() -> None:
    for keys in (None, "k-secret, k-other"):
        out = io.StringIO()
        announce(load_settings(model="embedded", api_keys=keys), "127.0.0.1", 5005, Console(file=out))
        command = next(line for line in out.getvalue().splitlines() if "curl" in line)
        assert ('-H "x-api-key: $ORPHEUS_API_KEY"' in command) == (keys is not None)
        assert "k-" not in command


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_both_within_five_seconds(own_pair: Pair, number: int) -> None:
    tiers = children(own_pair.process.pid)
    assert len(tiers) == 2
    code, took_s = own_pair.stop(number)
    assert code == 0
    assert took_s < 5
    assert gone(tiers, 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_if_one_dies_the_other_is_stopped_and_the_exit_code_is_set(own_pair: Pair, which: int) -> None:
    tiers = children(own_pair.process.pid)
    os.kill(tiers[which], signal.SIGKILL)
    assert own_pair.process.wait(10) != 0
    assert gone(tiers, 0.1)


@pytest.mark.slow
def test_a_signal_while_the_other_tier_stops_does_not_interrupt_it(own_pair: Pair) -> None:
    """A tier died, the other is being stopped and takes its time: then somebody presses Ctrl-C."""
    llama, speech = children(own_pair.process.pid)
    os.kill(speech, signal.SIGSTOP)  # so that only SIGKILL ends it
    os.kill(llama, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while "stopping the other" not in own_pair.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.2)
    own_pair.process.send_signal(signal.SIGINT)
    assert own_pair.process.wait(15) not in (0, None)
    assert "Traceback" not in own_pair.log.read_text()
    assert gone([llama, speech], 0.1)


@pytest.mark.slow
def test_a_supervisor_that_is_killed_leaves_no_orphan(own_pair: Pair) -> None:
    tiers = children(own_pair.process.pid)
    own_pair.process.kill()
    own_pair.process.wait()
    assert gone(tiers)


@pytest.mark.parametrize("option", ["--port", "--llama-port"])
def test_a_taken_port_is_one_sentence(option: str, tmp_path: Path) -> None:
    taken = listen("127.0.0.1", 0, "")
    port = str(taken.getsockname()[1])
    done = orpheus("serve", "--port", "0", "--llama-port", "0", option, port)
    taken.close()
    assert done.returncode == 2
    assert port in done.stderr
    assert option in done.stderr
    assert "Traceback" not in done.stderr


def test_files_in_the_working_directory_do_not_stand_in_for_modules(tmp_path: Path) -> None:
    for name in ("orpheus", "numpy", "fastapi", "typing"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this file was run')")
    with running_pair(tmp_path) as pair:
        assert "this file was run" not in pair.output


@pytest.mark.parametrize("lost", ["reader", "disk"])
def test_it_goes_on_when_its_log_cannot_be_written(lost: str, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "orpheus", "serve", "--port", str(port), "--llama-port", "0"]
    read, write = os.pipe()
    with Path("/dev/full").open("w") as full:
        output = full if lost == "disk" else write
        process = subprocess.Popen(command, env=clean_environment(), stdout=output, stderr=output)
    os.close(read)
    os.close(write)
    try:
        eventually(lambda: healthy(f"http://127.0.0.1:{port}"), 60)
        for _ in range(3):
            answer = httpx.post(
                f"http://127.0.0.1:{port}/v1/audio/speech", json={"input": "Hello."}, trust_env=False
            )
            assert answer.status_code == 200
        assert process.poll() is None
    finally:
        process.terminate()
        assert process.wait(20) == 0


@pytest.mark.parametrize("after_s", [0.08, 0.2, 0.4, 0.8])
def test_an_early_interrupt_ends_it_without_a_traceback(after_s: float) -> None:
    command = [sys.executable, "-m", "orpheus", "serve", "--port", "0", "--llama-port", "0"]
    process = subprocess.Popen(command, env=clean_environment(), stderr=subprocess.PIPE, text=True)
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=20)
    assert process.returncode in (0, 130, -signal.SIGINT)
    assert "Traceback" not in printed


def test_weights_that_cannot_be_used_end_it_with_their_sentence(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"not a model")
    for command in (["serve", "--port", "0", "--llama-port", "0"], ["llama", "--port", "0"]):
        done = orpheus(*command, "--model", str(wrong), ORPHEUS_CODEC="embedded")
        assert done.returncode == 2, done.stderr
        assert "is not a GGUF file" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_llama_cpp_that_does_not_load_ends_it_with_a_sentence(tmp_path: Path) -> None:
    """As where it was built for a GPU whose driver is gone."""
    package = tmp_path / "llama_cpp"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('libcuda.so.1: cannot open shared object file')")
    for command in (["serve", "--llama-port", "0"], ["llama"], ["llama", "--model", "embedded"]):
        done = orpheus(*command, "--port", "0", PYTHONPATH=f"{tmp_path}:{ROOT}")
        assert done.returncode == 2, done.stderr
        assert "llama.cpp does not load: libcuda.so.1" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_tier_alone_says_what_is_wrong_with_its_weights(tmp_path: Path) -> None:
    done = orpheus("speech", "--port", "0", "--codec", str(tmp_path))
    assert done.returncode == 2
    assert "not a SNAC checkpoint" in done.stderr
    assert "Traceback" not in done.stderr


def test_small_writes_do_not_wait_for_the_client_to_acknowledge_the_last() -> None:
    bound = listen("127.0.0.1", 0, "")
    assert bound.proto == socket.IPPROTO_TCP  # what asyncio looks at before it turns Nagle's algorithm off
    bound.close()


def test_a_healthy_pair_has_two_healthy_tiers(pair: Pair) -> None:
    assert healthy(pair.url)
    assert healthy(pair.llama_url)
