"""The page at `/` in a real browser, against a scripted tier 1."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import time
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

Start = Callable[..., httpx.Client]
Open = Callable[..., Visit]
WEB = ROOT / "orpheus" / "web"
TWO_SEGMENTS = (
    "This is the first sentence of two, and it is long enough. This is the second sentence of two, as long."
)
NETWORK = (
    "Failed to load resource",
    "WebSocket connection to",
)  # how a browser complains; the page says the rest


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser: Browser, speech: Start) -> Iterator[Open]:
    """Opens the page. Whatever a test does there, nothing is asked of another origin and nothing is complained of."""
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
    """Complaints of a failure that the test asked for."""
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


def test_it_is_one_page_that_may_load_nothing_from_elsewhere(speech: Start) -> None:
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


def test_a_setting_takes_it_away(speech: Start) -> None:
    client = speech(page="off")
    assert client.get("/").status_code == client.get("/page/app.js").status_code == 404
    assert client.get("/health").status_code == 200


def test_an_installed_package_has_all_of_it() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    files = [file.name for file in WEB.iterdir() if file.is_file() and file.suffix != ".py"]
    assert "index.html" in files
    assert all(any(fnmatch(file, pattern) for pattern in data["orpheus.web"]) for file in files)


# Speaking


def test_what_is_played_and_kept_is_what_was_sent(visit: Open, speech: Start) -> None:
    there = visit()
    there.page.fill("#input", TWO_SEGMENTS)
    there.page.click("#speak")
    wait(there, "status", "Done")
    sent = speech().post(PATH, json={"input": TWO_SEGMENTS, "response_format": "pcm"}).content
    samples = np.frombuffer(sent, "<i2")
    assert np.array_equal(there.heard(), samples[samples != 0])
    name, kept = download(there)
    assert name == "speech.wav"
    assert kept[44:] == sent
    assert np.array_equal(np.rint(decode(kept)[0] * 32768), samples)
    assert (
        int.from_bytes(kept[4:8], "little") == len(kept) - 8
    )  # its length, which a stream's header cannot have
    assert int.from_bytes(kept[40:44], "little") == len(sent)

    wait(there, "segments", "2")
    wait(there, "first-audio", re.compile(r"^\d+ ms$"))
    wait(there, "factor", re.compile(r"^\d+\.\d\d$"))
    wait(there, "duration", f"{len(samples) / 24_000:.2f} s")
    assert (
        there.page.get_attribute("#wave", "aria-label")
        == f"Waveform, {len(samples) / 24_000:.1f} s, 2 segments"
    )

    there.page.click("#again")
    wait(there, "status", "Playing again")
    wait(there, "status", "Done")
    assert np.array_equal(there.heard(), np.tile(samples[samples != 0], 2))


def test_it_plays_while_the_rest_is_still_being_made(visit: Open, upstream: Upstream) -> None:
    upstream.events, upstream.hang_after = whole(30), 20
    there = visit()
    there.page.click("#speak")
    expect(there.page.locator("#live-streams")).to_have_text("1", timeout=10_000)
    there.hear()
    wait(there, "status", "Speaking")
    upstream.go_on.set()
    wait(there, "factor", re.compile(r"\d"))


def test_stopping_is_silence_at_once_and_frees_the_server(visit: Open, upstream: Upstream) -> None:
    upstream.events, upstream.pause_s = whole(30), 0.02
    there = visit()
    there.page.click("#speak")
    there.hear()
    there.page.click("#stop")
    wait(there, "status", "Stopped after")
    there.page.wait_for_timeout(150)
    quiet = len(there.heard())
    there.page.wait_for_timeout(400)
    assert len(there.heard()) == quiet
    deadline = time.monotonic() + 5
    while not upstream.left and time.monotonic() < deadline:
        time.sleep(0.01)
    assert upstream.left == 1
    assert there.page.locator("#problem").is_hidden()


def test_speaking_again_stops_what_was_spoken(visit: Open, upstream: Upstream) -> None:
    upstream.events, upstream.pause_s = whole(30), 0.02
    there = visit()
    there.page.click("#speak")
    wait(there, "status", "Speaking")
    upstream.events, upstream.pause_s = whole(), 0
    there.page.fill("#input", "And now this.")
    there.page.click("#speak")
    wait(there, "duration", f"{SPEECH_FRAMES * 2048 / 24_000:.2f} s")
    wait(there, "status", "Done")


@pytest.mark.parametrize("format", ["pcm", "mp3", "opus", "aac", "flac"])
def test_every_format_is_heard_and_kept_as_it_was_sent(visit: Open, format: str) -> None:
    there = visit()
    there.page.select_option("#response_format", format)
    with there.page.expect_response("**/v1/audio/speech") as response:
        there.page.click("#speak")
    wait(there, "status", "Done")
    name, kept = download(there)
    assert name == f"speech.{format}"
    sent = re.findall(r'"audio": ?"([^"]+)"', response.value.text())
    assert kept == b"".join(map(base64.b64decode, sent))
    assert len(there.heard()) > SPEECH_FRAMES * 2048 * 0.9


def test_everything_chosen_is_sent(visit: Open, upstream: Upstream) -> None:
    there = visit()
    there.page.fill("#input", "Well, ")
    there.page.click("#tags >> text=sigh")
    there.page.keyboard.type("it is 7.")
    there.page.select_option("#voice", "leo")
    there.page.fill("#speed", "1.5")
    chosen = {"seed": 7, "temperature": 0.5, "top_p": 0.8, "repetition_penalty": 1.2, "max_tokens": 700}
    for id, value in chosen.items():
        there.page.fill(f"#{id}", str(value))
    there.page.check("#normalize")
    with there.page.expect_request("**/v1/audio/speech") as request:
        there.page.click("#speak")
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
    wait(there, "status", "Done")
    wait(there, "speed-shown", "1.50×")
    with_leo = upstream.requests[-1]["prompt"]
    there.page.select_option("#voice", "tara")
    there.page.click("#speak")
    wait(there, "status", "Done")
    assert upstream.requests[-1]["prompt"] != with_leo


def test_the_snippets_do_what_was_clicked(visit: Open, speech: Start, tmp_path: Path) -> None:
    hostile = 'It\'s "quoted", $(touch x) `touch x` \\n 100% {x}\nand <sigh> a new line: é 长.'
    there = visit()
    there.page.fill("#input", hostile)
    there.page.fill("#seed", "7")
    there.page.fill("#speed", "0.5")
    there.page.check("#normalize")
    body = {"input": hostile, "seed": 7, "speed": 0.5, "normalize": True, "response_format": "wav"}
    wanted = speech().post(PATH, json=body)
    assert wanted.status_code == 200

    def run(tab: str, *command: str) -> bytes:
        there.page.click(f"#tab-{tab}")
        snippet = there.page.inner_text("#snippet")
        environment = clean_environment(no_proxy="*")
        subprocess.run([*command, snippet], cwd=tmp_path, env=environment, check=True, timeout=60)
        (made,) = tmp_path.iterdir()  # and nothing that the text tried
        spoken = made.read_bytes()
        made.unlink()
        return spoken

    assert run("curl", "bash", "-c") == wanted.content
    assert run("python", sys.executable, "-c") == wanted.content
    assert run("socket", sys.executable, "-c") == wanted.content


# Conversation


class Script:
    """The other end of the page's WebSocket: keeps what it is sent, and says what it is told to."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.on_text: Callable[[int], None] = lambda words: (
            None
        )  # called with the count of words of an utterance
        self._words = 0

    def __call__(self, route: WebSocketRoute) -> None:
        self.route = route
        route.on_message(lambda message: self._take(json.loads(message)))

    def _take(self, message: dict[str, Any]) -> None:
        self.got.append(message)
        if message["type"] == "session.config":
            self._words = 0
        if message["type"] == "input.text":
            self._words += 1
            self.on_text(self._words)

    def say(self, type: str, utterance: int = 0, **more: Any) -> None:
        self.route.send(json.dumps({"type": type, "utterance_index": utterance, **more}))

    def start(self, utterance: int = 0, part: int = 0) -> None:
        self.say("audio.start", utterance, sentence_index=part, sentence_text="", sample_rate=24_000)

    def kinds(self) -> list[str]:
        return [message["type"] for message in self.got]


