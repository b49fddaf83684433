"""The page at `/` in a real browser, against a scripted tier 1."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, WebSocketRoute, expect
from starlette.responses import JSONResponse

from tests.support.audio import decode
from tests.support.browser import Visit, chromium
from tests.support.live import ROOT, clean_environment
from tests.support.speech import PATH
from tests.support.upstream import SPEECH_FRAMES, Upstream, whole
from tests.support.waiting import eventually

Start = Callable[..., httpx.Client]
Open = Callable[..., Visit]
WEB = ROOT / "orpheus" / "web"
TWO_SEGMENTS = (
    "This is the first sentence of two, and it is long enough. This is the second sentence of two, as long."
)
NETWORK = (
    "Failed to load resource",
    "WebSocket connection to",
)  # logged by the browser itself


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser: Browser, speech: Start) -> Iterator[Open]:
    """Opens the page; afterwards nothing was requested from another origin and no error was logged."""
    visits: list[tuple[Visit, str]] = []

    def opened(client: httpx.Client | None = None, **options: object) -> Visit:
        url = str((client or speech()).base_url)
        visits.append((Visit(browser, url, **options), httpx.URL(url).netloc.decode()))
        return visits[-1][0]

    yield opened
    for visit, origin in visits:
        visit.close()
        assert visit.origins == {origin}
        assert visit.errors == []


def forgive(visit: Visit) -> None:
    """Drop the errors that the browser logs for a failure the test provoked."""
    visit.errors = [error for error in visit.errors if not error.startswith(NETWORK)]


def wait(visit: Visit, id: str, text: str | re.Pattern[str]) -> Locator:
    found = visit.page.locator(f"#{id}")
    expect(found).to_contain_text(text, timeout=20_000)
    return found


def download(visit: Visit) -> tuple[str, bytes]:
    with visit.page.expect_download() as saved:
        visit.page.click("#download")
    return saved.value.suggested_filename, Path(saved.value.path()).read_bytes()


# Served


def test_the_page_may_load_nothing_from_another_origin(speech: Start) -> None:
    client = speech()
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"https?://(?!www.w3.org/2000/svg)", page.text)
    head = client.head("/")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(page.content))
    for name in re.findall(r'(?:src|href)="(page/[^"]+)"', page.text):
        assert client.get(name).status_code == 200
    for name in ("nothing.js", "__init__.py", "..%2fsettings.py", "%2e%2e/app.py"):
        assert client.get(f"/page/{name}").status_code == 404
    assert client.post("/").status_code == 405


def test_a_setting_turns_the_page_off(speech: Start) -> None:
    client = speech(page=False)
    assert client.get("/").status_code == client.get("/page/app.js").status_code == 404
    assert client.get("/health").status_code == 200


def test_an_installed_package_contains_the_whole_page() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    files = [file.name for file in WEB.iterdir() if file.is_file() and file.suffix != ".py"]
    assert "index.html" in files
    assert all(any(fnmatch(file, pattern) for pattern in data["orpheus.web"]) for file in files)


# Speech


@pytest.mark.slow
def test_what_is_played_and_downloaded_is_what_was_sent(open_page: Open, speech: Start) -> None:
    visit = open_page()
    visit.page.fill("#input", TWO_SEGMENTS)
    visit.page.click("#speak")
    wait(visit, "status", "Done")
    sent = speech().post(PATH, json={"input": TWO_SEGMENTS, "response_format": "pcm"}).content
    samples = np.frombuffer(sent, "<i2")
    assert np.array_equal(visit.heard(), samples[samples != 0])
    name, content = download(visit)
    assert name == "speech.wav"
    assert content[44:] == sent
    assert np.array_equal(np.rint(decode(content)[0] * 32768), samples)
    assert (
        int.from_bytes(content[4:8], "little") == len(content) - 8
    )  # a stream's header cannot state its length
    assert int.from_bytes(content[40:44], "little") == len(sent)

    wait(visit, "segments", "2")
    wait(visit, "first-audio", re.compile(r"^\d+ ms$"))
    wait(visit, "factor", re.compile(r"^\d+\.\d\d$"))
    wait(visit, "duration", f"{len(samples) / 24_000:.2f} s")
    assert (
        visit.page.get_attribute("#wave", "aria-label")
        == f"Waveform, {len(samples) / 24_000:.1f} s, 2 segments"
    )

    visit.page.click("#again")
    wait(visit, "status", "Playing again")
    wait(visit, "status", "Done")
    assert np.array_equal(visit.heard(), np.tile(samples[samples != 0], 2))


def test_an_iphone_with_its_ring_switch_off_plays_it_too(open_page: Open) -> None:
    visit = open_page()
    # Safari's own; other browsers have none.
    visit.page.evaluate('Object.defineProperty(navigator, "audioSession", { value: { type: "auto" } })')
    visit.page.click("#speak")
    wait(visit, "status", "Done")
    assert visit.page.evaluate("navigator.audioSession.type") == "playback"


def test_it_plays_while_the_rest_is_still_being_generated(open_page: Open, upstream: Upstream) -> None:
    upstream.events, upstream.hang_after = whole(30), 20
    visit = open_page()
    visit.page.click("#speak")
    expect(visit.page.locator("#live-streams")).to_have_text("1", timeout=10_000)
    visit.hear()
    wait(visit, "status", "Speaking")
    upstream.go_on.set()
    wait(visit, "factor", re.compile(r"\d"))


def test_stopping_silences_it_at_once_and_frees_the_server(open_page: Open, upstream: Upstream) -> None:
    upstream.events, upstream.pause_s = whole(500), 0.02
    visit = open_page()
    visit.page.click("#speak")
    visit.hear()
    visit.page.click("#stop")
    wait(visit, "status", "Stopped after")
    visit.page.wait_for_timeout(150)
    quiet = len(visit.heard())
    visit.page.wait_for_timeout(400)
    assert len(visit.heard()) == quiet
    eventually(lambda: upstream.left == 1)
    assert visit.page.locator("#problem").is_hidden()


def test_speaking_again_stops_the_previous_speech(open_page: Open, upstream: Upstream) -> None:
    upstream.events, upstream.pause_s = whole(500), 0.02
    visit = open_page()
    visit.page.click("#speak")
    wait(visit, "status", "Speaking")
    upstream.events, upstream.pause_s = whole(), 0
    visit.page.fill("#input", "And now this.")
    visit.page.click("#speak")
    wait(visit, "duration", f"{SPEECH_FRAMES * 2048 / 24_000:.2f} s")
    wait(visit, "status", "Done")


@pytest.mark.parametrize("format", ["pcm", "mp3", "opus", "aac", "flac"])
def test_every_format_is_played_and_downloaded_as_it_was_sent(open_page: Open, format: str) -> None:
    visit = open_page()
    visit.page.select_option("#response_format", format)
    with visit.page.expect_response("**/v1/audio/speech") as response:
        visit.page.click("#speak")
    wait(visit, "status", "Done")
    name, content = download(visit)
    assert name == f"speech.{format}"
    sent = re.findall(r'"audio": ?"([^"]+)"', response.value.text())
    assert content == b"".join(map(base64.b64decode, sent))
    assert len(visit.heard()) > SPEECH_FRAMES * 2048 * 0.9


def test_every_chosen_parameter_is_sent(open_page: Open, upstream: Upstream) -> None:
    visit = open_page()
    visit.page.fill("#input", "Well, ")
    visit.page.click("#tags >> text=sigh")
    visit.page.keyboard.type("it is 7.")
    visit.page.select_option("#voice", "leo")
    visit.page.fill("#speed", "1.5")
    chosen = {"seed": 7, "temperature": 0.5, "top_p": 0.8, "repetition_penalty": 1.2, "max_tokens": 700}
    for id, value in chosen.items():
        visit.page.fill(f"#{id}", str(value))
    visit.page.check("#normalize")
    with visit.page.expect_request("**/v1/audio/speech") as request:
        visit.page.click("#speak")
    assert request.value.post_data_json == {
        **chosen,
        "model": "orpheus-tts",
        "input": "Well, <sigh> it is 7.",
        "voice": "leo",
        "response_format": "wav",
        "speed": 1.5,
        "normalize": True,
        "stream_format": "sse",
    }
    wait(visit, "status", "Done")
    wait(visit, "speed-shown", "1.50×")
    with_leo = upstream.requests[-1]["prompt"]
    visit.page.select_option("#voice", "tara")
    visit.page.click("#speak")
    wait(visit, "status", "Done")
    assert upstream.requests[-1]["prompt"] != with_leo


def test_the_snippets_reproduce_the_request(
    open_page: Open, speech: Start, upstream: Upstream, tmp_path: Path
) -> None:
    hostile = 'It\'s "quoted", $(touch x) `touch x` \\n 100% {x}\nand <sigh> a new line: é 长.'
    visit = open_page()
    visit.page.fill("#input", hostile)
    visit.page.fill("#seed", "7")
    visit.page.fill("#speed", "0.5")
    visit.page.check("#normalize")
    body = {"input": hostile, "seed": 7, "speed": 0.5, "normalize": True, "response_format": "wav"}
    expected = speech().post(PATH, json=body)
    assert expected.status_code == 200

    def run(tab: str, *command: str) -> bytes:
        visit.page.click(f"#tab-{tab}")
        snippet = visit.page.inner_text("#snippet")
        environment = clean_environment(no_proxy="*")
        subprocess.run([*command, snippet], cwd=tmp_path, env=environment, check=True, timeout=60)
        (output,) = tmp_path.iterdir()  # and no file that the text tries to create
        content = output.read_bytes()
        output.unlink()
        return content

    # The codec decodes what is there: on a busy machine it is called with other numbers of frames, which rounds otherwise.
    assert_same_sound(run("curl", "bash", "-c"), expected.content)
    assert_same_sound(run("python", sys.executable, "-c"), expected.content)
    # It is told sentence by sentence that the text is at its end: another word that is not there yet cuts otherwise.
    (whole,) = (request["prompt"] for request in upstream.requests[:1])
    asked = len(upstream.requests)
    assert decode(run("socket", sys.executable, "-c"))[0].size
    pieces = (_text(request["prompt"]) for request in upstream.requests[asked:])
    assert " ".join(pieces).split() == _text(whole).split()


def _text(prompt: str) -> str:
    """What is spoken of a prompt of ours."""
    return prompt.partition(": ")[2].partition("<|")[0]


def assert_same_sound(wav: bytes, expected: bytes) -> None:
    assert len(wav) == len(expected)
    header = 44
    assert wav[:header] == expected[:header]
    one, other = (np.frombuffer(data[header:], "<i2").astype(int) for data in (wav, expected))
    assert np.abs(one - other).max() <= 2


# Word by word


class ScriptedSocket:
    """The server's end of the page's WebSocket: records messages, and sends what a test tells it to send."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.on_text: Callable[[int], None] = lambda words: (
            None
        )  # called with the number of words of the utterance so far
        self._words = 0

    def __call__(self, route: WebSocketRoute) -> None:
        self.route = route
        route.on_message(lambda message: self._receive(json.loads(message)))

    def _receive(self, message: dict[str, Any]) -> None:
        self.received.append(message)
        if message["type"] == "session.config":
            self._words = 0
        if message["type"] == "input.text":
            self._words += 1
            self.on_text(self._words)

    def send(self, type: str, utterance: int = 0, **more: Any) -> None:
        self.route.send(json.dumps({"type": type, "utterance_index": utterance, **more}))

    def start(self, utterance: int = 0, part: int = 0) -> None:
        self.send("audio.start", utterance, sentence_index=part, sentence_text="", sample_rate=24_000)

    def types(self) -> list[str]:
        return [message["type"] for message in self.received]


