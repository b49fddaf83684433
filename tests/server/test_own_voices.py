"""Voices of one's own, as every door of tier 2 lists and takes them; and what tier 1 is asked for in their names."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgpack
import pytest
from playwright.sync_api import expect
from websockets.sync.client import connect

from orpheus.llama.engine import Engine
from orpheus.sampling import Sampling
from orpheus.settings import load_settings
from orpheus.tts.token_source import EngineTokenSource, Generation
from orpheus.voices import Voice
from tests.support.browser import chromium
from tests.support.llama import load
from tests.support.speech import error_of
from tests.support.upstream import Upstream
from tests.support.waiting import eventually

Start = Callable[..., httpx.Client]
FILE = """
voices:
  - id: Ronan
    name: Ronan of Cork
    gender: male
    aliases: [onyx, the irishman]
    tags: [laugh, clear throat]
    sample: How are you keeping?
  - id: layla
    language: ar
    gender: female
    prompt_name: Arabic (Female)
    default: true
    tags: none
  - id: solo
    language: tr
    prompt_name: none
  - id: maya
    prompt_name: Female voice in her 30s, warm.
    prompt: '<description="{name}"> {text}'
  - id: kavya
    language: hi
    prompt: "<custom_token_3><spk_{name}> {text}<custom_token_4><custom_token_5><custom_token_1>"