def tone(value: int, seconds: float) -> bytes:
    return np.full(round(24_000 * seconds), value, "<i2").tobytes()


@pytest.fixture
def script() -> Script:
    return Script()


def talk(visit: Open, script: Script, text: str, rate: int = 50) -> Visit:
    there = visit(socket=script)
    there.page.click("#tab-talk")
    there.page.fill("#reply", text)
    there.page.fill("#rate", str(rate))
    there.page.select_option("#voice", "leo")
    there.page.click("#talk")
    return there


def test_a_reply_is_heard_while_it_is_typed(visit: Open, script: Script) -> None:
    def speak(words: int) -> None:
        if words == 2:
            script.start()
            script.say("audio.word", text="One,", start_s=0.0, stop_s=0.2)
            script.route.send(tone(100, 0.2)[:-1])  # a frame may end anywhere
            script.route.send(tone(100, 0.2)[-1:])
        if words == 6:
            script.start(part=1)
            script.say("audio.word", text="two", start_s=0.2, stop_s=0.5)
            script.say("audio.word", text="four.", start_s=0.5, stop_s=0.8)
            script.route.send(tone(200, 0.6))

    script.on_text = speak
    there = talk(visit, script, "One, two\n<sigh> three. And  four.")
    expect(there.page.locator("#transcript .now")).to_have_text("four.", timeout=10_000)
    script.say("session.done", total_sentences=2)
    wait(there, "status", "Done: 0.80 s")
    assert (
        "".join(m["text"] for m in script.got if m["type"] == "input.text")
        == "One, two\n<sigh> three. And  four."
    )
    assert script.kinds() == ["session.config", *["input.text"] * 6, "input.done"]
    config = script.got[0]
    assert config["voice"] == "leo"
    assert (config["response_format"], config["stream_audio"], config["word_timestamps"]) == (
        "pcm",
        True,
        True,
    )
    assert there.page.locator("#transcript .heard").all_inner_texts() == ["One,", "two", "four."]
    assert np.array_equal(there.heard(), np.frombuffer(tone(100, 0.2) + tone(200, 0.6), "<i2"))
    wait(there, "segments", "2")
    wait(there, "first-audio", "ms")
    name, kept = download(there)
    assert name == "conversation.wav"
    assert np.array_equal(np.rint(decode(kept)[0] * 32768)[[0, -1]], [100, 200])


