from __future__ import annotations

import threading
import time

import modal
import pytest

from orpheus.deploy import account
from orpheus.deploy.errors import DeployFailed, NotLoggedIn, TokenRefused, Unreachable


class Silent:
    """A Modal that never answers."""

    @staticmethod
    def from_env() -> object:
        threading.Event().wait(30)
        return None


def test_a_modal_that_does_not_answer_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modal, "Client", Silent)
    started = time.monotonic()
    with pytest.raises(Unreachable, match=r"within 0\.2 s"):
        account.check_token(0.2)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (modal.exception.AuthError("Token missing. Could not authenticate client."), NotLoggedIn),
        (modal.exception.AuthError("Token ID is malformed"), TokenRefused),
        (modal.exception.PermissionDeniedError("not yours"), TokenRefused),
        (modal.exception.ConnectionError("no route"), Unreachable),
        (modal.exception.RemoteError("nvcc failed"), DeployFailed),
    ],
)
def test_each_of_modals_errors_is_one_of_ours(raised: Exception, error: type[Exception]) -> None:
    with pytest.raises(error) as caught, account.clear_errors(DeployFailed):
        raise raised
    assert caught.value.__cause__ is raised
