"""A turn's words: by Whisper itself, by a server, and while the turn goes on."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
import wave
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from orpheus.agent import hear
from orpheus.agent.hear import (
    WINDOW_S,
    Heard,
    LocalAgreement,
    RemoteRecognizer,
    WhisperRecognizer,
    load_recognizer,
    said_of,
    windows,
    without_loop,
    without_repetition,
)
from orpheus.agent.vad import VoiceActivity
from orpheus.errors import AtCapacity, EngineError, NotReady, OrpheusError, UpstreamError
from orpheus.settings import load_settings
from tests.support.heard import QUESTIONS, cut, heard, turns_in, words_wrong
from tests.support.live import Pair, free_port, served
from tests.support.sentences import SENTENCES
from tests.support.sounds import Sound, noises, silence, tone
from tests.support.waiting import until

T = TypeVar("T")


@pytest.fixture(scope="module")
def whisper() -> hear._Whisper:
    return hear._Whisper(("en",), 1)


def run(whisper: Any, work: Callable[[WhisperRecognizer], Awaitable[T]], workers: int = 1) -> T:
    async def whole() -> T:
        recognizer = WhisperRecognizer(whisper, workers)
        try:
            return await work(recognizer)
        finally:
            await recognizer.aclose()

    return asyncio.run(whole())


def transcript(whisper: Any, sound: Sound, **more: Any) -> str:
    return run(whisper, lambda recognizer: recognizer.transcribe(sound, **more)).text


def test_a_question_is_understood(pair: Pair, whisper: hear._Whisper) -> None:
    speech = heard(pair.url, QUESTIONS[0], 1)
    got = run(whisper, lambda recognizer: recognizer.transcribe(speech))
    assert got.text == QUESTIONS[0]
    assert got.audio_s == pytest.approx(len(speech) / 16_000)
    assert got.took_s > 0


@pytest.mark.slow
@pytest.mark.parametrize("voice", ["tara", "leo"])
def test_of_thirty_sentences_few_words_are_mistaken(voice: str, pair: Pair, whisper: hear._Whisper) -> None:
    said = SENTENCES[:20] + QUESTIONS
    activity = VoiceActivity.load()()
    got = []
    for seed, sentence in enumerate(said, 1):
        sound = np.concatenate([silence(0.5), heard(pair.url, sentence, seed, voice), silence(1)])
        found = turns_in(sound, activity)
        got.append(transcript(whisper, cut(sound, found[0].start_ms, found[-1].end_ms)))  # type: ignore[union-attr]
    assert words_wrong(said, got) <= 0.08, got


@pytest.mark.parametrize("kind", sorted(noises(0.1)))
@pytest.mark.parametrize("seconds", [0.5, 3.0])
def test_of_noise_nothing_is_understood(kind: str, seconds: float, whisper: hear._Whisper) -> None:
    assert transcript(whisper, noises(seconds)[kind]) == ""


@pytest.mark.parametrize("samples", [0, 1, 159, 16_000])
def test_silence_of_any_length_says_nothing(samples: int, whisper: hear._Whisper) -> None:
    assert transcript(whisper, np.zeros(samples, np.float32)) == ""


def test_of_a_long_recording_only_what_is_not_silence_is_looked_at(
    whisper: hear._Whisper, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    def window(_: object, samples: Sound, *options: object) -> tuple[str, float]:
        seen.append(hear.loudness(samples))
        return "Hello.", -0.1

    monkeypatch.setattr(hear._Whisper, "_window", window)
    sound = np.concatenate([noises(3.0)["white noise"], silence(120), noises(3.0)["white noise"]])
    assert transcript(whisper, sound.astype(np.float32)) == "Hello. Hello."
    assert len(seen) == 2


def test_a_turn_longer_than_the_network_is_understood_whole(pair: Pair, whisper: hear._Whisper) -> None:
    said = SENTENCES[:16]
    speech = np.concatenate(
        [part for n, text in enumerate(said) for part in (heard(pair.url, text, n + 1), silence(0.4))]
    )
    assert len(speech) > 35 * 16_000
    assert words_wrong([" ".join(said)], [transcript(whisper, speech)]) <= 0.1


@given(st.integers(1, 200), st.integers(0, 3))
def test_windows_hold_all_of_a_turn_and_each_fits(tenths: int, seed: int) -> None:
    sound = np.random.default_rng(seed).normal(0, 0.1, tenths * 8_000).astype(np.float32)
    parts = list(windows(sound))
    assert np.array_equal(np.concatenate(parts), sound)
    assert all(len(part) <= WINDOW_S * 16_000 for part in parts)
    assert all(len(part) >= 16 * 16_000 for part in parts[:-1])


def test_a_window_is_cut_in_a_pause() -> None:
    sound = tone(200, 60)
    for at_s in (21, 40):
        sound[at_s * 16_000 : round((at_s + 0.3) * 16_000)] = 0
    first, second, _ = windows(sound)
    assert 21 < len(first) / 16_000 < 21.3
    assert 40 < (len(first) + len(second)) / 16_000 < 40.3


@pytest.mark.parametrize(
    ("text", "no_speech", "likely", "said"),
    [
        (" Hello there.", 0.1, -0.4, "Hello there."),
        (" Thank you.", 0.1, -0.4, "Thank you."),  # somebody did say it
        (" Thank you.", 0.7, -0.4, ""),
        (" you", 0.4, -2.0, ""),
        (" Go on.", 0.4, -0.5, "Go on."),
        (" [Music]", 0.0, 0.0, ""),
        (" (upbeat music) Hello. ♪", 0.0, 0.0, "Hello."),
        (" . . .", 0.0, 0.0, ""),
    ],
)
def test_only_what_was_said_is_told(text: str, no_speech: float, likely: float, said: str) -> None:
    assert said_of(text, no_speech, likely) == said


@pytest.mark.parametrize(
    ("text", "once"),
    [
        ("Yeah. Yeah. Yeah. Yeah. Yeah. Yeah", "Yeah."),
        ("I know. I know, I know. I know. I", "I know."),
        ("Where is the where is the where is the", "Where is the"),
        ("No, no, I said", "No, no, I said"),
        ("", ""),
    ],
)
def test_a_loop_is_told_once(text: str, once: str) -> None:
    assert without_loop(text) == once


@pytest.mark.parametrize(
    ("text", "once"),
    [
        ("No. No.", "No."),
        ("Get her. Get her. Get her.", "Get her."),
        ("Wait, I have... Wait, I have... Wait,", "Wait, I have..."),
        ("Turn on the light. Turn on the light. Turn", "Turn on the light."),
        ("Namjian Namjian Nam", "Namjian"),
        ("No, that is not", "No, that is not"),
        ("Bye-bye.", "Bye-bye."),
        ("", ""),
    ],
)
def test_a_phrase_that_is_told_again_and_again_is_told_once(text: str, once: str) -> None:
    assert without_repetition(text) == once


def test_a_word_that_is_said_once_is_heard_once(pair: Pair, whisper: hear._Whisper) -> None:
    activity = VoiceActivity.load()()
    for word, voice in (("No.", "tara"), ("What?", "leo"), ("No.", "dan")):
        sound = np.concatenate([silence(0.5), heard(pair.url, word, 1, voice), silence(1)])
        found = turns_in(sound, activity)
        assert transcript(whisper, cut(sound, found[0].start_ms, found[-2].end_ms)) == word  # type: ignore[union-attr]


class Slow:
    """A network that waits to be told to go on, in place of Whisper's."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.unwanted: list[threading.Event] = []
        self.go_on = threading.Event()

    def transcribe(
        self, samples: Sound, language: Any, prompt: Any, unwanted: threading.Event
    ) -> tuple[str, float]:
        self.begun.append(len(samples))
        self.unwanted.append(unwanted)
        assert self.go_on.wait(10)
        return str(len(samples)), 0.0


