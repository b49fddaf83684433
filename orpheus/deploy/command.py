"""`python deploy_orpheus_modal.py`: options → checks, both tiers deployed in order, where they are, whether they speak.

Knows nothing of Modal's API: account.py and release.py do.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Annotated, Literal

import typer

from orpheus.deploy import account, release, report, smoke
from orpheus.deploy.release import LLAMA, SPEECH, Tier
from orpheus.deploy.settings import Deployment, container_environment, load_deployment
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
    env: Annotated[str | None, typer.Option(help="Modal environment, if not that of the profile.")] = None,
    strategy: Annotated[
        Literal["rolling", "recreate"],
        typer.Option(help="Old containers serve until new ones can, or go first."),
    ] = "rolling",
    only: Annotated[Literal["llama", "speech"] | None, typer.Option(help="One tier alone.")] = None,
    min_containers: Annotated[
        int | None, typer.Option(help="Of each tier, kept running [ORPHEUS_MIN_CONTAINERS, 0].")
    ] = None,
    max_containers: Annotated[
        int | None, typer.Option(help="Of each tier, at most [ORPHEUS_MAX_CONTAINERS, 3].")
    ] = None,
    gpu_llama: Annotated[str | None, typer.Option(help="[ORPHEUS_GPU_LLAMA, L40S]")] = None,
    gpu_speech: Annotated[str | None, typer.Option(help="[ORPHEUS_GPU_SPEECH, L4]")] = None,
    region: Annotated[str | None, typer.Option(help="As us, us-east, eu-west [ORPHEUS_REGION, any].")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be deployed and its price; ask Modal nothing.")
    ] = False,
    try_it: Annotated[
        bool, typer.Option("--smoke", help="Speak one sentence when deployed, and check it.")
    ] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop both tiers instead.")] = False,
) -> None:
    """Deploy tier 1 and tier 2 to Modal and say where they are. All else is in `orpheus settings`."""
    tiers = [tier for tier in (LLAMA, SPEECH) if only in (None, tier.name)]
    options = {
        "min_containers": min_containers,
        "max_containers": max_containers,
        "gpu_llama": gpu_llama,
        "gpu_speech": gpu_speech,
        "region": region,
    }
    deployment = _deployment(options)
    if dry_run:
        print(report.plan(deployment, tiers, env, strategy))
        return
    account.check_token()
    if stop:
        _stop(tiers, env)
        return
    hf_secret = account.find_hf_secret(deployment, env)
    deployment = _deployment({"hf_secret": hf_secret})
    if SPEECH in tiers:
        print(account.ensure_auth_secret(deployment, load_settings(), env))
    for tier in tiers:
        release.deploy(tier, env, strategy)
        if _weights_of(tier, deployment) != EMBEDDED:
            print(f"Fetching the weights of {tier.app}: gigabytes the first time, seconds after.", flush=True)
            print(release.fetch_weights(tier, env))
    urls = {tier.name: release.url(tier, env) for tier in tiers}
    print(report.where(deployment, urls))
    if try_it:
        if LLAMA in tiers:
            smoke.try_llama(urls[LLAMA.name])
        if SPEECH in tiers:
            smoke.try_speech(urls[SPEECH.name])


def _deployment(options: Mapping[str, object]) -> Deployment:
    """The settings with these options, which the scripts, that read the environment, see too."""
    deployment = load_deployment(**options)
    for name, value in options.items():
        if value is not None:
            os.environ[setting_name(name)] = str(value)
    return deployment


def _weights_of(tier: Tier, deployment: Deployment) -> str:
    return container_environment(deployment)["ORPHEUS_MODEL" if tier is LLAMA else "ORPHEUS_CODEC"]


def _stop(tiers: list[Tier], env: str | None) -> None:
    """Tier 2 first: it needs tier 1 until its streams have ended. Both are tried, whatever becomes of one."""
    failure: OrpheusError | None = None
    for tier in reversed(tiers):
        try:
            release.stop(tier, env)
            print(f"{tier.app} is stopped; its Volume and Secrets are kept")
        except OrpheusError as error:
            failure = error
            print(f"orpheus: {error}", file=sys.stderr)
    if failure:
        sys.exit(failure.exit_code)
