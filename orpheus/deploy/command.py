"""`python deploy_orpheus_modal.py`: check the account, deploy the apps in order, print where they are, try them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from orpheus.deploy import modal_api, report, smoke
from orpheus.deploy.modal_api import AGENT, LLAMA, LLM, SPEECH, Strategy, Tier
from orpheus.deploy.settings import (
    AGENT_REGION,
    API_KEYS,
    HF_SECRET_EXISTS,
    PROXY_KEYS,
    Deployment,
    agent_environment,
    container_environment,
    has_llm_url,
    load_deployment,
)
from orpheus.errors import OrpheusError, SetupError
from orpheus.settings import EMBEDDED, load_settings, setting_name

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def main() -> None:
    try:
        app()
    except OrpheusError as error:
        print(f"orpheus: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


@app.command()
def deploy(
    agent: Annotated[
        bool, typer.Option("--agent", help="After the pair, also the agent and the LLM that it thinks with.")
    ] = False,
    single: Annotated[
        bool,
        typer.Option("--single", help="The agent, its LLM and tier 1 in one container, and nothing else."),
    ] = False,
    env: Annotated[str | None, typer.Option(help="Modal environment, if not the profile's.")] = None,
    strategy: Annotated[
        Strategy,
        typer.Option(help="Whether old containers serve until new ones can, or stop first."),
    ] = "rolling",
    only: Annotated[
        Literal["llama", "speech", "llm", "agent"] | None, typer.Option(help="Deploy one app.")
    ] = None,
    min_containers: Annotated[
        int | None, typer.Option(help="Of each app, kept running [ORPHEUS_MIN_CONTAINERS, 0].")
    ] = None,
    max_containers: Annotated[
        int | None, typer.Option(help="Of each app, at most [ORPHEUS_MAX_CONTAINERS, 3].")
    ] = None,
    gpu_llama: Annotated[str | None, typer.Option(help="[ORPHEUS_GPU_LLAMA, L40S]")] = None,
    gpu_speech: Annotated[str | None, typer.Option(help="[ORPHEUS_GPU_SPEECH, L4]")] = None,
    gpu_llm: Annotated[str | None, typer.Option(help="[ORPHEUS_GPU_LLM, L40S]")] = None,
    region: Annotated[
        str | None, typer.Option(help="Such as us, us-east, eu-west [ORPHEUS_REGION, any].")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print what would be deployed and its price, without asking Modal."),
    ] = False,
    try_it: Annotated[
        bool,
        typer.Option(
            "--smoke", help="Once deployed, speak one sentence and hold one turn, and check the audio."
        ),
    ] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop what would be deployed instead.")] = False,
) -> None:
    """Deploy tier 1 and tier 2 to Modal and print their URLs. `orpheus settings` lists all other settings."""
    deployment = _use(
        {
            "min_containers": min_containers,
            "max_containers": max_containers,
            "gpu_llama": gpu_llama,
            "gpu_speech": gpu_speech,
            "gpu_llm": gpu_llm,
            "region": region,
            "single": single or None,
        }
    )
    if agent and deployment.region is None:
        deployment = _use({"region": AGENT_REGION})
    tiers = _tiers(agent=agent, only=only, deployment=deployment)
    if dry_run:
        print(report.plan(deployment, tiers, env, strategy))
        return
    modal_api.check_token()
    if stop:
        _stop(tiers, env)
        return
    if keys := _keys(tiers, deployment):
        print(modal_api.ensure_auth_secret(load_settings(), env, keys))
    if load_settings().hf_token is None and modal_api.has_hf_secret(env):
        os.environ[HF_SECRET_EXISTS] = "1"
    for tier in tiers:
        _deploy(tier, deployment, env, strategy)
    urls = {tier.name: modal_api.url(tier, env) for tier in tiers}
    print(report.where(deployment, urls))
    if try_it:
        if LLAMA in tiers:
            smoke.try_llama(urls[LLAMA.name])
        if SPEECH in tiers:
            smoke.try_speech(urls[SPEECH.name])
        if AGENT in tiers:
            smoke.try_agent(urls[AGENT.name])


def _use(options: Mapping[str, Any]) -> Deployment:
    """The deployment with these settings, where they are given: also for the definitions, which read the environment."""
    given = {name: value for name, value in options.items() if value is not None}
    deployment = load_deployment(**given)
    os.environ |= {setting_name(name): str(value) for name, value in given.items()}
    return deployment


def _tiers(*, agent: bool, only: str | None, deployment: Deployment) -> list[Tier]:
    """What is meant, in the order in which each finds those that it needs."""
    if deployment.single:
        if agent or only not in (None, AGENT.name):
            raise SetupError(
                "--single (ORPHEUS_SINGLE) puts everything into the agent's container: leave out --agent and --only."
            )
        return [AGENT]
    tiers = [LLAMA, SPEECH]
    if agent or only in (LLM.name, AGENT.name):
        if only == LLM.name or not has_llm_url(agent_environment(deployment)):
            tiers.append(LLM)
        tiers.append(AGENT)
    return [tier for tier in tiers if only in (None, tier.name)]


def _keys(tiers: list[Tier], deployment: Deployment) -> list[str]:
    """What the Secret must hold for these."""
    keys = PROXY_KEYS if (SPEECH in tiers or AGENT in tiers) and not deployment.single else []
    return [*keys, *([API_KEYS] if AGENT in tiers else [])]


def _deploy(tier: Tier, deployment: Deployment, env: str | None, strategy: Strategy) -> None:
    if tier is LLAMA or deployment.single:
        print("The first build compiles llama.cpp for the GPU: 10 to 30 minutes, once.", flush=True)
    fetched = _has_weights(tier, deployment)
    # Containers that are kept running would start, and fail, before there are weights to load.
    later = fetched and deployment.min_containers > 0
    modal_api.deploy(tier, env, strategy, min_containers=0 if later else None)
    if fetched:
        print(f"Fetching the weights of {tier.app}: minutes the first time, seconds after that.", flush=True)
        print(modal_api.fetch_weights(tier, env))
    if later:
        modal_api.deploy(tier, env, strategy)


def _has_weights(tier: Tier, deployment: Deployment) -> bool:
    """Whether it needs any that do not come with the sources."""
    weights = container_environment(deployment)
    if tier is LLM or (deployment.single and not has_llm_url(weights)):
        return True
    names = {"ORPHEUS_MODEL"} if tier is LLAMA else {"ORPHEUS_CODEC"}
    if deployment.single:
        names.add("ORPHEUS_MODEL")
    return any(weights[name] != EMBEDDED for name in names)


def _stop(tiers: list[Tier], env: str | None) -> None:
    """What needs others first: its running streams need them. A failure to stop one does not keep the others."""
    failure: OrpheusError | None = None
    for tier in reversed(tiers):
        try:
            modal_api.stop(tier, env)
            print(f"{tier.app} is stopped; its Volume and Secret are kept")
        except OrpheusError as error:
            failure = error
            print(f"orpheus: {error}", file=sys.stderr)
    if failure:
        sys.exit(failure.exit_code)