def test_a_call_that_nobody_waits_for_is_not_begun_and_one_that_runs_is_told() -> None:
    slow = Slow()

    async def work(recognizer: WhisperRecognizer) -> str:
        tasks = [asyncio.create_task(recognizer.transcribe(np.zeros(n, np.float32))) for n in range(1, 7)]
        await until(lambda: bool(slow.begun))
        began_s = time.monotonic()
        for task in tasks[:5]:
            task.cancel()
        results = await asyncio.gather(*tasks[:5], return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        assert time.monotonic() - began_s < 1  # the callers leave at once, though the network is at work
        assert slow.unwanted[0].is_set()
        slow.go_on.set()
        return (await tasks[5]).text

    assert run(slow, work) == "6"
    assert slow.begun == [1, 6]


def test_the_event_loop_goes_on_while_it_hears(whisper: hear._Whisper) -> None:
    async def work(recognizer: WhisperRecognizer) -> float:
        hearing = asyncio.create_task(recognizer.transcribe(noises(20)["pink noise"]))
        turns = 0
        while not hearing.done():
            await asyncio.sleep(0.001)
            turns += 1
        return turns

    assert run(whisper, work) > 20


def test_a_recognizer_that_is_closed_lets_everybody_go() -> None:
    slow = Slow()

    async def work(recognizer: WhisperRecognizer) -> None:
        first, second = (asyncio.create_task(recognizer.transcribe(np.zeros(n, np.float32))) for n in (1, 2))
        await until(lambda: bool(slow.begun))
        closing = asyncio.create_task(recognizer.aclose())
        with pytest.raises(NotReady):
            await second
        slow.go_on.set()
        assert (await first).text == "1"
        await closing
        with pytest.raises(NotReady):
            await recognizer.transcribe(np.zeros(3, np.float32))

    run(slow, work)


def test_a_failure_of_the_network_is_one_of_our_errors() -> None:
    class Broken:
        def transcribe(self, *_: Any) -> str:
            raise RuntimeError("out of memory")

    with pytest.raises(EngineError, match="out of memory"):
        transcript(Broken(), np.zeros(1, np.float32))


def test_an_endless_prompt_and_an_unknown_language_are_no_failure(pair: Pair, whisper: hear._Whisper) -> None:
    speech = heard(pair.url, QUESTIONS[0], 1)
    prompt = "They spoke about a journey through Europe. " * 500
    assert "France" in transcript(whisper, speech, language="xx", prompt=prompt)


class Server:
    """A server of transcriptions, which tests script."""

    def __init__(self) -> None:
        self.answer: Callable[[], Response] = lambda: JSONResponse({"text": " What time is it? "})
        self.fields: dict[str, Any] = {}
        self.headers: dict[str, str] = {}
        self.audio = b""
        self.left = threading.Event()
        self.app = Starlette(routes=[Route("/v1/audio/transcriptions", self._transcribe, methods=["POST"])])

    async def _transcribe(self, request: Request) -> Response:
        body = await request.body()
        self.headers = dict(request.headers)
        boundary = request.headers["content-type"].partition("boundary=")[2].encode()
        self.fields = {}
        for part in body.split(b"--" + boundary)[1:-1]:
            head, _, value = part.strip(b"\r\n").partition(b"\r\n\r\n")
            name = head.decode().partition('name="')[2].partition('"')[0]
            self.fields[name] = value
        self.audio = self.fields.pop("file")
        return self.answer()


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Server, str]]:
    scripted = Server()
    with served(scripted.app) as url:
        yield scripted, url


