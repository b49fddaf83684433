"""A request to a server that may be asleep → its response, once somebody is there to give one.

Knows nothing of what is asked. Where services sleep until they are asked, the first answers come from a proxy
with nobody behind it: Modal's says 503, then 502 as a container comes or goes; others refuse the connection.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time

import httpx

ASLEEP = (502, 503)
SEE_OTHER = (
    303  # a Modal web function that took 150 s: the same answer waits at another path of the same host
)
POLL_S = 1.0

log = logging.getLogger(__name__)


async def send_when_awake(client: httpx.AsyncClient, request: httpx.Request, wait_s: float) -> httpx.Response:
    """The response, unread; the caller closes it. Sent again for up to `wait_s` while it meets nobody.

    Once an answer has begun it is the answer, whatever becomes of it. Raises httpx's errors, and returns the last
    refusal when the time is over.
    """
    ends_s = time.monotonic() + wait_s
    asleep = False
    while True:
        try:
            response = await client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            if time.monotonic() >= ends_s:
                raise
        else:
            other = response.next_request if response.status_code == SEE_OTHER else None
            elsewhere = (
                other is not None and other.url.host != request.url.host
            )  # our keys are not for others
            if elsewhere or response.status_code not in (*ASLEEP, SEE_OTHER) or time.monotonic() >= ends_s:
                return response
            await response.aclose()
            if other is not None:
                request = other
                await asyncio.sleep(0.1)
                continue
        if not asleep:
            asleep = True
            log.info("%s is asleep: waiting up to %g s", request.url.host, wait_s)
        await asyncio.sleep(min(POLL_S * random.uniform(0.5, 1.5), max(0.0, ends_s - time.monotonic())))
