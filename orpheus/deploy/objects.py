"""The Volume and the Secrets that the definitions share."""

from __future__ import annotations

import os

import modal

from orpheus.deploy.settings import AUTH_SECRET, HF_SECRET, HF_SECRET_EXISTS, VOLUME
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