def ask(url: str, *, key: str | None = None, sound: Sound | None = None, **more: Any) -> Heard:
    async def whole() -> Heard:
        recognizer = RemoteRecognizer(url, "whisper-large", key)
        try:
            return await recognizer.transcribe(tone(300, 1) if sound is None else sound, **more)
        finally:
            await recognizer.aclose()

    return asyncio.run(whole())


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/audio/transcriptions"])
def test_a_server_is_sent_a_wav_and_what_is_known(ending: str, server: tuple[Server, str]) -> None:
    scripted, url = server
    scripted.answer = lambda: JSONResponse({"text": " What time is it? "})
    got = ask(url + ending, key="sk-secret", language="en", prompt="Orpheus")
    assert (got.text, got.audio_s) == ("What time is it?", 1.0)
    assert scripted.fields == {
        "model": b"whisper-large",
        "response_format": b"json",
        "language": b"en",
        "prompt": b"Orpheus",
    }
    assert scripted.headers["authorization"] == "Bearer sk-secret"
    with wave.open(io.BytesIO(scripted.audio)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (16_000, 1, 16_000)


def test_silence_is_not_sent() -> None:
    assert ask(f"http://127.0.0.1:{free_port()}", sound=silence(1)).text == ""


def endless() -> Response:
    async def parts() -> Any:
        for _ in range(1_000):
            await asyncio.sleep(0)  # so that it learns that nobody reads on
            yield b" " * 65_536

    return StreamingResponse(parts(), media_type="application/json")


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (lambda: JSONResponse({"error": "no"}, 401), UpstreamError, "ORPHEUS_STT_API_KEY"),
        (lambda: JSONResponse({"error": "no"}, 404), UpstreamError, "ORPHEUS_STT_URL"),
        (lambda: JSONResponse({"error": "http://10.0.0.7 is down"}, 500), UpstreamError, "500"),
        (lambda: JSONResponse({}, 429, headers={"Retry-After": "7"}), AtCapacity, "full"),
        (lambda: JSONResponse({"text": None}), UpstreamError, "no transcript"),
        (lambda: JSONResponse([]), UpstreamError, "no transcript"),
        (lambda: Response("<html>"), UpstreamError, "no transcript"),
        (lambda: Response("[" * 100_000), UpstreamError, "no transcript"),
        (endless, UpstreamError, "no transcript"),
    ],
)
def test_a_server_that_fails_does_so_in_a_sentence_without_its_address(
    answer: Callable[[], Response], kind: type[OrpheusError], says: str, server: tuple[Server, str]
) -> None:
    scripted, url = server
    scripted.answer = answer
    with pytest.raises(kind, match=says) as failed:
        ask(url)
    assert "127.0.0.1" not in str(failed.value)
    assert "10.0.0.7" not in str(failed.value)
    if isinstance(failed.value, AtCapacity):
        assert failed.value.retry_after_s == 7


