from __future__ import annotations

import asyncio
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from orpheus.errors import AtCapacity, EngineError
from orpheus.ops.say import SpeechTiming, say, split_text
from orpheus.settings import Settings, load_settings
from orpheus.tts.encode import Format
from tests.support.audio import decode
from tests.support.live import served

SECOND = b"\1\0" * 24_000


async def say_from(
    url: str, text: str, out: Path, format: Format = "pcm", settings: Settings | None = None
) -> SpeechTiming:
    return await say(
        text,
        voice="tara",
        out=out,
        format=format,
        speed=1,
        url=url,
        settings=settings or load_settings(),
        console=Console(file=io.StringIO()),
    )


@pytest.mark.anyio
async def test_a_server_is_sent_the_proxy_token_and_the_first_key(tmp_path: Path) -> None:
    seen: list[dict[str, str]] = []

    async def speech(request: Request) -> Response:
        seen.append(dict(request.headers))
        return Response(b"\0\0" * 2400, headers={"x-sample-rate": "24000"})

    settings = load_settings(proxy_key="wk-1", proxy_secret="ws-1", api_keys="one, two")
    out = tmp_path / "out.pcm"
    with served(Starlette(routes=[Route("/v1/audio/speech", speech, methods=["POST"])])) as url:
        spoken = await say_from(url, "Hello.", out, settings=settings)
    assert spoken.audio_s == pytest.approx(0.1)
    assert (seen[0]["modal-key"], seen[0]["modal-secret"]) == ("wk-1", "ws-1")
    assert seen[0]["x-api-key"] == "one"


class Speech:
    """A server that answers every text with one second of samples, `after_s` seconds later."""

    def __init__(self, after_s: float = 0.0) -> None:
        self.inputs: list[str] = []
        self.after_s = after_s
        self.app = Starlette(routes=[Route("/v1/audio/speech", self._speak, methods=["POST"])])

    async def _speak(self, request: Request) -> Response:
        body = await request.json()
        self.inputs.append(body["input"])
        await asyncio.sleep(self.after_s)
        return Response(SECOND, headers={"x-sample-rate": "24000"})


@pytest.mark.anyio
async def test_the_time_to_the_first_audio_counts_from_the_request(tmp_path: Path) -> None:
    with served(Speech(after_s=0.3).app) as url:
        timing = await say_from(url, "Hello.", tmp_path / "out.pcm")
    assert timing.first_audio_s >= 0.3
    assert timing.took_s >= timing.first_audio_s


@pytest.mark.anyio
async def test_a_book_is_sent_in_parts_and_becomes_one_stream(tmp_path: Path) -> None:
    book = "\n\n".join(f"This is sentence {number} of it. " * 40 for number in range(40))
    server, out = Speech(), tmp_path / "book.mp3"
    with served(server.app) as url:
        timing = await say_from(url, book, out, "mp3")
    assert len(book) > 40_000
    assert max(map(len, server.inputs)) <= 4096
    assert re.findall(r"\w+", " ".join(server.inputs)) == re.findall(r"\w+", book)
    pauses_s = 0.5 * (len(server.inputs) - 1)  # each part ends with a paragraph
    assert timing.audio_s == pytest.approx(len(server.inputs) + pauses_s)
    samples, rate = decode(out.read_bytes())
    assert len(samples) / rate == pytest.approx(timing.audio_s, abs=0.1)


class Faulty(Speech):
    """The same, but some texts get another answer, once each if `once`."""

    def __init__(self, answers: dict[str, Response], *, once: bool = False) -> None:
        super().__init__()
        self.answers = answers
        self.once = once

    async def _speak(self, request: Request) -> Response:
        text = (await request.json())["input"]
        for word, answer in list(self.answers.items()):
            if word in text:
                if self.once:
                    del self.answers[word]
                return answer
        return await super()._speak(request)


BOOK = "\n\n".join(f"{name} " * 400 for name in ("First", "Second", "Third", "Fourth"))


def refused(status: int, code: str, **headers: str) -> Response:
    return JSONResponse({"error": {"message": "no", "code": code}}, status, headers=headers)


@pytest.mark.anyio
@pytest.mark.parametrize("code", ["empty_input", "unspeakable_language"])
async def test_a_part_of_a_book_with_nothing_to_say_is_no_reason_to_lose_the_rest(
    tmp_path: Path, code: str
) -> None:
    out = tmp_path / "book.pcm"
    with served(Faulty({"First": refused(400, code), "Third": refused(400, code)}).app) as url:
        timing = await say_from(url, BOOK, out)
    assert timing.audio_s == pytest.approx(2, abs=1.1)
    assert out.stat().st_size == timing.audio_s * 48_000
    with served(Faulty({"": refused(400, code)}).app) as url, pytest.raises(EngineError, match=code):
        await say_from(url, BOOK, tmp_path / "nothing.pcm")
    assert os.listdir(tmp_path) == [out.name]


@pytest.mark.anyio
async def test_a_server_that_is_full_in_the_middle_of_a_book_is_asked_again_when_it_says(
    tmp_path: Path,
) -> None:
    full = refused(429, "rate_limit_exceeded", **{"Retry-After": "9", "Retry-After-Ms": "200"})
    with served(Faulty({"Second": full, "Third": full}, once=True).app) as url:
        timing = await say_from(url, BOOK, tmp_path / "book.pcm")
    assert 0.4 <= timing.took_s < 9
    assert timing.audio_s == pytest.approx(4, abs=1.6)
    with (
        served(Faulty({"First": full}, once=True).app) as url,
        pytest.raises(AtCapacity, match="answered 429"),
    ):
        await say_from(url, BOOK, tmp_path / "never.pcm")  # whoever asks for the beginning is told at once


@pytest.mark.anyio
@pytest.mark.parametrize("format", ["pcm", "wav", "mp3", "flac"])
async def test_a_book_that_fails_in_the_middle_leaves_no_half_file(tmp_path: Path, format: Format) -> None:
    out = tmp_path / f"book.{format}"
    out.write_bytes(b"the last one")
    failing = Faulty({"Third": refused(502, "upstream_error")})
    with served(failing.app) as url, pytest.raises(EngineError, match="answered 502"):
        await say_from(url, BOOK, out, format)
    assert out.read_bytes() == b"the last one"
    assert os.listdir(tmp_path) == [out.name]


def test_a_server_is_asked_without_loading_what_speaks_here() -> None:
    loaded = "import sys, orpheus.ops.say; print({'torch', 'fastapi', 'llama_cpp'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\n ",
        "Short.",
        "word " * 500,
        "x" * 1_000,
        "One sentence here. " * 50,
        "A paragraph.\n\n" * 90,
        "Line\nbreaks\n" * 90,
        "字" * 700,
    ],
)
def test_a_text_is_split_without_losing_any_of_it(text: str) -> None:
    parts = split_text(text, 200)
    assert "".join("".join(part.text for part in parts).split()) == "".join(text.split())
    assert max(len(part.text) for part in parts) <= 200
    assert parts[-1].pause_ms == 0


def test_parts_end_where_paragraphs_or_sentences_do() -> None:
    text = (
        "The first paragraph is here. It has two whole sentences in it.\n\n"
        + "The second paragraph is a longer one. " * 5
    )
    parts = split_text(text, 90)
    assert parts[0].text.strip() == "The first paragraph is here. It has two whole sentences in it."
    assert parts[0].pause_ms > parts[1].pause_ms > 0
    assert all(part.text.rstrip().endswith(".") for part in parts)
