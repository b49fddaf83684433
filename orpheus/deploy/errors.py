"""Failures of a deployment, each with its own exit code. A wrong setting is a SetupError, exit 2, as everywhere."""

from __future__ import annotations

from orpheus.errors import OrpheusError


class DeployError(OrpheusError):
    pass


class NotLoggedIn(DeployError):
    exit_code = 10  # no Modal token on this machine


class TokenRefused(DeployError):
    exit_code = 11  # Modal does not know the token, or it may not do this


class Unreachable(DeployError):
    exit_code = 12  # no answer from Modal


class SecretMissing(DeployError):
    exit_code = 13  # a Secret that the containers need


class DeployFailed(DeployError):
    exit_code = 14  # Modal refused the deployment, or could not build an image


class FetchFailed(DeployError):
    exit_code = 15  # the weights did not reach the Volume


class NotDeployed(DeployError):
    exit_code = 16  # nothing to look up or to stop


class SmokeFailed(DeployError):
    exit_code = 17  # deployed, but it does not speak