def test_a_server_that_is_not_there_or_silent_is_given_up(
    server: tuple[Server, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UpstreamError, match="cannot be reached"):
        ask(f"http://127.0.0.1:{free_port()}")
    scripted, url = server

    async def hang() -> Any:
        yield b" "
        await asyncio.sleep(5)

    scripted.answer = lambda: StreamingResponse(hang())
    monkeypatch.setattr(hear, "ANSWER_S", -0.7)  # and the second that the audio lasts
    with pytest.raises(UpstreamError, match="in time"):
        ask(url)


def test_the_settings_choose_the_recognizer() -> None:
    remote = load_recognizer(load_settings(stt_url="http://127.0.0.1:1", stt_api_key="sk-secret"))
    assert isinstance(remote, RemoteRecognizer)
    asyncio.run(remote.aclose())
    embedded = load_recognizer(load_settings(model="embedded"))
    assert isinstance(embedded, WhisperRecognizer)

    async def warm() -> None:
        await embedded.warm_up()
        await embedded.aclose()

    asyncio.run(warm())


def test_a_word_is_told_once_two_transcripts_have_it_and_the_last_one_waits() -> None:
    agreement = LocalAgreement()
    assert agreement.update("What") == ""
    assert agreement.update("What time") == "What"
    assert agreement.update("What time is the") == " time"
    assert agreement.update("What time is that") == " is"
    assert agreement.finish("What time is it?") == " it?"
    assert agreement.text == "What time is it?"


def test_a_transcript_that_changes_its_mind_takes_nothing_back() -> None:
    agreement = LocalAgreement()
    agreement.update("I scream for it")
    assert agreement.update("I scream for ice") == "I scream for"
    assert agreement.update("Ice cream for everyone here") == ""
    assert agreement.update("Ice cream for everyone here now") == ""
    assert agreement.finish("Ice cream for everyone here now.") == " everyone here now."


def test_case_and_punctuation_are_no_disagreement() -> None:
    agreement = LocalAgreement()
    agreement.update("well i think")
    assert agreement.update("Well, I think so") == "Well, I think"


def test_languages_without_spaces_are_told_by_character() -> None:
    agreement = LocalAgreement()
    agreement.update("今天天气")
    assert agreement.update("今天天气很好") == "今天天气"
    assert agreement.finish("今天天气很好。") == "很好。"


def test_a_turn_without_partial_transcripts_is_told_whole() -> None:
    assert LocalAgreement().finish(" Hello there. ") == "Hello there."


SAID = st.lists(st.sampled_from(["a", "b", "c", "B,", "d.", "好"]), max_size=8).map(" ".join)


@given(st.lists(SAID, max_size=8), SAID)
def test_whatever_the_transcripts_are_the_text_only_grows(hypotheses: list[str], last: str) -> None:
    agreement = LocalAgreement()
    told = ""
    for hypothesis in hypotheses:
        told += agreement.update(hypothesis)
        assert agreement.text == told
    told += agreement.finish(last)
    assert agreement.text == told
    assert json.loads(json.dumps(told)) == told
    if not hypotheses:
        assert told == last.strip()