@pytest.mark.parametrize("by", ["button", "key"])
def test_barging_in_silences_it_at_once_and_the_next_reply_is_clean(
    visit: Open, script: Script, by: str
) -> None:
    def speak(words: int) -> None:
        if words == 1:
            script.start()
            script.say("audio.word", text="This", start_s=0.0, stop_s=0.1)
            script.say("audio.word", text="goes", start_s=4.0, stop_s=4.5)
            script.route.send(tone(100, 5.0))

    script.on_text = speak
    there = talk(visit, script, "This goes " + "on " * 200)
    there.hear(2400)
    if by == "button":
        there.page.click("#barge")
    else:
        there.page.keyboard.press("Escape")
    wait(there, "status", "Stopped after")
    there.page.wait_for_timeout(200)
    quiet = len(there.heard())
    assert quiet < 24_000 * 5
    script.route.send(tone(100, 1.0))  # it was on its way
    script.say("audio.done", total_bytes=1, duration_s=1.0)
    script.say("audio.cancelled", sent_s=6.0)
    wait(there, "answered", re.compile(r"^\d+ ms$"))
    assert script.kinds().count("input.cancel") == 1
    assert "input.done" not in script.kinds()
    assert there.page.locator("#transcript .heard").all_inner_texts() == ["This"]
    assert there.page.locator("#transcript .unheard").first.inner_text() == "goes"
    typed = len(script.got)
    there.page.wait_for_timeout(200)
    assert len(script.got) == typed  # nothing is typed after it
    assert len(there.heard()) == quiet

    def reply(words: int) -> None:
        script.start(utterance=1)
        script.route.send(tone(300, 0.3))
        script.say("session.done", utterance=1, total_sentences=1)

    script.on_text = reply
    there.page.fill("#reply", "Sorry?")
    there.page.click("#talk")
    wait(there, "status", "Done: 0.30 s")
    assert np.array_equal(there.heard()[quiet:], np.frombuffer(tone(300, 0.3), "<i2"))


