"""What `deploy_orpheus_modal.py` asks of Modal: check the token and the Secret; deploy, fill, find and stop an app.

Every failure is a DeployError that says what to do.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import modal
from modal.exception import AuthError, InvalidError, NotFoundError, PermissionDeniedError

from orpheus.deploy.errors import (
    DeployError,
    DeployFailed,
    FetchFailed,
    NotDeployed,
    NotLoggedIn,
    SecretMissing,
    TokenRefused,
    Unreachable,
)
from orpheus.deploy.settings import (
    AGENT_APP,
    AGENT_CLASS,
    API_KEYS,
    AUTH_SECRET,
    HF_SECRET,
    LLAMA_APP,
    LLAMA_SERVER,
    LLM_APP,
    LLM_SERVER,
    PROXY_KEYS,
    SPEECH_APP,
    SPEECH_CLASS,
)
from orpheus.errors import OrpheusError
from orpheus.settings import Settings, setting_name

CHECK_S = 15.0  # the client itself gives up only after a minute

Strategy = Literal["rolling", "recreate"]


@dataclass(frozen=True)
class Tier:
    name: str  # as in --only
    app: str
    module: str  # which defines it
    what: str  # the class in it that serves
    is_server: bool  # a Modal Server, and otherwise a web function `web`


LLAMA = Tier("llama", LLAMA_APP, "orpheus_llama_modal", LLAMA_SERVER, is_server=True)
SPEECH = Tier("speech", SPEECH_APP, "orpheus_fastapi_modal", SPEECH_CLASS, is_server=False)
LLM = Tier("llm", LLM_APP, "orpheus.deploy.llm_app", LLM_SERVER, is_server=True)
AGENT = Tier("agent", AGENT_APP, "orpheus.deploy.speech_to_speech", AGENT_CLASS, is_server=False)


def check_token(within_s: float = CHECK_S) -> None:
    """Return if Modal accepts this machine's token. Raises NotLoggedIn, TokenRefused or Unreachable."""

    async def ask() -> None:
        client = await modal.Client.from_env.aio()
        await client.hello.aio()  # type: ignore[no-untyped-call]

    with clear_errors(DeployFailed, "Modal does not accept this machine"):
        try:
            asyncio.run(asyncio.wait_for(ask(), within_s))
        except TimeoutError as error:
            raise Unreachable(
                f"Modal did not answer within {within_s:g} s: check the network, or https://status.modal.com."
            ) from error


def ensure_auth_secret(settings: Settings, environment: str | None, keys: Sequence[str]) -> str:
    """Make the Secret with `keys` from this machine's settings unless it has them. Returns what was done."""
    with clear_errors(DeployFailed, f"The Secret {AUTH_SECRET} cannot be looked up"):
        try:
            modal.Secret.from_name(
                AUTH_SECRET, required_keys=list(keys), environment_name=environment
            ).hydrate()
            return f"Secret {AUTH_SECRET} exists"
        except NotFoundError as error:
            if AUTH_SECRET not in str(error):  # the environment is missing, not the Secret
                raise
            exists = False
        except InvalidError:  # it lacks a key; its others cannot be read, so it is not replaced from here
            exists = True
    values = _auth_values(settings)
    if exists or any(key not in values for key in keys):
        raise SecretMissing(_how_to_store(keys, environment, exists))
    with clear_errors(DeployFailed, f"The Secret {AUTH_SECRET} was not created"):
        modal.Secret.objects.create(AUTH_SECRET, values, environment_name=environment)
    return f"Secret {AUTH_SECRET} created with {', '.join(values)} as set here"


def _auth_values(settings: Settings) -> dict[str, str]:
    """What is set here of what the Secret may hold."""
    values = dict(zip(PROXY_KEYS, settings.proxy_headers.values(), strict=False))
    for field in ("api_keys", "llama_api_key", "llm_api_key", "stt_api_key", "twilio_auth_token"):
        if (secret := getattr(settings, field)) is not None:
            values[setting_name(field)] = secret.get_secret_value()
    return values


