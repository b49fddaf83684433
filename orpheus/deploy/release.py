"""One tier → deployed, its weights fetched, its URL known; or stopped.

Knows nothing of options and prints nothing but Modal's own progress. Every failure is a DeployError.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Literal

import modal

from orpheus.deploy.account import clear_errors
from orpheus.deploy.errors import DeployFailed, FetchFailed, NotDeployed
from orpheus.deploy.settings import LLAMA_APP, LLAMA_SERVER, SPEECH_APP, SPEECH_CLASS
from orpheus.errors import OrpheusError

Strategy = Literal["rolling", "recreate"]


@dataclass(frozen=True)
class Tier:
    name: str  # as --only takes it
    app: str
    module: str  # the script at the root


LLAMA = Tier("llama", LLAMA_APP, "orpheus_llama_modal")
SPEECH = Tier("speech", SPEECH_APP, "orpheus_fastapi_modal")


def deploy(tier: Tier, environment: str | None, strategy: Strategy) -> None:
    """What the script defines, on Modal."""

    def failed(reason: str) -> DeployFailed:
        return DeployFailed(f"{tier.app} was not deployed: {reason}")

    with clear_errors(failed), modal.enable_output():
        app: modal.App = importlib.import_module(tier.module).app
        app.deploy(environment_name=environment, strategy=strategy)


def fetch_weights(tier: Tier, environment: str | None) -> str:
    """The weights of a deployed tier in the Volume, checked; what is there already is only checked. Says what."""

    def failed(reason: str) -> FetchFailed:
        return FetchFailed(f"The weights of {tier.app} were not fetched: {reason}")

    with clear_errors(failed):
        try:
            function = modal.Function.from_name(tier.app, "fetch_weights", environment_name=environment)
            return str(function.remote())
        except OrpheusError as error:  # raised over there
            raise failed(str(error)) from error


def url(tier: Tier, environment: str | None) -> str:
    """Where a deployed tier is, as Modal says."""

    def failed(reason: str) -> NotDeployed:
        return NotDeployed(f"{tier.app} has no URL ({reason}): deploy it first.")

    with clear_errors(failed):
        if tier is LLAMA:
            found = modal.Server.from_name(tier.app, LLAMA_SERVER, environment_name=environment).get_url()
        else:
            speech = modal.Cls.from_name(tier.app, SPEECH_CLASS, environment_name=environment)
            found = speech().web.get_web_url()
        if not found:
            raise failed("Modal gives none")
        return str(found)


def stop(tier: Tier, environment: str | None) -> None:
    """End its containers and its URL. The Volume and the Secrets stay."""

    def failed(reason: str) -> NotDeployed:
        return NotDeployed(f"{tier.app} cannot be stopped: {reason}")

    with clear_errors(failed):
        modal.App.lookup(tier.app, environment_name=environment).stop()