def test_what_the_socket_says_went_wrong_is_shown(visit: Open, script: Script) -> None:
    script.on_text = lambda words: script.say(
        "error", message="There is no voice 'x'.", code="voice_not_found"
    )
    there = talk(visit, script, "Hello.")
    wait(there, "problem", "There is no voice 'x'.")
    script.on_text = lambda words: script.route.close(code=1013, reason="The server is stopping.")
    there.page.click("#talk")
    wait(there, "problem", "The server is stopping.")
    script.on_text = lambda words: script.route.close(code=1011)
    there.page.click("#talk")
    wait(there, "problem", "The connection broke.")
    script.on_text = lambda words: None
    there.page.click("#talk")
    wait(there, "transcript", "Hello.")
    assert there.page.locator("#problem").is_hidden()


def test_a_socket_that_needs_a_key_says_so(visit: Open, speech: Start) -> None:
    there = visit(speech(keep=True, api_keys="first-key, second-key"))
    there.page.click("#tab-talk")
    there.page.click("#talk")
    wait(there, "problem", "enter one")
    there.page.fill("#api_key", "wrong")
    there.page.click("#talk")
    wait(there, "problem", "Check the API key")
    expect(there.page.locator("#api_key")).to_be_focused()
    forgive(there)


def test_a_conversation_with_the_server_and_a_barge_in(
    visit: Open, speech: Start, upstream: Upstream
) -> None:
    upstream.events, upstream.pause_s = whole(30), 0.01
    there = visit()
    there.page.click("#tab-talk")
    there.page.fill("#reply", "This is the first sentence of two. " * 4)
    there.page.click("#talk")
    there.hear(4800)
    expect(there.page.locator("#transcript .heard").first).to_have_text("This")
    there.page.click("#barge")
    wait(there, "status", "Stopped after")
    wait(there, "answered", "ms")
    upstream.events, upstream.pause_s = whole(), 0
    there.page.fill("#reply", "Yes, please.")
    there.page.click("#talk")
    wait(there, "status", "Done: ")
    expect(there.page.locator("#transcript .heard")).to_have_text(["Yes,", "please."])
    assert there.page.locator("#problem").is_hidden()


# What goes wrong


def test_a_wrong_field_says_so_and_nothing_is_sent(visit: Open, upstream: Upstream) -> None:
    there = visit()
    there.page.fill("#input", "  ")
    there.page.click("#speak")
    expect(there.page.locator("#input")).to_be_focused()
    assert there.page.get_attribute("#input", "aria-invalid") == "true"
    there.page.fill("#input", "Hello.")
    there.page.fill("#temperature", "3")
    there.page.keyboard.press("Control+Enter")
    expect(there.page.locator("#temperature")).to_be_focused()
    assert upstream.requests == []
    there.page.fill("#temperature", "")
    there.page.keyboard.press("Control+Enter")
    wait(there, "status", "Done")


def test_what_the_server_refuses_is_shown_at_its_field(visit: Open) -> None:
    there = visit()
    there.page.fill("#input", "x" * 5000)
    there.page.click("#speak")
    wait(there, "problem", "5000 characters; the most is 4096")
    expect(there.page.locator("#input")).to_be_focused()
    there.page.fill("#input", "Hello.")
    there.page.click("#speak")
    wait(there, "status", "Done")
    assert there.page.locator("#problem").is_hidden()
    forgive(there)


@pytest.mark.parametrize(
    ("status", "says"), [(429, "The server is busy.*Try again in 1 s"), (500, "Try again.*under req_")]
)
def test_a_server_that_cannot_is_told_in_plain_words(
    visit: Open, upstream: Upstream, status: int, says: str
) -> None:
    upstream.answer = JSONResponse({"error": {"message": "no"}}, status)
    there = visit()
    there.page.click("#speak")
    wait(there, "problem", re.compile(says, re.DOTALL))
    wait(there, "status", "Nothing spoken.")
    forgive(there)


def test_a_stream_that_breaks_is_told_and_its_beginning_kept(visit: Open, upstream: Upstream) -> None:
    upstream.events, upstream.break_after, upstream.pause_s = whole(30), 20, 0.01
    there = visit()
    there.page.click("#speak")
    wait(there, "problem", "It broke off before the end.")
    wait(there, "status", "Broken off.")
    assert len(download(there)[1]) > 10_000
    forgive(there)