def tone(value: int, seconds: float) -> bytes:
    return np.full(round(24_000 * seconds), value, "<i2").tobytes()


@pytest.fixture
def script() -> ScriptedSocket:
    return ScriptedSocket()


def talk(open_page: Open, script: ScriptedSocket, text: str, rate: int = 50) -> Visit:
    visit = open_page(socket=script)
    visit.page.click("#tab-stream")
    visit.page.fill("#reply", text)
    visit.page.fill("#rate", str(rate))
    visit.page.select_option("#voice", "leo")
    visit.page.click("#start-reply")
    return visit


def test_a_reply_is_played_while_it_is_being_typed(open_page: Open, script: ScriptedSocket) -> None:
    def speak(words: int) -> None:
        if words == 2:
            script.start()
            script.send("audio.word", text="One,", start_s=0.0, stop_s=0.2)
            script.route.send(tone(100, 0.2)[:-1])  # a frame may split a sample
            script.route.send(tone(100, 0.2)[-1:])
        if words == 6:
            script.start(part=1)
            script.send("audio.word", text="two", start_s=0.2, stop_s=0.5)
            script.send("audio.word", text="four.", start_s=0.5, stop_s=0.8)
            script.route.send(tone(200, 0.6))

    script.on_text = speak
    visit = talk(open_page, script, "One, two\n<sigh> three. And  four.")
    expect(visit.page.locator("#transcript .now")).to_have_text("four.", timeout=10_000)
    script.send("session.done", total_sentences=2)
    wait(visit, "status", "Done: 0.80 s")
    assert (
        "".join(m["text"] for m in script.received if m["type"] == "input.text")
        == "One, two\n<sigh> three. And  four."
    )
    assert script.types() == ["session.config", *["input.text"] * 6, "input.done"]
    config = script.received[0]
    assert config["voice"] == "leo"
    assert (config["response_format"], config["stream_audio"], config["word_timestamps"]) == (
        "pcm",
        True,
        True,
    )
    assert visit.page.locator("#transcript .heard").all_inner_texts() == ["One,", "two", "four."]
    assert np.array_equal(visit.heard(), np.frombuffer(tone(100, 0.2) + tone(200, 0.6), "<i2"))
    wait(visit, "segments", "2")
    wait(visit, "first-audio", "ms")
    name, content = download(visit)
    assert name == "conversation.wav"
    assert np.array_equal(np.rint(decode(content)[0] * 32768)[[0, -1]], [100, 200])


