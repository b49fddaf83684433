"""`orpheus voices`: what can speak, and what each sounds like."""

from __future__ import annotations

import re
import wave
from pathlib import Path

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from orpheus.errors import BadRequest
from orpheus.ops.voices import SAMPLES, Line, line_for, page, spectrogram
from orpheus.voices import Voice
from tests.support.audio import decode
from tests.support.browser import chromium
from tests.support.command import orpheus
from tests.support.live import served

FILE = """
- {id: ronan, name: Ronan of Cork, gender: male, prompt_name: leo, aliases: [onyx], sample: "How are you keeping?"}
- {id: "../solo & co", language: tr, prompt_name: tara}
"""


def rows(output: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in output.splitlines()]


def test_the_voices_of_every_published_model_are_listed_with_what_makes_them_speak() -> None:
    done = orpheus("voices")
    assert done.returncode == 0, done.stderr
    header, *voices = rows(done.stdout)
    assert header == ["voice", "name", "language", "gender", "also", "checkpoint"]
    assert voices[0] == ["tara", "tara", "English", "female", "embedded"]
    assert [
        "유나",
        "유나",
        "Korean",
        "female",
        "yuna",
        "ORPHEUS_MODEL=lex-au/Orpheus-3b-Korean-FT-Q8_0.gguf",
    ] in voices
    assert len(voices) == 25


def test_voices_of_ones_own_take_their_place_or_stand_beside_them(tmp_path: Path) -> None:
    path = tmp_path / "voices.yaml"
    path.write_text(FILE)
    done = orpheus("voices", ORPHEUS_VOICES=str(path), ORPHEUS_LORA="my.gguf:0.5")
    assert rows(done.stdout)[1:] == [
        ["ronan", "Ronan of Cork", "English", "male", "onyx", "embedded with my.gguf:0.5"],
        ["../solo & co", "../solo & co", "Turkish", "embedded with my.gguf:0.5"],
    ]
    done = orpheus("voices", "--model", "my.gguf", ORPHEUS_VOICES="+ronan")
    assert [row[0] for row in rows(done.stdout)[1:4]] == ["tara", "ronan", "leah"]
    assert "ORPHEUS_MODEL=lex-au/Orpheus-3b-German-FT-Q8_0.gguf" in done.stdout


def test_a_running_server_tells_what_it_speaks(tmp_path: Path) -> None:
    def voices(request: Request) -> JSONResponse:
        if request.headers.get("x-api-key") != "secret":
            return JSONResponse({}, 401)
        listed = [{"id": "layla", "name": "Layla", "language": "ar", "gender": None}]
        return JSONResponse({"voices": listed})

    with served(Starlette(routes=[Route("/v1/audio/voices", voices)])) as url:
        done = orpheus("voices", "--url", url, "--key", "secret")
        assert rows(done.stdout)[1:] == [["layla", "Layla", "Arabic", url]]
        done = orpheus("voices", "--url", url)
        assert done.returncode == 1
        assert f"{url} does not list its voices (HTTPStatusError): is it a tier 2" in " ".join(
            done.stderr.split()
        )


def test_a_mistake_in_the_file_stops_every_command_at_its_start(tmp_path: Path) -> None:
    path = tmp_path / "voices.yaml"
    path.write_text("- id: ronan\n  gender: mail\n")
    sentence = "line 2, voices[1].gender: input should be 'female', 'male' or 'neutral', not 'mail'."
    for command in (["voices"], ["say", "Hello."], ["serve"]):
        done = orpheus(*command, ORPHEUS_VOICES=str(path))
        assert done.returncode == 2, command
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_each_voice_speaks_a_line_into_a_folder_with_a_page(tmp_path: Path) -> None:
    path, out = tmp_path / "voices.yaml", tmp_path / "heard"
    path.write_text(FILE)
    done = orpheus("voices", "try", str(path), "--out", str(out), ORPHEUS_MODEL="embedded")
    assert done.returncode == 0, done.stderr
    told = dict(line.split(": ") for line in done.stdout.splitlines()[:2])
    assert list(told) == ["01-ronan.wav", "02-solo-co.wav"]
    assert sorted(file.name for file in out.iterdir()) == [*told, "index.html"]
    for name, duration in told.items():
        with wave.open(str(out / name)) as file:
            assert duration == f"{file.getnframes() / file.getframerate():.2f} s"
            assert file.getnframes() > 0.5 * file.getframerate()
        pcm, _ = decode((out / name).read_bytes())
        assert np.abs(pcm).max() > 0.05
    with chromium() as browser:
        shown = browser.new_page()
        failed: list[str] = []
        shown.on("requestfailed", lambda request: failed.append(request.url))
        shown.on("console", lambda message: failed.append(message.text))
        shown.goto((out / "index.html").as_uri())
        assert shown.locator("h2").all_inner_texts() == [
            "Ronan of Cork English, male",
            "../solo & co Turkish",
        ]
        assert "How are you keeping?" in shown.inner_text("body")
        sizes = shown.evaluate(
            "[...document.images].map((image) => [image.naturalWidth, image.naturalHeight])"
        )
        assert all(width > 50 and height == 128 for width, height in sizes)
        played = shown.evaluate(
            "Promise.all([...document.querySelectorAll('audio')].map(async (audio) => { await audio.play(); return audio.duration }))"
        )
        assert [f"{duration:.2f} s" for duration in played] == list(told.values())
        assert failed == []


@pytest.mark.slow
def test_one_that_cannot_speak_does_not_silence_the_others(tmp_path: Path) -> None:
    out = tmp_path / "heard"
    done = orpheus(
        "voices", "try", "x:ar,tara", "--out", str(out), "--text", "Привет.", ORPHEUS_MODEL="embedded"
    )
    assert done.returncode == 1
    assert "Cyrillic letters, which the Arabic voice cannot speak" in done.stdout
    assert "Cyrillic letters, which the English voice cannot speak" in (out / "index.html").read_text()


def test_a_tone_is_a_bright_line_at_its_height() -> None:
    import av

    rate = 24_000
    tone = (0.5 * np.sin(2 * np.pi * 3_000 * np.arange(rate) / rate)).astype(np.float32)
    packet = av.Packet(spectrogram(tone, rate))
    (frame,) = av.CodecContext.create("png", "r").decode(packet)
    pixels = frame.to_ndarray(format="rgb24").astype(int).sum(axis=2)
    height, width = pixels.shape
    assert (height, abs(width - 150) < 3) == (128, True)
    brightest = pixels[:, width // 2].argmax()
    assert abs(brightest - height * (1 - 3_000 / 12_000)) <= 2


def test_a_voice_says_what_it_is_told_its_sample_or_a_line_of_its_language() -> None:
    assert line_for(Voice("a", "ar"), None) == SAMPLES["ar"]
    assert line_for(Voice("a", "ar", sample="x"), None) == "x"
    assert line_for(Voice("a", "ar", sample="x"), "y") == "y"
    with pytest.raises(BadRequest, match="no line in yue for the voice 'a': give it a `sample`"):
        line_for(Voice("a", "yue"), None)


def test_names_and_texts_cannot_break_the_page() -> None:
    line = Line(Voice("<b>"), "<script>alert(1)</script>", "1.wav", error="<i>")
    shown = page([line], "<model>")
    assert "<script" not in shown
    assert "<i>" not in shown
    assert "&lt;script&gt;" in shown