def _how_to_store(keys: Sequence[str], environment: str | None, exists: bool) -> str:
    option = f" --env {environment}" if environment else ""
    example = dict(zip(PROXY_KEYS, ("wk-…", "ws-…"), strict=True)) | {API_KEYS: "KEY"}
    lines = [
        f"The Secret {AUTH_SECRET} lacks one of {' and '.join(keys)}, and what it holds cannot be read from here."
        if exists
        else f"The Secret {AUTH_SECRET} with {' and '.join(keys)} does not exist."
    ]
    if PROXY_KEYS[0] in keys:
        lines += ["Create a proxy token with", "    modal workspace proxy-tokens create"]
    if API_KEYS in keys:
        lines += ["Think of a key that callers of the agent send, for example", "    openssl rand -hex 24"]
    lines += [
        "and store all of it with" if len(lines) > 1 else "Store it with",
        f"    modal secret create {AUTH_SECRET}{option} --force {' '.join(f'{key}={example[key]}' for key in keys)}",
    ]
    if not exists:
        lines.append("or put it into .env and run this again.")
    if API_KEYS not in keys:
        lines[-1] += f" {API_KEYS} can be stored with it."
    return "\n".join(lines)


def has_hf_secret(environment: str | None) -> bool:
    """Whether there is a Secret with HF_TOKEN."""
    with clear_errors(DeployFailed, f"The Secret {HF_SECRET} cannot be looked up"):
        try:
            modal.Secret.from_name(
                HF_SECRET, required_keys=["HF_TOKEN"], environment_name=environment
            ).hydrate()
        except (NotFoundError, InvalidError):
            return False
    return True


def deploy(
    tier: Tier, environment: str | None, strategy: Strategy, *, min_containers: int | None = None
) -> None:
    """Deploy what the tier's module defines, with Modal's own progress on the terminal.

    `min_containers` stands in for ORPHEUS_MIN_CONTAINERS.
    """
    with (
        clear_errors(DeployFailed, f"{tier.app} was not deployed"),
        modal.enable_output(),
        _environment("ORPHEUS_MIN_CONTAINERS", min_containers),
    ):
        module = importlib.import_module(tier.module)
        app: modal.App = importlib.reload(module).app  # it reads the environment as it is imported
        app.deploy(environment_name=environment, strategy=strategy)


@contextmanager
def _environment(name: str, value: int | None) -> Iterator[None]:
    """A variable of the environment set while the body runs; as it was if None."""
    before = os.environ.get(name)
    try:
        if value is not None:
            os.environ[name] = str(value)
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


def fetch_weights(tier: Tier, environment: str | None) -> str:
    """Fill the Volume with the weights of a deployed tier; those already in it are only checked. Returns a summary."""
    doing = f"The weights of {tier.app} were not fetched"
    with clear_errors(FetchFailed, doing):
        try:
            function = modal.Function.from_name(tier.app, "fetch_weights", environment_name=environment)
            return str(function.remote())
        except OrpheusError as error:  # raised in the container
            raise FetchFailed(f"{doing}: {error}") from error


def url(tier: Tier, environment: str | None) -> str:
    """The URL of a deployed tier."""
    with clear_errors(NotDeployed, f"{tier.app} has no URL, deploy it first"):
        if tier.is_server:
            found = modal.Server.from_name(tier.app, tier.what, environment_name=environment).get_url()
        else:
            served = modal.Cls.from_name(tier.app, tier.what, environment_name=environment)
            found = served().web.get_web_url()
    if not found:
        raise NotDeployed(f"{tier.app} has no URL: deploy it again.")
    return str(found)


def stop(tier: Tier, environment: str | None) -> None:
    """End the tier's containers and its URL. The Volume and the Secret stay."""
    with clear_errors(NotDeployed, f"{tier.app} cannot be stopped"):
        modal.App.lookup(tier.app, environment_name=environment).stop()


@contextmanager
def clear_errors(otherwise: type[DeployError], doing: str) -> Iterator[None]:
    """Turn what modal raises into one sentence: about the account, or else `otherwise`, which begins with `doing`."""
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
        raise otherwise(f"{doing}: {str(error) or type(error).__name__}") from error
