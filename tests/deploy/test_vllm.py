from __future__ import annotations

import os
from pathlib import Path

import pytest
from huggingface_hub import constants  # reads the environment once

from orpheus.deploy.settings import LLM_MODEL
from orpheus.deploy.vllm import VllmProcess, serve_command
from orpheus.errors import NotReady, WeightsError
from orpheus.ops.child import ChildEnded
from orpheus.settings import load_settings
from tests.support import vllm_command


@pytest.mark.parametrize(
    ("model", "parser"),
    [
        (LLM_MODEL, "hermes"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama3_json"),
        ("NousResearch/Meta-Llama-3.1-8B-Instruct", "llama3_json"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral"),
        ("ibm-granite/granite-3.3-8b-instruct", "granite"),
        ("NousResearch/Hermes-3-Llama-3.1-8B", "hermes"),
    ],
)
def test_tool_calls_are_read_in_the_models_own_form(model: str, parser: str) -> None:
    given = vllm_command.parser().parse_args(serve_command(model, 5007, 0.9)[1:])
    assert (given.model, given.tool_call_parser, given.enable_auto_tool_choice) == (model, parser, True)


def test_a_revision_is_served_under_the_name_that_is_asked_for() -> None:
    given = vllm_command.parser().parse_args(serve_command("some/one@v2", 5007, 0.9)[1:])
    assert (given.model, given.served_model_name) == ("some/one", ["some/one@v2"])
    assert (given.revision, given.tokenizer_revision) == ("v2", "v2")


def test_an_llm_that_does_not_come_up_is_reported_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in vllm_command.install(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    settings = load_settings(llm_model="some/one", drain_s=0)
    process = VllmProcess("modal run IT", settings)
    with pytest.raises(WeightsError, match="run `modal run IT`"):
        process.start(60)
    (tmp_path / "models--some--one" / "snapshots" / "v1").mkdir(parents=True)  # of a fetch that was cut off
    with pytest.raises(ChildEnded, match="The LLM ended with exit code 1"):
        process.start(60)
    assert process._server is not None
    assert process._server.exit_code == 1


def test_an_llm_that_takes_too_long_is_abandoned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = tmp_path / "vllm"
    command.write_text("#!/bin/sh\nexec sleep 60\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--some--one" / "snapshots").mkdir(parents=True)
    process = VllmProcess("modal run IT", load_settings(llm_model="some/one", drain_s=0))
    with pytest.raises(NotReady, match=r"The LLM was not ready within 0\.3 s"):
        process.start(0.3)
    assert process._server is not None
    assert process._server.exit_code is not None
