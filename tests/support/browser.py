"""A headless Chromium that records what a page does: its requests, its errors, and every sample it plays."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, Route, WebSocketRoute, sync_playwright

# Records what reaches the speaker, in the audio thread. The audio context stays suspended until the recorder is
# connected, so that no sample is missed.
_RECORDER = """
const RECORDER = `registerProcessor("recorder", class extends AudioWorkletProcessor {
  process([[channel]]) {
    if (channel) this.port.postMessage(channel.slice());
    return true;
  }
});`;
window.heard = [];
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (to, ...more) {
  if (to === this.context.destination) this.context.recorder.then((recorder) => connect.call(this, recorder));
  return connect.call(this, to, ...more);
};
window.AudioContext = class extends AudioContext {
  constructor(options) {
    super(options);
    super.suspend();
    const url = URL.createObjectURL(new Blob([RECORDER], { type: "text/javascript" }));
    this.recorder = this.audioWorklet.addModule(url).then(() => {
      const recorder = new AudioWorkletNode(this, "recorder", { numberOfOutputs: 0 });
      recorder.port.onmessage = ({ data }) => window.heard.push(data);
      return recorder;
    });
    this.going = this.recorder.then(() => super.resume());
  }
  resume() { return this.going; }
};
"""


@contextlib.contextmanager
def chromium(*more: str) -> Iterator[Browser]:
    """The installed browser, with `more` options; without one, the test is skipped."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        # With _allow_recorder the browser does not know that the page comes from localhost, and would refuse its
        # WebSocket to localhost.
        options = ["--disable-features=LocalNetworkAccessChecks", *more]
        if os.geteuid() == 0:
            options.append("--no-sandbox")  # the sandbox does not run as root, as in a container
        browser = playwright.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()


def with_microphone(recording: Path) -> tuple[str, ...]:
    """Options of a browser whose microphone plays this WAV once, from when it is opened, and then nothing."""
    return "--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={recording}%noloop"


def _allow_recorder(route: Route) -> None:
    """The page's own Content-Security-Policy, plus the recorder's script, which is a blob."""
    page = route.fetch()
    policy = page.headers["content-security-policy"].replace("script-src", "script-src blob:")
    route.fulfill(response=page, headers={**page.headers, "content-security-policy": policy})


Socket = Callable[[WebSocketRoute], None]


class Visit:
    """A page opened at `url` in a fresh profile."""

    def __init__(self, browser: Browser, url: str, socket: Socket | None = None, **options: Any) -> None:
        """With `socket`, that answers the page's WebSockets instead of the server."""
        self._context = browser.new_context(base_url=url, **options)
        self._context.add_init_script(_RECORDER)
        self._context.route(url, _allow_recorder)
        if socket is not None:
            self._context.route_web_socket("**", socket)
        self.page: Page = self._context.new_page()
        self.origins: set[str] = set()
        self.errors: list[str] = []
        self.page.on("request", lambda request: self._record_origin(request.url))
        self.page.on("websocket", lambda socket: self._record_origin(socket.url))
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto("/")
        self.page.locator("#voice option").first.wait_for(state="attached")

    def _record_origin(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob"):
            self.origins.add(parts.netloc)

    def hear(self, samples: int = 1) -> None:
        """Wait until this many samples were played, not counting zeros."""
        deadline = time.monotonic() + 20
        while (
            self.page.evaluate("() => heard.flatMap((block) => [...block]).filter(Boolean).length") < samples
        ):
            assert time.monotonic() < deadline, self.errors
            self.page.wait_for_timeout(20)

    def heard(self) -> NDArray[np.int16]:
        """The 16-bit samples played so far, without the zeros, as silence may be inserted between buffers."""
        self.page.wait_for_timeout(100)  # the recorder's messages arrive a little later
        # Rounded first: at the edge of a buffer the browser leaves 1e-10 of a 16-bit step of its neighbour.
        played = self.page.evaluate(
            "() => heard.flatMap((block) => [...block].map((sample) => Math.round(sample * 32768))).filter(Boolean)"
        )
        return np.array(played, np.int16)

    def close(self) -> None:
        self._context.close()
