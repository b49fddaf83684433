"""`python deploy_orpheus_modal.py`: check the account, deploy both tiers in order, print where they are, try them."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Literal

import typer

from orpheus.deploy import modal_api, report, smoke
from orpheus.deploy.modal_api import LLAMA, SPEECH, Strategy, Tier
from orpheus.deploy.settings import container_environment, load_deployment
from orpheus.errors import OrpheusError
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
    env: Annotated[str | None, typer.Option(help="Modal environment, if not the profile's.")] = None,
    strategy: Annotated[
        Strategy,
        typer.Option(help="Whether old containers serve until new ones can, or stop first."),
    ] = "rolling",
    only: Annotated[Literal["llama", "speech"] | None, typer.Option(help="Deploy one tier.")] = None,
    min_containers: Annotated[
        int | None, typer.Option(help="Of each tier, kept running [ORPHEUS_MIN_CONTAINERS, 0].")
    ] = None,
    max_containers: Annotated[
        int | None, typer.Option(help="Of each tier, at most [ORPHEUS_MAX_CONTAINERS, 3].")
    ] = None,
    gpu_llama: Annotated[str | None, typer.Option(help="[ORPHEUS_GPU_LLAMA, L40S]")] = None,
    gpu_speech: Annotated[str | None, typer.Option(help="[ORPHEUS_GPU_SPEECH, L4]")] = None,
    region: Annotated[
        str | None, typer.Option(help="Such as us, us-east, eu-west [ORPHEUS_REGION, any].")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print what would be deployed and its price, without asking Modal."),
    ] = False,
    try_it: Annotated[
        bool, typer.Option("--smoke", help="Speak one sentence once deployed, and check the audio.")
    ] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop both tiers instead.")] = False,
) -> None:
    """Deploy tier 1 and tier 2 to Modal and print their URLs. `orpheus settings` lists all other settings."""
    tiers = [tier for tier in (LLAMA, SPEECH) if only in (None, tier.name)]
    options = {
        "min_containers": min_containers,
        "max_containers": max_containers,
        "gpu_llama": gpu_llama,
        "gpu_speech": gpu_speech,
        "region": region,
    }
    deployment = load_deployment(**options)
    os.environ |= {setting_name(name): str(value) for name, value in options.items() if value is not None}
    if dry_run:
        print(report.plan(deployment, tiers, env, strategy))
        return
    modal_api.check_token()
    if stop:
        _stop(tiers, env)
        return
    if SPEECH in tiers:
        print(modal_api.ensure_auth_secret(load_settings(), env))
    weights = container_environment(deployment)
    for tier in tiers:
        if tier is LLAMA:
            print("The first build compiles llama.cpp for the GPU: 10 to 30 minutes, once.", flush=True)
        fetched = weights["ORPHEUS_MODEL" if tier is LLAMA else "ORPHEUS_CODEC"] != EMBEDDED
        # Containers that are kept running would start, and fail, before there are weights to load.
        later = fetched and deployment.min_containers > 0
        modal_api.deploy(tier, env, strategy, min_containers=0 if later else None)
        if fetched:
            print(
                f"Fetching the weights of {tier.app}: minutes the first time, seconds after that.", flush=True
            )
            print(modal_api.fetch_weights(tier, env))
        if later:
            modal_api.deploy(tier, env, strategy)
    urls = {tier.name: modal_api.url(tier, env) for tier in tiers}
    print(report.where(deployment, urls))
    if try_it:
        if LLAMA in tiers:
            smoke.try_llama(urls[LLAMA.name])
        if SPEECH in tiers:
            smoke.try_speech(urls[SPEECH.name])


def _stop(tiers: list[Tier], env: str | None) -> None:
    """Tier 2 first: its running streams need tier 1. A failure to stop one does not keep the other."""
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