@pytest.mark.parametrize("by", ["button", "key"])
def test_barging_in_silences_it_at_once_and_the_next_reply_is_clean(
    open_page: Open, script: ScriptedSocket, by: str
) -> None:
    def speak(words: int) -> None:
        if words == 1:
            script.start()
            script.send("audio.word", text="This", start_s=0.0, stop_s=0.1)
            script.send("audio.word", text="goes", start_s=4.0, stop_s=4.5)
            script.route.send(tone(100, 5.0))

    script.on_text = speak
    visit = talk(open_page, script, "This goes " + "on " * 200)
    visit.hear(2400)
    if by == "button":
        visit.page.click("#barge")
    else:
        visit.page.keyboard.press("Escape")
    wait(visit, "status", "Stopped after")
    visit.page.wait_for_timeout(200)
    quiet = len(visit.heard())
    assert quiet < 24_000 * 5
    script.route.send(tone(100, 1.0))  # already in transit
    script.send("audio.done", total_bytes=1, duration_s=1.0)
    script.send("audio.cancelled", sent_s=6.0)
    wait(visit, "answered", re.compile(r"^\d+ ms$"))
    assert script.types().count("input.cancel") == 1
    assert "input.done" not in script.types()
    assert visit.page.locator("#transcript .heard").all_inner_texts() == ["This"]
    assert visit.page.locator("#transcript .unheard").first.inner_text() == "goes"
    typed = len(script.received)
    visit.page.wait_for_timeout(200)
    assert len(script.received) == typed  # typing has stopped
    assert len(visit.heard()) == quiet

    def reply(words: int) -> None:
        script.start(utterance=1)
        script.route.send(tone(300, 0.3))
        script.send("session.done", utterance=1, total_sentences=1)

    script.on_text = reply
    visit.page.fill("#reply", "Sorry?")
    visit.page.click("#start-reply")
    wait(visit, "status", "Done: 0.30 s")
    assert np.array_equal(visit.heard()[quiet:], np.frombuffer(tone(300, 0.3), "<i2"))


