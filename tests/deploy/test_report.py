"""What a dry run says of the agent, and where its commands lead."""

from __future__ import annotations

from orpheus.deploy import report
from orpheus.deploy.modal_api import AGENT, LLAMA, LLM, SPEECH
from orpheus.deploy.settings import AGENT_APP, LLAMA_APP, LLM_APP, LLM_MODEL, load_deployment


def test_the_plan_of_the_agent_has_its_prices_idle_and_busy() -> None:
    deployment = load_deployment(region="us", min_containers=1)
    plan = report.plan(deployment, [LLAMA, SPEECH, LLM, AGENT], None, "rolling")
    for line in (
        "L4, 8 cores, 8 GiB; 1 to 3 containers, another from 12 conversations in one, at most 24; gone after 20",
        "L40S, 4 cores, 16 GiB; 1 to 3 containers, another from 24 requests in one, at most 40",
        f"ORPHEUS_LLM_MODEL={LLM_MODEL}",
        f"one {LLM_APP}: 2.61",
        f"one {AGENT_APP}: 1.43",
        "idle: 7.78",
        "busy: 23.33",
        "single request: 2.59",
    ):
        assert line in plan, plan


def test_the_plan_of_one_gpu_for_all_has_one_price() -> None:
    plan = report.plan(load_deployment(single=True), [AGENT], None, "rolling")
    assert "L40S, 12 cores, 32 GiB; 0 to 3 containers" in plan
    assert f"one {AGENT_APP}: 2.77" in plan
    assert LLAMA_APP not in plan


def test_the_pair_alone_is_planned_without_the_agents_settings() -> None:
    plan = report.plan(load_deployment(), [LLAMA, SPEECH], None, "rolling")
    assert "ORPHEUS_LLM_MODEL" not in plan
    assert "ORPHEUS_MAX_CONVERSATIONS" not in plan


def test_the_agent_is_tried_with_an_api_key_and_its_llm_with_a_proxy_token() -> None:
    printed = report.where(load_deployment(), {"llm": "https://llm.test", "agent": "https://agent.test"})
    commands = {line.split(" ")[2]: line for line in printed.splitlines() if line.startswith("  ")}
    assert "Modal-Secret" in commands["LLM"]
    assert "Modal-Secret" not in commands["agent"]
    assert "x-api-key" in commands["agent"]
    assert not any(line.startswith("ORPHEUS_") for line in printed.splitlines())
