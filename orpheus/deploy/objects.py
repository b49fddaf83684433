"""The Volume, the Secrets and the options that the definitions share."""

from __future__ import annotations

import os
from typing import Any

import modal

from orpheus.deploy.settings import (
    AUTH_SECRET,
    CORES,
    EXIT_GRACE_S,
    HF_SECRET,
    HF_SECRET_EXISTS,
    STARTUP_TIMEOUT_S,
    VOLUME,
    WEIGHTS,
    Deployment,
    Sizes,
    routing_region,
)
from orpheus.settings import load_settings


def weights_volume() -> modal.Volume:
    return modal.Volume.from_name(VOLUME, create_if_missing=True, version=2)


def auth_secret(*keys: str) -> modal.Secret:
    """The Secret of whoever calls our apps, and of whoever may; it must hold these keys."""
    return modal.Secret.from_name(AUTH_SECRET, required_keys=list(keys))


def hf_secret() -> modal.Secret:
    """HF_TOKEN for the containers that fetch weights: as it is set here, or else of the Secret that the deploy script found.

    Inside them it is in the environment either way, so the definition, read again, is the same.
    """
    if HF_SECRET_EXISTS in os.environ:
        return modal.Secret.from_name(HF_SECRET, required_keys=["HF_TOKEN"])
    token = load_settings().hf_token
    return modal.Secret.from_dict({"HF_TOKEN": token.get_secret_value() if token else None})


def fetch_options(volume: modal.Volume, environment: dict[str, str | None]) -> dict[str, Any]:
    """Of a function that puts weights into the Volume."""
    return {
        "volumes": {WEIGHTS: volume},
        "secrets": [hf_secret()],
        "env": environment,
        "timeout": 3600,
        "retries": 2,
    }


def server_options(deployment: Deployment, sizes: Sizes) -> dict[str, Any]:
    """Of a Modal Server: how many containers there are, how much each takes, how it comes and goes, and where it is."""
    return {
        "cpu": CORES,
        "target_concurrency": sizes.target,
        "max_concurrency": sizes.most,
        "min_containers": deployment.min_containers,
        "max_containers": deployment.max_containers,
        "scaledown_window": deployment.scaledown_s,
        "startup_timeout": STARTUP_TIMEOUT_S,
        "exit_grace_period": EXIT_GRACE_S,
        "compute_region": deployment.region,
        "routing_region": routing_region(deployment.region),
    }