def test_errors_from_the_websocket_are_shown(open_page: Open, script: ScriptedSocket) -> None:
    script.on_text = lambda words: script.send(
        "error", message="There is no voice 'x'.", code="voice_not_found"
    )
    visit = talk(open_page, script, "Hello.")
    wait(visit, "problem", "There is no voice 'x'.")
    script.on_text = lambda words: script.route.close(code=1013, reason="The server is shutting down.")
    visit.page.click("#start-reply")
    wait(visit, "problem", "The server is shutting down.")
    script.on_text = lambda words: script.route.close(code=1011)
    visit.page.click("#start-reply")
    wait(visit, "problem", "The connection broke.")
    script.on_text = lambda words: None
    visit.page.click("#start-reply")
    wait(visit, "transcript", "Hello.")
    assert visit.page.locator("#problem").is_hidden()


def test_a_websocket_that_needs_a_key_says_so(open_page: Open, speech: Start) -> None:
    visit = open_page(speech(keep=True, api_keys="first-key, second-key"))
    visit.page.click("#tab-stream")
    visit.page.click("#start-reply")
    wait(visit, "problem", "enter one")
    visit.page.fill("#api_key", "wrong")
    visit.page.click("#start-reply")
    wait(visit, "problem", "Check the API key")
    expect(visit.page.locator("#api_key")).to_be_focused()
    forgive(visit)