def test_a_server_that_is_gone_is_told(visit: Open) -> None:
    there = visit()
    there.page.context.set_offline(True)
    there.page.click("#speak")
    wait(there, "problem", "The server cannot be reached.")
    wait(there, "ready", "cannot be reached")
    there.page.context.set_offline(False)
    wait(there, "ready", "Ready")
    forgive(there)


def test_a_key_is_asked_for_used_and_never_shown(visit: Open, speech: Start) -> None:
    there = visit(speech(keep=True, api_keys="first-key, second-key"))
    there.page.click("#speak")
    wait(there, "problem", "asks for an API key")
    expect(there.page.locator("#api_key")).to_be_focused()
    there.page.keyboard.type("wrong")
    there.page.keyboard.press("Control+Enter")
    wait(there, "problem", "not one of this server's")
    there.page.fill("#api_key", "first-key")
    there.page.click("#speak")
    wait(there, "status", "Done")
    there.page.reload()
    assert there.page.input_value("#api_key") == "first-key"
    for tab in ("curl", "python", "socket"):
        there.page.click(f"#tab-{tab}")
        shown = there.page.inner_text("#snippet")
        assert "ORPHEUS_API_KEY" in shown
        assert "first-key" not in shown
    forgive(there)


# For everybody


def test_it_works_by_keyboard_alone(visit: Open, upstream: Upstream) -> None:
    upstream.events, upstream.pause_s = whole(30), 0.02
    there = visit()
    keys = there.page.keyboard
    order = []
    for _ in range(40):
        keys.press("Tab")
        order.append(
            there.page.evaluate("() => document.activeElement.id || document.activeElement.textContent")
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
    there.page.focus("#input")
    keys.press("Control+A")
    keys.type("By keyboard.")
    keys.press("Control+Enter")
    wait(there, "status", "Speaking")
    keys.press("Escape")
    wait(there, "status", "Stopped")
    there.page.focus("#speak")
    keys.press("Enter")
    wait(there, "status", "Speaking")
    keys.press("Tab")
    keys.press("Space")
    wait(there, "status", "Stopped")
    expect(there.page.locator("#stop")).to_be_focused()  # it is not lost with what the button did
    there.page.focus("#tab-speak")
    keys.press("ArrowRight")
    expect(there.page.locator("#reply")).to_be_visible()
    expect(there.page.locator("#input")).to_be_hidden()
    keys.press("ArrowRight")
    expect(there.page.locator("#input")).to_be_visible()


def test_every_control_has_a_name(visit: Open) -> None:
    there = visit()
    unnamed = there.page.evaluate(
        """() => [...document.querySelectorAll("input, select, textarea, button, a, canvas")]
            .filter((one) => !one.labels?.length && !one.getAttribute("aria-label") && !one.textContent.trim())
            .map((one) => one.outerHTML)"""
    )
    assert unnamed == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it_without_scrolling_sideways(visit: Open, scheme: str) -> None:
    there = visit(viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True, is_mobile=True)
    there.page.fill("#input", "An" + "other" * 60)
    for tab in ("speak", "talk"):
        there.page.tap(f"#tab-{tab}")
        for program in ("curl", "python", "socket"):
            there.page.tap(f"#tab-{program}")
            assert there.page.evaluate("() => document.documentElement.scrollWidth") == 360
    small = there.page.evaluate(
        """() => [...document.querySelectorAll("button, select, a.button")]
            .filter((one) => one.offsetParent && one.offsetHeight < 36).map((one) => one.outerHTML)"""
    )
    assert small == []  # all of them can be hit with a thumb


def palettes() -> dict[str, dict[str, str]]:
    light, dark = (WEB / "style.css").read_text().split("@media (prefers-color-scheme: dark)")
    found = [dict(re.findall(r"--([\w-]+): (#\w{6})", part.split("\n}")[0])) for part in (light, dark)]
    return {"light": found[0], "dark": found[1]}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_it_is_on(scheme: str) -> None:
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
    assert contrast("edge", "card") >= 3  # WCAG 1.4.11: the edge of what can be clicked
