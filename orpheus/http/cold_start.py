"""Send a request to a server that may be asleep, and wait until it answers.

A service that scales to zero starts on its first request. Until then the answers come from the proxy in front of it:
Modal's says 503, then 502 while a container starts or stops; others refuse the connection.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time

import httpx

ASLEEP = (502, 503)
SEE_OTHER = 303  # from a Modal web function after 150 s: its answer is at another path of the same host
POLL_S = 1.0
MAX_REDIRECTS = 20  # as browsers; Modal's answer to a start of ten minutes needs four

log = logging.getLogger(__name__)


async def send_when_awake(
    client: httpx.AsyncClient, request: httpx.Request, wait_s: float, answer_s: float | None = None
) -> httpx.Response:
    """The response, unread; the caller closes it. The request is repeated for up to `wait_s` while nothing serves it.

    An answer that has begun is never asked for again. Raises httpx's errors, and TimeoutError if the headers of one
    answer are not complete after `answer_s`, however they trickle; returns the last refusal after `wait_s`.
    """
    deadline_s = time.monotonic() + wait_s
    asleep = False
    redirects = 0
    while True:
        try:
            async with asyncio.timeout(answer_s):
                response = await client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            if time.monotonic() >= deadline_s:
                raise
        else:
            other = response.next_request if response.status_code == SEE_OTHER else None
            # Our keys must not go to another server, nor to this one without encryption.
            elsewhere = other is not None and not same_origin(other.url, request.url)
            if (
                elsewhere
                or response.status_code not in (*ASLEEP, SEE_OTHER)
                or time.monotonic() >= deadline_s
                or redirects == MAX_REDIRECTS
            ):
                return response
            await response.aclose()
            if other is not None:
                request = other
                redirects += 1
                await asyncio.sleep(0.1)
                continue
        if not asleep:
            asleep = True
            log.info("%s is asleep: waiting up to %g s", request.url.host, wait_s)
        await asyncio.sleep(min(POLL_S * random.uniform(0.5, 1.5), max(0.0, deadline_s - time.monotonic())))


def same_origin(one: httpx.URL, other: httpx.URL) -> bool:
    """Whether both name the same server in the same way: scheme, host and port."""
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)