def test_a_conversation_with_the_server_and_a_barge_in(
    open_page: Open, speech: Start, upstream: Upstream
) -> None:
    upstream.events, upstream.pause_s = whole(30), 0.01
    visit = open_page()
    visit.page.click("#tab-stream")
    visit.page.fill("#reply", "This is the first sentence of two. " * 4)
    visit.page.click("#start-reply")
    visit.hear(4800)
    expect(visit.page.locator("#transcript .heard").first).to_have_text("This")
    visit.page.click("#barge")
    wait(visit, "status", "Stopped after")
    wait(visit, "answered", "ms")
    upstream.events, upstream.pause_s = whole(), 0
    visit.page.fill("#reply", "Yes, please.")
    visit.page.click("#start-reply")
    wait(visit, "status", "Done: ")
    expect(visit.page.locator("#transcript .heard")).to_have_text(["Yes,", "please."])
    assert visit.page.locator("#problem").is_hidden()


# Errors


def test_an_invalid_field_is_marked_and_nothing_is_sent(open_page: Open, upstream: Upstream) -> None:
    visit = open_page()
    visit.page.fill("#input", "  ")
    visit.page.click("#speak")
    expect(visit.page.locator("#input")).to_be_focused()
    assert visit.page.get_attribute("#input", "aria-invalid") == "true"
    visit.page.fill("#input", "Hello.")
    visit.page.fill("#temperature", "3")
    visit.page.keyboard.press("Control+Enter")
    expect(visit.page.locator("#temperature")).to_be_focused()
    assert upstream.requests == []
    visit.page.fill("#temperature", "")
    visit.page.keyboard.press("Control+Enter")
    wait(visit, "status", "Done")


def test_a_field_the_server_rejects_is_focused_with_the_reason(open_page: Open) -> None:
    visit = open_page()
    visit.page.fill("#input", "x" * 5000)
    visit.page.click("#speak")
    wait(visit, "problem", "5000 characters; the limit is 4096")
    expect(visit.page.locator("#input")).to_be_focused()
    visit.page.fill("#input", "Hello.")
    visit.page.click("#speak")
    wait(visit, "status", "Done")
    assert visit.page.locator("#problem").is_hidden()
    forgive(visit)


@pytest.mark.parametrize(
    ("status", "message"),
    [(429, "The server is at capacity.*Try again in 1 s"), (500, "Try again.*under req_")],
)
def test_server_errors_are_explained_in_plain_words(
    open_page: Open, upstream: Upstream, status: int, message: str
) -> None:
    upstream.answer = JSONResponse({"error": {"message": "no"}}, status)
    visit = open_page()
    visit.page.click("#speak")
    wait(visit, "problem", re.compile(message, re.DOTALL))
    wait(visit, "status", "Nothing spoken.")
    forgive(visit)


def test_a_broken_stream_is_reported_and_its_beginning_kept(open_page: Open, upstream: Upstream) -> None:
    upstream.events, upstream.break_after, upstream.pause_s = whole(30), 20, 0.01
    visit = open_page()
    visit.page.click("#speak")
    wait(visit, "problem", "The speech broke off.")
    wait(visit, "status", "Broke off.")
    assert len(download(visit)[1]) > 10_000
    forgive(visit)


@pytest.mark.slow
def test_an_unreachable_server_is_reported(open_page: Open) -> None:
    visit = open_page()
    visit.page.context.set_offline(True)
    visit.page.click("#speak")
    wait(visit, "problem", "The server cannot be reached.")
    wait(visit, "ready", "cannot be reached")
    visit.page.context.set_offline(False)
    wait(visit, "ready", "Ready")
    forgive(visit)


def test_a_key_is_requested_used_and_never_shown(open_page: Open, speech: Start) -> None:
    visit = open_page(speech(keep=True, api_keys="first-key, second-key"))
    visit.page.click("#speak")
    wait(visit, "problem", "requires an API key")
    expect(visit.page.locator("#api_key")).to_be_focused()
    visit.page.keyboard.type("wrong")
    visit.page.keyboard.press("Control+Enter")
    wait(visit, "problem", "does not accept this API key")
    visit.page.fill("#api_key", "first-key")
    visit.page.click("#speak")
    wait(visit, "status", "Done")
    visit.page.reload()
    assert visit.page.input_value("#api_key") == "first-key"
    for tab in ("curl", "python", "socket"):
        visit.page.click(f"#tab-{tab}")
        shown = visit.page.inner_text("#snippet")
        assert "ORPHEUS_API_KEY" in shown
        assert "first-key" not in shown
    forgive(visit)


