"""A Modal account → whether one may deploy with it, and whether the Secrets are there.

Knows nothing of what is deployed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import modal
from modal.exception import AuthError, NotFoundError, PermissionDeniedError

from orpheus.deploy.errors import (
    DeployError,
    DeployFailed,
    NotLoggedIn,
    SecretMissing,
    TokenRefused,
    Unreachable,
)
from orpheus.deploy.settings import Deployment
from orpheus.settings import Settings

CHECK_S = 15  # modal itself gives up after a minute
PROXY_KEYS = ["ORPHEUS_PROXY_KEY", "ORPHEUS_PROXY_SECRET"]
HF_SECRET = "huggingface-secret"


def check_token(within_s: float = CHECK_S) -> None:
    """Return where Modal answers to this machine's token. NotLoggedIn, TokenRefused or Unreachable."""
    outcome: list[BaseException | None] = []

    def ask() -> None:
        try:
            modal.Client.from_env().hello()
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)

    asking = threading.Thread(target=ask, daemon=True)  # left behind where Modal does not answer
    asking.start()
    asking.join(within_s)
    if not outcome:
        raise Unreachable(
            f"Modal did not answer within {within_s:g} s: check the network, or https://status.modal.com."
        )
    with clear_errors(DeployFailed):
        if outcome[0] is not None:
            raise outcome[0]


def ensure_auth_secret(deployment: Deployment, settings: Settings, environment: str | None) -> str:
    """The Secret with the proxy token, made of this machine's settings where there is none. Says what was done."""
    name = deployment.auth_secret
    if _has(name, PROXY_KEYS, environment):
        return f"Secret {name} is there"
    if not settings.proxy_headers:
        option = f" --env {environment}" if environment else ""
        raise SecretMissing(
            f"The Secret {name} is not there, or has no {' and '.join(PROXY_KEYS)}. Make a proxy token with\n"
            f"    modal workspace proxy-tokens create\n"
            f"and keep it with\n"
            f"    modal secret create {name}{option} --force ORPHEUS_PROXY_KEY=wk-… ORPHEUS_PROXY_SECRET=ws-…\n"
            f"or put both lines into .env and run this again. ORPHEUS_API_KEYS may go with them."
        )
    values = dict(zip(PROXY_KEYS, settings.proxy_headers.values(), strict=True))
    if settings.api_keys:
        values["ORPHEUS_API_KEYS"] = settings.api_keys.get_secret_value()
    with clear_errors(DeployFailed):
        modal.Secret.objects.create(name, values, environment_name=environment)
    return f"Secret {name} was made of {', '.join(values)} as set here"


def find_hf_secret(deployment: Deployment, environment: str | None) -> str | None:
    """The name of the Secret with HF_TOKEN; None where none was asked for and none is there."""
    if _has(deployment.hf_secret or HF_SECRET, ["HF_TOKEN"], environment):
        return deployment.hf_secret or HF_SECRET
    if deployment.hf_secret is None:
        return None
    raise SecretMissing(
        f"ORPHEUS_HF_SECRET={deployment.hf_secret} names no Secret with HF_TOKEN: make it with\n"
        f"    modal secret create {deployment.hf_secret} HF_TOKEN=hf_…"
    )


def _has(name: str, keys: list[str], environment: str | None) -> bool:
    with clear_errors(DeployFailed):
        try:
            modal.Secret.from_name(name, required_keys=keys, environment_name=environment).hydrate()
        except NotFoundError as error:
            if "environment" in str(error).lower() and name not in str(error):
                raise
            return False
        except modal.exception.InvalidError:  # it lacks a key
            return False
    return True


@contextmanager
def clear_errors(otherwise: Callable[[str], DeployError]) -> Iterator[None]:
    """Whatever modal raises, as one sentence of ours; what is no matter of the account becomes `otherwise`."""
    try:
        yield
    except AuthError as error:
        if "Token missing" in str(error):
            raise NotLoggedIn("This machine has no Modal token: run `modal setup` once.") from error
        raise TokenRefused(f"Modal refused the token: {error}. Run `modal setup` for another.") from error
    except PermissionDeniedError as error:
        raise TokenRefused(f"The token may not do this: {error}") from error
    except modal.exception.ConnectionError as error:
        raise Unreachable(f"Modal cannot be reached: {error}") from error
    except modal.Error as error:
        raise otherwise(str(error) or type(error).__name__) from error
