"""The page's Talk tab in a real browser, whose microphone plays a recording, against a scripted agent."""

from __future__ import annotations

import re
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser, Locator, expect

from orpheus.codec import Codec
from orpheus.server.app import create_app
from orpheus.server.service import SpeechService
from orpheus.settings import load_settings
from orpheus.tts.token_source import HttpTokenSource
from tests.server.conftest import SharedCodec
from tests.server.test_page import forgive
from tests.support.browser import Visit, chromium, with_microphone
from tests.support.live import served
from tests.support.realtime_server import Answer, ScriptedRealtime
from tests.support.upstream import Upstream
from tests.support.waiting import eventually

RATE = 24_000
QUESTION_S, PAUSE_S, INTERRUPTION_S = 1.0, 3.0, 1.0
LONG = Answer(
    "This is a long answer that nobody lets me finish because they all talk", value=3000, word_s=0.5
)
SHORT = Answer("Sorry, go on.", value=5000, word_s=0.2)


def babble(seconds: float) -> NDArray[np.int16]:
    """As loud as speech and as little a tone, which noise suppression would take away."""
    time_s = np.arange(round(seconds * RATE)) / RATE
    pitch = 140 + 40 * np.sin(2 * np.pi * 3 * time_s)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    harmonics = sum(np.sin(number * phase) / number for number in range(1, 20))
    syllables = 0.6 + 0.4 * np.sin(2 * np.pi * 4 * time_s)
    return np.asarray(harmonics * syllables * 5000, np.int16)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A question, a pause in which the answer is heard, and an interruption of it."""
    path = tmp_path_factory.mktemp("microphone") / "question.wav"
    silence = np.zeros(RATE, np.int16)
    pause = np.zeros(round(PAUSE_S * RATE), np.int16)
    # Chromium repeats what is left in its last buffer: the file must end in silence.
    parts = (silence, babble(QUESTION_S), pause, babble(INTERRUPTION_S), silence)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(np.concatenate(parts).tobytes())
    return path


@pytest.fixture(scope="module")
def browser(recording: Path) -> Iterator[Browser]:
    with chromium(*with_microphone(recording), "--host-resolver-rules=MAP speech.test 127.0.0.1") as browser:
        yield browser


@pytest.fixture
def agent() -> ScriptedRealtime:
    return ScriptedRealtime()


Open = Callable[..., Visit]


@pytest.fixture
def open_page(
    browser: Browser, codec: Codec, upstream: Upstream, upstream_url: str, agent: ScriptedRealtime
) -> Iterator[Open]:
    """Opens the page at its Talk tab; afterwards nothing was requested from another origin and no error logged."""
    settings = load_settings(llama_endpoint=upstream_url, model="embedded")
    service = SpeechService(settings, lambda: HttpTokenSource(settings), lambda _: SharedCodec(codec))
    app = create_app(service)
    app.router.routes.extend(agent.routes)
    visits: list[Visit] = []
    with served(app) as url:

        def opened(**options: Any) -> Visit:
            permissions = options.pop("permissions", ["microphone"])
            visit = Visit(browser, url, permissions=permissions, **options)
            visits.append(visit)
            visit.page.click("#tab-talk")
            return visit

        yield opened
        for visit in visits:
            visit.close()
            assert visit.origins == {url.removeprefix("http://")}
            assert visit.errors == []


def entries(visit: Visit, who: str) -> Locator:
    return visit.page.locator(f"#log .{who} .words")


def wait(where: Locator, text: str | re.Pattern[str]) -> None:
    expect(where).to_contain_text(text, timeout=15_000)


def start(visit: Visit) -> None:
    visit.page.click("#converse")


def runs(samples: NDArray[np.int16], value: int) -> int:
    """How many samples of an answer were played."""
    return int(np.count_nonzero(np.abs(samples - value) < 5))


def test_a_spoken_question_is_answered_aloud(open_page: Open, agent: ScriptedRealtime) -> None:
    agent.heard, agent.answers = ["What is the capital of France?"], [Answer("It is Paris.", 3000, 0.3)]
    visit = open_page()
    start(visit)
    wait(entries(visit, "user"), "What is the capital of France?")
    wait(entries(visit, "assistant"), "It is Paris.")
    expect(visit.page.locator("#log .assistant .heard")).to_have_count(3, timeout=10_000)
    wait(visit.page.locator("#status"), "Listening…")  # once all of it was heard
    assert runs(visit.heard(), 3000) == round(3 * 0.3 * RATE)  # every sample, none twice
    expect(visit.page.locator("#log .assistant .time")).to_contain_text("LLM 90")
    expect(visit.page.locator("#log .assistant .sum")).to_have_text("780 ms")
    bars = visit.page.locator("#log .assistant rect")
    assert bars.evaluate_all("all => all.map((one) => Number(one.getAttribute('x')))") == [
        710,
        650,
        560,
        420,
        0,
    ]
    label = visit.page.locator("#log .assistant svg").get_attribute("aria-label")
    assert label == (
        "Answered after 780 ms: end of turn 500 ms, transcript 140 ms, LLM 90 ms, first clause 60 ms, voice 70 ms"
    )
    loud = np.frombuffer(bytes(agent.audio), "<i2")
    assert np.abs(loud.astype(int)).max() > 2000, "the recording was sent"
    assert len(agent.audio) % 1920 == 0, "in frames of 40 ms"
    visit.page.click("#converse")
    wait(visit.page.locator("#status"), "The conversation has ended.")
    eventually(lambda: not agent.sessions)


def test_whoever_talks_interrupts_at_once_and_the_server_is_told_what_was_heard(
    open_page: Open, agent: ScriptedRealtime
) -> None:
    agent.answers = [LONG, SHORT]
    agent.heard = ["Tell me something.", "Stop."]
    visit = open_page()
    start(visit)
    wait(entries(visit, "user").nth(1), "Stop.")
    wait(entries(visit, "assistant").nth(1), "Sorry, go on.")
    expect(visit.page.locator("#log .assistant").nth(1).locator(".heard")).to_have_count(3, timeout=10_000)
    wait(visit.page.locator("#status"), "Listening…")
    played = visit.heard()
    heard_s = runs(played, 3000) / RATE
    (truncated,) = [event for event in agent.received if event["type"] == "conversation.item.truncate"]
    sent = [event for event in agent.sent if event["type"] == "response.output_audio.delta"]
    assert truncated["item_id"] == sent[0]["item_id"]
    # The fade of 10 ms, and the sound on its way to the speaker, are all that is heard after it.
    assert heard_s == pytest.approx(truncated["audio_end_ms"] / 1000, abs=0.15)
    assert 1.0 < heard_s < 4.0
    assert runs(played, 5000) == round(3 * 0.2 * RATE), "the next answer is whole"
    assert np.flatnonzero(np.abs(played - 3000) < 5).max() < np.flatnonzero(np.abs(played - 5000) < 5).min()
    first = visit.page.locator("#log .assistant").nth(0)
    words = first.locator(".words span").all_inner_texts()
    unheard = first.locator(".unheard").all_inner_texts()
    assert words[-len(unheard) :] == unheard
    assert len(words) - len(unheard) == pytest.approx(heard_s / LONG.word_s, abs=1.01)


def test_its_settings_are_sent_and_changes_of_them_too(open_page: Open, agent: ScriptedRealtime) -> None:
    visit = open_page()
    visit.page.fill("#instructions", "You are a pirate.")
    visit.page.select_option("#voice", "leo")
    start(visit)
    eventually(lambda: "session.update" in agent.types())
    session = agent.received[0]["session"]
    assert session["instructions"] == "You are a pirate."
    assert session["audio"]["output"] == {
        "format": {"type": "audio/pcm", "rate": RATE},
        "voice": "leo",
        "speed": 1,
    }
    assert session["audio"]["input"]["transcription"]["language"] == "en"
    assert session["audio"]["input"]["turn_detection"]["interrupt_response"] is True
    visit.page.select_option("#voice", "mia")
    eventually(lambda: agent.types().count("session.update") == 2)
    assert agent.received[-1]["session"]["audio"]["output"]["voice"] == "mia"


def test_a_typed_turn_is_answered_without_a_microphone(open_page: Open, agent: ScriptedRealtime) -> None:
    agent.answers = [Answer("Hello you.", 3000, 0.2)]
    visit = open_page(permissions=[])
    visit.page.fill("#say", "Hello there.")
    visit.page.press("#say", "Enter")
    wait(entries(visit, "user"), "Hello there.")
    wait(entries(visit, "assistant"), "Hello you.")
    expect(visit.page.locator("#log .assistant .heard")).to_have_count(2, timeout=10_000)
    assert agent.types()[-2:] == ["conversation.item.create", "response.create"]
    assert not agent.audio
    assert visit.page.locator("#problem").is_hidden(), "nothing asked for the microphone"


def test_a_typed_turn_and_escape_interrupt_as_speech_does(open_page: Open, agent: ScriptedRealtime) -> None:
    agent.answers = [LONG, LONG, SHORT]
    visit = open_page()
    visit.page.fill("#say", "Talk.")
    visit.page.click("#send")
    visit.hear(RATE // 2)
    visit.page.keyboard.press("Escape")
    eventually(lambda: "response.cancel" in agent.types())
    visit.page.wait_for_timeout(100)
    quiet = len(visit.heard())
    visit.page.wait_for_timeout(400)
    assert len(visit.heard()) == quiet
    visit.page.fill("#say", "Again.")
    visit.page.press("#say", "Enter")
    visit.hear(quiet + RATE // 2)
    visit.page.fill("#say", "And now?")
    visit.page.press("#say", "Enter")
    wait(entries(visit, "assistant").nth(2), "Sorry, go on.")
    assert agent.types().count("response.cancel") == 2
    assert agent.types().count("conversation.item.truncate") == 2
    assert visit.page.locator("#problem").is_hidden()


def test_a_muted_microphone_sends_silence_and_goes_on(open_page: Open, agent: ScriptedRealtime) -> None:
    visit = open_page()
    start(visit)
    expect(visit.page.locator("#mute")).to_have_text("Mute")
    eventually(lambda: len(agent.audio) > 4 * 1920)
    visit.page.click("#mute")
    expect(visit.page.locator("#mute")).to_have_text("Unmute")
    wait(visit.page.locator("#status"), "The microphone is off")
    visit.page.wait_for_timeout(200)
    before = len(agent.audio)
    eventually(lambda: len(agent.audio) > before + 24_000 * 2)
    assert not any(agent.audio[before:])
    visit.page.click("#mute")
    eventually(lambda: any(agent.audio[before:]))


def test_a_permission_that_is_denied_is_told_and_typing_goes_on(
    open_page: Open, agent: ScriptedRealtime
) -> None:
    visit = open_page(permissions=[])
    start(visit)
    wait(visit.page.locator("#problem"), "This page may not use the microphone.")
    wait(visit.page.locator("#problem"), "site settings")
    expect(visit.page.locator("#mute")).to_have_text("Unmute")
    visit.page.fill("#say", "Hello.")
    visit.page.press("#say", "Enter")
    wait(entries(visit, "assistant"), "You said something.")
    visit.page.context.grant_permissions(["microphone"])
    visit.page.click("#mute")
    eventually(lambda: agent.audio)
    assert visit.page.locator("#problem").is_hidden()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NotFoundError", "No microphone was found."),
        ("NotReadableError", "Another program may be using it"),
        ("OddError", r"cannot be opened \(OddError\)"),
    ],
)
def test_why_a_microphone_cannot_be_used_is_told(open_page: Open, name: str, message: str) -> None:
    visit = open_page()
    visit.page.evaluate(
        "name => navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', name) }", name
    )
    start(visit)
    wait(visit.page.locator("#problem"), re.compile(message))


def test_a_microphone_that_is_unplugged_is_told(open_page: Open, agent: ScriptedRealtime) -> None:
    visit = open_page()
    visit.page.evaluate(
        """() => {
            const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
            navigator.mediaDevices.getUserMedia = async (asked) => (window.stream = await open(asked));
        }"""
    )
    start(visit)
    eventually(lambda: agent.audio)
    visit.page.evaluate("stream.getAudioTracks()[0].dispatchEvent(new Event('ended'))")
    wait(visit.page.locator("#problem"), "The microphone was disconnected.")


def test_echo_is_cancelled_and_an_iphone_told_that_it_plays_and_records(open_page: Open) -> None:
    visit = open_page()
    visit.page.evaluate(
        """() => {
            Object.defineProperty(navigator, "audioSession", { value: { type: "auto" } });
            const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
            navigator.mediaDevices.getUserMedia = (asked) => open((window.asked = asked));
        }"""
    )
    start(visit)
    wait(visit.page.locator("#status"), "Listening")
    assert visit.page.evaluate("asked.audio") == {
        "channelCount": 1,
        "echoCancellation": True,
        "noiseSuppression": True,
        "autoGainControl": True,
    }
    assert visit.page.evaluate("navigator.audioSession.type") == "play-and-record"
    visit.page.click("#tab-speak")
    assert visit.page.evaluate("navigator.audioSession.type") == "playback"


def test_a_browser_that_does_not_resample_the_microphone_sends_the_same_sound(
    open_page: Open, agent: ScriptedRealtime
) -> None:
    visit = open_page()
    visit.page.evaluate(
        """() => {
            const create = AudioContext.prototype.createMediaStreamSource;
            AudioContext.prototype.createMediaStreamSource = function (stream) {
                if (this.sampleRate === 24000) throw new DOMException("", "NotSupportedError");
                return create.call(this, stream);
            };
        }"""
    )
    start(visit)
    wait(entries(visit, "user").first, "What did I say?")
    heard = np.frombuffer(bytes(agent.audio), "<i2").astype(float)
    loud = heard[np.flatnonzero(np.abs(heard) > 500)[0] :][: RATE // 2]
    spectrum = np.abs(np.fft.rfft(loud * np.hanning(len(loud)))) ** 2
    frequencies = np.fft.rfftfreq(len(loud), 1 / RATE)
    assert spectrum[(frequencies > 90) & (frequencies < 4000)].sum() > 0.95 * spectrum.sum()
    assert spectrum[(frequencies > 90) & (frequencies < 190)].sum() > 0.1 * spectrum.sum(), (
        "the pitch is kept"
    )


@pytest.mark.parametrize("nothing", [None, ""], ids=["ours", "OpenAI's"])
def test_a_turn_of_nothing_leaves_no_trace(
    open_page: Open, agent: ScriptedRealtime, nothing: str | None
) -> None:
    agent.heard = [nothing]
    visit = open_page()
    start(visit)
    expect(visit.page.locator("#log .user")).to_have_count(1, timeout=10_000)
    expect(visit.page.locator("#log .user")).to_have_count(0, timeout=10_000)
    wait(visit.page.locator("#status"), "Listening…")


@pytest.mark.parametrize("code", [None, 1000], ids=["broken", "its hour is over"])
def test_a_connection_that_ends_is_opened_again_and_told_what_was_said(
    open_page: Open, agent: ScriptedRealtime, code: int | None
) -> None:
    agent.answers = [Answer("Your name is Ann.", 3000, 0.1)]
    visit = open_page(permissions=[])
    visit.page.fill("#say", "I am Ann.")
    visit.page.press("#say", "Enter")
    expect(visit.page.locator("#log .assistant .heard")).to_have_count(4, timeout=10_000)
    eventually(lambda: agent.sent[-1]["type"] == "response.done")
    agent.received.clear()
    agent.drop(code)
    wait(visit.page.locator("#status"), "Connecting again")
    eventually(lambda: agent.opened == 2)
    eventually(lambda: len(agent.received) == 3)
    assert agent.types() == ["session.update", "conversation.item.create", "conversation.item.create"]
    items = [event["item"] for event in agent.received[1:]]
    assert [(item["role"], item["content"][0]) for item in items] == [
        ("user", {"type": "input_text", "text": "I am Ann."}),
        ("assistant", {"type": "output_text", "text": "Your name is Ann."}),
    ]
    visit.page.fill("#say", "Who am I?")
    visit.page.press("#say", "Enter")
    wait(entries(visit, "assistant").nth(1), "You said something.")
    forgive(visit)


def test_a_full_server_says_so_and_is_not_asked_again(open_page: Open, agent: ScriptedRealtime) -> None:
    agent.refusal = (1013, "All of its conversations are taken.")
    visit = open_page()
    start(visit)
    wait(visit.page.locator("#problem"), "The agent is full")
    wait(visit.page.locator("#problem"), "All of its conversations are taken.")
    expect(visit.page.locator("#converse")).to_have_text("Start talking")
    visit.page.wait_for_timeout(800)
    assert agent.opened == 1
    agent.refusal = None
    start(visit)
    wait(visit.page.locator("#status"), "Listening")
    assert visit.page.locator("#problem").is_hidden()


def test_a_full_agent_that_refuses_the_handshake_says_when_to_come_again(
    open_page: Open, agent: ScriptedRealtime
) -> None:
    agent.full_s = 17
    visit = open_page()
    start(visit)
    wait(visit.page.locator("#problem"), "The agent is full")
    wait(visit.page.locator("#problem"), "Try again in 17 s.")
    expect(visit.page.locator("#converse")).to_have_text("Start talking")
    visit.page.wait_for_timeout(800)
    assert (agent.opened, agent.refused) == (0, 1), "it is not asked again by itself"
    agent.full_s = None
    start(visit)
    wait(visit.page.locator("#status"), "Listening")
    assert visit.page.locator("#problem").is_hidden()
    forgive(visit)


def test_an_agent_that_is_full_after_the_connection_broke_says_so(
    open_page: Open, agent: ScriptedRealtime
) -> None:
    visit = open_page(permissions=[])
    visit.page.evaluate(
        "() => { const later = setTimeout; window.setTimeout = (f, ms) => later(f, ms / 20); }"
    )
    visit.page.fill("#say", "Hello.")
    visit.page.press("#say", "Enter")
    wait(entries(visit, "assistant"), "You said something.")
    agent.full_s = 17
    agent.drop()
    wait(visit.page.locator("#problem"), "The agent is full")
    wait(visit.page.locator("#problem"), "Try again in 17 s.")
    forgive(visit)


def test_a_key_is_asked_for_and_used(open_page: Open, agent: ScriptedRealtime) -> None:
    agent.keys = {"first key/=+"}
    visit = open_page()
    start(visit)
    wait(visit.page.locator("#problem"), "requires an API key")
    expect(visit.page.locator("#api_key")).to_be_focused()
    visit.page.fill("#api_key", "first key/=+")  # no subprotocol could hold it
    visit.page.keyboard.press("Control+Enter")
    wait(visit.page.locator("#status"), "Listening")
    forgive(visit)


def test_an_error_of_the_server_is_shown_and_the_conversation_goes_on(
    open_page: Open, agent: ScriptedRealtime
) -> None:
    agent.answers = [LONG]
    visit = open_page()
    visit.page.fill("#say", "Talk.")
    visit.page.press("#say", "Enter")
    visit.hear()
    (session,) = agent.sessions
    session.loop.call_soon_threadsafe(
        lambda: session.loop.create_task(session._error("x", "The language model cannot be reached."))
    )
    wait(visit.page.locator("#problem"), "The language model cannot be reached.")
    wait(visit.page.locator("#problem"), "The conversation goes on.")
    expect(visit.page.locator("#converse")).to_have_text("End")


def test_without_an_agent_it_says_how_to_start_one(browser: Browser, speech: Callable[..., Any]) -> None:
    visit = Visit(browser, str(speech().base_url), permissions=["microphone"])
    visit.page.click("#tab-talk")
    start(visit)
    wait(visit.page.locator("#problem"), "make talk")
    expect(visit.page.locator("#converse")).to_have_text("Start talking")
    visit.close()


def test_without_https_it_says_why_there_is_no_microphone(
    browser: Browser, speech: Callable[..., Any], agent: ScriptedRealtime
) -> None:
    port = speech().base_url.port
    page = browser.new_page()
    page.route(
        "**/v1/realtime/client_secrets", lambda route: None
    )  # the microphone's problem is the one shown
    page.goto(f"http://speech.test:{port}/")
    page.click("#tab-talk")
    page.click("#converse")
    wait(page.locator("#problem"), "only to pages over HTTPS or from localhost")
    wait(page.locator("#problem"), f"http://localhost:{port}")
    page.close()


def test_leaving_the_tab_ends_the_conversation(open_page: Open, agent: ScriptedRealtime) -> None:
    visit = open_page()
    start(visit)
    eventually(lambda: agent.audio)
    visit.page.focus("#tab-talk")
    visit.page.keyboard.press("ArrowRight")
    expect(visit.page.locator("#input")).to_be_visible()
    eventually(lambda: not agent.sessions)
    expect(visit.page.locator("#status")).to_have_text("Nothing spoken yet.")


def test_it_works_by_keyboard_alone(open_page: Open, agent: ScriptedRealtime) -> None:
    visit = open_page()
    keys = visit.page.keyboard
    order = []
    for _ in range(16):
        keys.press("Tab")
        order.append(
            visit.page.evaluate("() => document.activeElement.id || document.activeElement.textContent")
        )
    expected = [
        "instructions",
        "language",
        "voice",
        "speed",
        "converse",
        "mute",
        "log",
        "say",
        "send",
        "api_key",
    ]
    assert [id for id in order if id in expected][: len(expected)] == expected
    assert "temperature" not in order
    visit.page.focus("#converse")
    keys.press("Enter")
    wait(visit.page.locator("#status"), "Listening")
    keys.press("Tab")
    keys.press("Space")
    expect(visit.page.locator("#mute")).to_have_text("Unmute")
    expect(visit.page.locator("#mute")).to_be_focused()
    keys.press("Control+Enter")
    wait(visit.page.locator("#status"), "Press Start talking")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_conversation_fits_a_phone(open_page: Open, agent: ScriptedRealtime, scheme: str) -> None:
    agent.answers = [Answer("A" + "ha" * 80 + " indeed.", 3000, 0.1)]
    phone: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    visit = open_page(color_scheme=scheme, **phone)
    visit.page.fill("#say", "How " + "very" * 60)
    visit.page.press("#say", "Enter")
    expect(visit.page.locator("#log .time")).to_be_visible(timeout=10_000)
    assert visit.page.evaluate("() => document.documentElement.scrollWidth") == 360
    small = visit.page.evaluate(
        """() => [...document.querySelectorAll("button, select, a.button, input[type=text], #say")]
            .filter((one) => one.offsetParent && one.offsetHeight < 36).map((one) => one.outerHTML)"""
    )
    assert small == []