# Accessibility


def test_it_works_by_keyboard_alone(open_page: Open, upstream: Upstream) -> None:
    upstream.events, upstream.pause_s = whole(500), 0.02
    visit = open_page()
    keys = visit.page.keyboard
    order = []
    for _ in range(40):
        keys.press("Tab")
        order.append(
            visit.page.evaluate("() => document.activeElement.id || document.activeElement.textContent")
        )
    first = ["tab-speak", "input", "laugh"]
    rest = [
        "giggle",
        "language",
        "voice",
        "speed",
        "response_format",
        "speak",
        "stop",
        "again",
        "temperature",
    ]
    assert order[:3] == first
    assert [id for id in order if id in rest] == rest
    visit.page.focus("#input")
    keys.press("Control+A")
    keys.type("By keyboard.")
    keys.press("Control+Enter")
    wait(visit, "status", "Speaking")
    keys.press("Escape")
    wait(visit, "status", "Stopped")
    visit.page.focus("#speak")
    keys.press("Enter")
    wait(visit, "status", "Speaking")
    keys.press("Tab")
    keys.press("Space")
    wait(visit, "status", "Stopped")
    expect(visit.page.locator("#stop")).to_be_focused()  # disabling the button must not lose the focus
    visit.page.focus("#tab-speak")
    keys.press("ArrowRight")
    expect(visit.page.locator("#reply")).to_be_visible()
    expect(visit.page.locator("#input")).to_be_hidden()
    keys.press("ArrowRight")
    expect(visit.page.locator("#instructions")).to_be_visible()
    keys.press("ArrowRight")
    expect(visit.page.locator("#input")).to_be_visible()


def test_every_control_has_a_name(open_page: Open) -> None:
    visit = open_page()
    unnamed = visit.page.evaluate(
        """() => [...document.querySelectorAll("input, select, textarea, button, a, canvas")]
            .filter((one) => !one.labels?.length && !one.getAttribute("aria-label") && !one.textContent.trim())
            .map((one) => one.outerHTML)"""
    )
    assert unnamed == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_without_scrolling_sideways(open_page: Open, scheme: str) -> None:
    visit = open_page(
        viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True, is_mobile=True
    )
    visit.page.fill("#input", "An" + "other" * 60)
    for tab in ("speak", "stream"):
        visit.page.tap(f"#tab-{tab}")
        for program in ("curl", "python", "socket"):
            visit.page.tap(f"#tab-{program}")
            assert visit.page.evaluate("() => document.documentElement.scrollWidth") == 360
    small = visit.page.evaluate(
        """() => [...document.querySelectorAll("button, select, a.button")]
            .filter((one) => one.offsetParent && one.offsetHeight < 36).map((one) => one.outerHTML)"""
    )
    assert small == []  # all can be tapped with a thumb


def palettes() -> dict[str, dict[str, str]]:
    light, dark = (WEB / "style.css").read_text().split("@media (prefers-color-scheme: dark)")
    found = [dict(re.findall(r"--([\w-]+): (#\w{6})", part.split("\n}")[0])) for part in (light, dark)]
    return {"light": found[0], "dark": found[1]}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_contrasts_with_its_background(scheme: str) -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    colours = palettes()[scheme]

    def contrast(one: str, other: str) -> float:
        dark, light = sorted((luminance(colours[one]), luminance(colours[other])))
        return (light + 0.05) / (dark + 0.05)

    on = {"text": ("ground", "card", "tint", "bad-tint"), "quiet": ("ground", "card"), "accent": ("card",)}
    on |= {"on-accent": ("accent", "accent-strong"), "bad": ("bad-tint",)}
    for text, grounds in on.items():
        for ground in grounds:
            assert contrast(text, ground) >= 4.5, (text, ground)
    for stage in range(1, 6):
        assert contrast(f"stage-{stage}", "ground") >= 3
    assert contrast("edge", "card") >= 3  # WCAG 1.4.11: the edge of what can be clicked