"""
HEAD, TAIL = "<custom_token_3><|begin_of_text|>", "<|eot_id|><custom_token_4><custom_token_5><custom_token_1>"


@pytest.fixture
def own(speech: Start) -> httpx.Client:
    """A tier 2 with the voices of FILE."""
    return speech(keep=True, voices=FILE)


def prompt_of(client: httpx.Client, upstream: Upstream, **body: Any) -> dict[str, Any]:
    """What tier 1 was sent for a request."""
    response = client.post("/v1/audio/speech", json={"input": "Hello.", "response_format": "pcm"} | body)
    assert response.status_code == 200, response.text
    return upstream.requests[-1]


@pytest.mark.parametrize("path", ["/v1/audio/voices", "/audio/voices"])
def test_the_lists_have_these_voices_and_no_others(own: httpx.Client, path: str) -> None:
    listed = own.get(path).json()
    assert [voice["id"] for voice in listed["voices"]] == ["layla", "Ronan", "solo", "maya", "kavya"]
    assert own.get(f"{path}?legacy=true").json() == {"voices": ["layla", "Ronan", "solo", "maya", "kavya"]}
    ronan = listed["voices"][1]
    assert ronan == {
        "id": "Ronan", "name": "Ronan of Cork", "language": "en", "gender": "male", "tags": ["laugh", "clear throat"],
        "sample": "How are you keeping?",
    }  # fmt: skip
    assert listed["voices"][2]["gender"] is None
    assert listed["aliases"]["onyx"] == listed["aliases"]["the irishman"] == "Ronan"
    assert listed["aliases"]["alloy"] == "layla"  # of the same gender
    assert listed["tags"]["ar"] == []


@pytest.mark.parametrize(
    ("voice", "turn"),
    [
        (None, "Arabic (Female): Hello."),  # the default
        ("default", "Arabic (Female): Hello."),
        ("tara", "Arabic (Female): Hello."),  # what clients send without a choice
        ("layla", "Arabic (Female): Hello."),
        ("ronan", "Ronan: Hello."),
        (" RONAN ", "Ronan: Hello."),
        ("The Irishman", "Ronan: Hello."),
        ("onyx", "Ronan: Hello."),
        ("echo", "Ronan: Hello."),  # the only man
        ({"id": "solo"}, "Hello."),
        ("maya", '<description="Female voice in her 30s, warm."> Hello.'),
    ],
)
def test_a_voice_is_asked_for_in_its_own_name_and_form(
    own: httpx.Client, upstream: Upstream, voice: object, turn: str
) -> None:
    sent = prompt_of(own, upstream, **({} if voice is None else {"voice": voice}))
    assert sent["prompt"] == HEAD + turn + TAIL
    assert "verbatim" not in sent


def test_a_whole_prompt_of_ones_own_is_sent_as_it_stands(own: httpx.Client, upstream: Upstream) -> None:
    sent = prompt_of(own, upstream, voice="kavya", input="नमस्ते <custom_token_2> <|eot_id|> दोस्त")
    head, tail = "<custom_token_3><spk_kavya> ", "<custom_token_4><custom_token_5><custom_token_1>"
    assert sent["prompt"] == f"{head}नमस्ते दोस्त।{tail}"  # the text brings no control tokens along
    assert sent["verbatim"] is True


@pytest.mark.parametrize("voice", ["leah", "pierre", "nobody"])
def test_published_voices_are_unknown_to_a_model_that_has_its_own(own: httpx.Client, voice: str) -> None:
    error = error_of(own.post("/v1/audio/speech", json={"input": "Hello.", "voice": voice}))
    assert error["code"] == "voice_not_found"
    assert "Use one of layla, Ronan, solo, maya, kavya" in error["message"]


def test_they_may_join_the_published_ones(speech: Start, upstream: Upstream) -> None:
    client = speech(keep=True, voices="published: yes\n" + FILE.strip())
    listed = [voice["id"] for voice in client.get("/v1/audio/voices").json()["voices"]]
    assert listed[:3] == ["layla", "Ronan", "solo"]
    assert listed[5:] == ["tara", "leah", "jess", "leo", "dan", "mia", "zac", "zoe"]
    assert prompt_of(client, upstream, voice="tara")["prompt"] == f"{HEAD}tara: Hello.{TAIL}"
    assert "Arabic (Female): Hello." in prompt_of(client, upstream)["prompt"]
    error = error_of(client.post("/v1/audio/speech", json={"input": "Hello.", "voice": "pierre"}))
    assert error["code"] == "voice_not_loaded"


def test_names_alone_are_enough(speech: Start, upstream: Upstream) -> None:
    client = speech(keep=True, voices="ronan,anna:de")
    listed = client.get("/v1/audio/voices").json()["voices"]
    assert [(voice["id"], voice["language"]) for voice in listed] == [("ronan", "en"), ("anna", "de")]
    assert prompt_of(client, upstream)["prompt"] == f"{HEAD}ronan: Hello.{TAIL}"
    assert prompt_of(client, upstream, voice="anna")["prompt"] == f"{HEAD}anna: Hello.{TAIL}"


def test_a_voice_follows_the_tags_it_declares_and_no_others(own: httpx.Client, upstream: Upstream) -> None:
    text = "Hello <laugh> there, <clear throat> and <Laugh> so on <sigh>."
    spoken = prompt_of(own, upstream, voice="ronan", input=text)["prompt"]
    assert "Ronan: Hello <laugh> there, <clear throat> and <laugh> so on." in spoken
    spoken = prompt_of(own, upstream, voice="layla", input=text)["prompt"]
    assert "Arabic (Female): Hello there, <clear throat> and so on." in spoken  # no tag: it has a space
    spoken = prompt_of(own, upstream, voice="maya", input=text)[
        "prompt"
    ]  # those of the published English voices
    assert "Hello <laugh> there, <clear throat> and <laugh> so on <sigh>." in spoken


def test_letters_are_those_of_the_declared_language(own: httpx.Client, upstream: Upstream) -> None:
    text = "مرحبًا، كيف حالك؟ Привет."
    assert "Arabic (Female): مرحبًا، كيف حالك؟<|eot_id|>" in prompt_of(own, upstream, input=text)["prompt"]
    assert "<|eot_id|>" in prompt_of(own, upstream, voice="solo", input="Günaydın! İyi misin?")["prompt"]
    error = error_of(own.post("/v1/audio/speech", json={"input": "مرحبًا", "voice": "solo"}))
    assert error["code"] == "unspeakable_language"
    assert "Arabic letters, which the Turkish voice cannot speak" in error["message"]


def test_the_sockets_take_them_too(own: httpx.Client, upstream: Upstream) -> None:
    address = str(own.base_url).replace("http", "ws", 1)
    with connect(f"{address}/v1/audio/speech/stream/ws?voice=RONAN", proxy=None) as socket:
        socket.send("Hello there.")
        list(socket)
    assert "Ronan: Hello there." in upstream.requests[-1]["prompt"]
    with connect(f"{address}/v1/audio/speech/stream", proxy=None) as socket:
        socket.send(json.dumps({"type": "session.config", "voice": "solo"}))
        socket.send(json.dumps({"type": "input.text", "text": "Merhaba, nasılsın?"}))
        socket.send(json.dumps({"type": "input.done"}))
        while json.loads(_text(socket))["type"] != "session.done":
            pass
    assert upstream.requests[-1]["prompt"] == f"{HEAD}Merhaba, nasılsın?{TAIL}"


def _text(socket: Any) -> str:
    """The next text frame."""
    while isinstance(frame := socket.recv(timeout=20), bytes):
        pass
    return str(frame)


@pytest.mark.parametrize(
    ("name", "turn"),
    [
        ("ronan", "Ronan: "),
        ("unmute-prod-website/developer-1.mp3", "Ronan: "),
        ("nobody.wav", "Arabic (Female): "),
    ],
)
def test_unmute_gets_a_voice_of_the_model_for_its_own_names(
    own: httpx.Client, upstream: Upstream, name: str, turn: str
) -> None:
    address = str(own.base_url).replace("http", "ws", 1)
    with connect(f"{address}/api/tts_streaming?format=PcmMessagePack&voice={name}", proxy=None) as socket:
        socket.send(msgpack.packb({"type": "Text", "text": "Hello."}))
        socket.send(msgpack.packb({"type": "Eos"}))
        list(socket)
    assert upstream.requests[-1]["prompt"] == f"{HEAD}{turn}Hello.{TAIL}"


def test_a_file_is_read_once_at_the_start(speech: Start, tmp_path: Path) -> None:
    path = tmp_path / "voices.yaml"
    path.write_text(FILE)
    client = speech(voices=str(path))
    path.unlink()
    assert client.get("/v1/audio/voices").json()["voices"][1]["id"] == "Ronan"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = load()
    yield engine
    engine.close()


def test_tier_1_takes_a_whole_prompt_verbatim_and_a_turn_as_the_trained_one(engine: Engine) -> None:
    control = engine.vocabulary.control
    whole = f"<custom_token_3>x: Hello.<|eot_id|><custom_token_4>{'<custom_token_5><custom_token_1>'}"
    verbatim = engine.tokenize_prompt(whole, verbatim=True)
    assert (verbatim[0], verbatim[-1]) == (control[3], control[1])
    assert engine.vocabulary.begin_of_text not in verbatim
    assert engine.tokenize_prompt(whole)[1] == engine.vocabulary.begin_of_text
    legacy = "<|audio|>x: Hello.<|eot_id|>"
    assert engine.tokenize_prompt(legacy, verbatim=True)[-1] == engine.vocabulary.end_of_turn
    assert engine.tokenize_prompt(legacy)[-1] == control[1]


def test_both_tiers_in_one_process_generate_in_each_form(engine: Engine) -> None:
    own = load_settings(voices=FILE).own_voices
    assert own is not None
    source = EngineTokenSource(engine, "embedded")

    async def generated(voice: Voice) -> tuple[list[int], int]:
        numbers: list[int] = []
        prompt_tokens = 0
        async for chunk in source.generate(Generation(voice, "Hello.", Sampling(seed=1), 28)):
            numbers += chunk.numbers
            prompt_tokens = chunk.prompt_tokens or prompt_tokens
        return numbers, prompt_tokens

    results = {voice.id: asyncio.run(generated(voice)) for voice in own.voices}
    assert all(numbers for numbers, _ in results.values())
    assert len({prompt_tokens for _, prompt_tokens in results.values()}) == len(
        results
    )  # five different prompts


@pytest.mark.slow
def test_the_page_offers_them_with_their_own_tags(own: httpx.Client, upstream: Upstream) -> None:
    with chromium() as browser:
        page = browser.new_page()
        page.goto(str(own.base_url))
        expect(page.locator("#language option")).to_have_text(["Arabic", "English", "Turkish", "Hindi"])
        expect(page.locator("#voice option")).to_have_text(["layla (female)"])
        assert page.locator("#tags button").count() == 0
        page.select_option("#language", "en")
        expect(page.locator("#voice option")).to_have_text(["Ronan of Cork (male)", "maya"])
        expect(page.locator("#tags button")).to_have_text(["laugh", "clear throat"])
        page.select_option("#voice", "maya")
        expect(page.locator("#tags button").first).to_have_text("laugh")
        assert page.locator("#tags button").count() == 9
        page.select_option("#voice", "Ronan")
        page.fill("#input", "Hello.")
        page.click("#speak")
        eventually(lambda: bool(upstream.requests))
        assert "Ronan: Hello." in upstream.requests[-1]["prompt"]
