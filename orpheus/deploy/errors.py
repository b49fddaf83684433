"""What can go wrong with a deployment → one sentence and an exit code of its own.

    DeployError
    ├── NotLoggedIn     exit 10   no Modal token on this machine
    ├── TokenRefused    exit 11   Modal knows no such token, or it may not do this
    ├── Unreachable     exit 12   no answer from Modal
    ├── SecretMissing   exit 13   a Secret that the containers need
    ├── DeployFailed    exit 14   Modal refused the deployment, or an image could not be built
    ├── FetchFailed     exit 15   the weights did not reach the Volume
    ├── NotDeployed     exit 16   nothing there to look up or to stop
    └── SmokeFailed     exit 17   deployed, but it does not speak

A setting that cannot be is a SetupError, exit 2, as everywhere.
"""

from __future__ import annotations

from orpheus.errors import OrpheusError


class DeployError(OrpheusError):
    pass


class NotLoggedIn(DeployError):
    exit_code = 10


class TokenRefused(DeployError):
    exit_code = 11


class Unreachable(DeployError):
    exit_code = 12


class SecretMissing(DeployError):
    exit_code = 13


class DeployFailed(DeployError):
    exit_code = 14


class FetchFailed(DeployError):
    exit_code = 15


class NotDeployed(DeployError):
    exit_code = 16


class SmokeFailed(DeployError):
    exit_code = 17
