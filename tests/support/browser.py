"""A headless Chromium, and what a page did in it: every request, every complaint, every sample it played."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, Route, WebSocketRoute, sync_playwright

# Taps what reaches the loudspeaker, in the audio thread. The context's clock stands until the tap is there, so
# that it misses nothing.
_TAPPED = """
const TAP = `registerProcessor("tap", class extends AudioWorkletProcessor {
  process([[channel]]) {
    if (channel) this.port.postMessage(channel.slice());
    return true;
  }
});`;
window.heard = [];
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (to, ...more) {
  if (to === this.context.destination) this.context.tapped.then((tap) => connect.call(this, tap));
  return connect.call(this, to, ...more);
};
window.AudioContext = class extends AudioContext {
  constructor(options) {
    super(options);
    super.suspend();
    const url = URL.createObjectURL(new Blob([TAP], { type: "text/javascript" }));
    this.tapped = this.audioWorklet.addModule(url).then(() => {
      const tap = new AudioWorkletNode(this, "tap", { numberOfOutputs: 0 });
      tap.port.onmessage = ({ data }) => window.heard.push(data);
      return tap;
    });
    this.going = this.tapped.then(() => super.resume());
  }
  resume() { return this.going; }
};
"""


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """The browser of this machine; the test is skipped where there is none."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        # The page comes through _let_the_tap_in, so that the browser does not see it is from this machine, and
        # would not let it open a WebSocket to it.
        options = ["--disable-features=LocalNetworkAccessChecks"]
        if os.geteuid() == 0:
            options.append("--no-sandbox")  # the sandbox refuses root, as who tests in a container is
        browser = playwright.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()


def _let_the_tap_in(route: Route) -> None:
    """The page's own policy, and one script more: a blob."""
    page = route.fetch()
    policy = page.headers["content-security-policy"].replace("script-src", "script-src blob:")
    route.fulfill(response=page, headers={**page.headers, "content-security-policy": policy})


Socket = Callable[[WebSocketRoute], None]


class Visit:
    """A page opened at `url` in a fresh profile."""

    def __init__(self, browser: Browser, url: str, socket: Socket | None = None, **options: Any) -> None:
        """With `socket`, that answers its WebSockets and not the server."""
        self._context = browser.new_context(base_url=url, **options)
        self._context.add_init_script(_TAPPED)
        self._context.route(url, _let_the_tap_in)
        if socket is not None:
            self._context.route_web_socket("**", socket)
        self.page: Page = self._context.new_page()
        self.origins: set[str] = set()
        self.errors: list[str] = []
        self.page.on("request", lambda request: self._asked(request.url))
        self.page.on("websocket", lambda socket: self._asked(socket.url))
        self.page.on("console", lambda said: said.type == "error" and self.errors.append(said.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto("/")
        self.page.locator("#voice option").first.wait_for(state="attached")

    def _asked(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob"):
            self.origins.add(parts.netloc)

    def hear(self, samples: int = 1) -> None:
        """Wait until so many were played."""
        deadline = time.monotonic() + 20
        while (
            self.page.evaluate("() => heard.flatMap((block) => [...block]).filter(Boolean).length") < samples
        ):
            assert time.monotonic() < deadline, self.errors
            self.page.wait_for_timeout(20)

    def heard(self) -> NDArray[np.int16]:
        """What was played so far, the silence left out: the rest must be the samples that were sent."""
        self.page.wait_for_timeout(100)  # the tap tells a little later
        # Rounded first: where two buffers meet, the browser leaves a trace of the neighbour, 1e-10 of a 16-bit step.
        played = self.page.evaluate(
            "() => heard.flatMap((block) => [...block].map((sample) => Math.round(sample * 32768))).filter(Boolean)"
        )
        return np.array(played, np.int16)

    def close(self) -> None:
        self._context.close()
