from __future__ import annotations

import logging
import os
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orpheus import __main__ as entry
from orpheus import cli
from orpheus.settings import Settings, load_settings
from tests.support.audio import decode
from tests.support.command import orpheus
from tests.support.live import Pair, clean_environment, served


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Done]]:
    """`orpheus` in this process, which saves the seconds that another takes to start."""

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["orpheus", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        output = capsys.readouterr()
        return Done(int(ended.value.code or 0), output.out, output.err)

    monkeypatch.setattr(cli.logs, "configure", lambda settings: None)  # for the whole process
    yield run
    for name in ("orpheus", "httpx"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_say_writes_a_file_and_says_how_fast(tmp_path: Path) -> None:
    out = tmp_path / "hello.wav"
    done = orpheus("say", "The boat drifted slowly down the river.", "--out", str(out), "--voice", "tara")
    assert done.returncode == 0, done.stderr
    assert "first audio after" in done.stdout
    assert "times real time" in done.stdout
    with wave.open(str(out)) as file:
        assert file.getframerate() == 24_000
        assert file.getnframes() == (out.stat().st_size - 44) // 2 > 24_000


@pytest.mark.parametrize("format", ["opus", "pcm"])
def test_say_asks_a_running_server_for_any_format(pair: Pair, tmp_path: Path, format: str) -> None:
    out = tmp_path / f"hello.{format}"
    done = orpheus("say", "Hello there.", "--out", str(out), "--url", pair.url, "--speed", "1.5")
    assert done.returncode == 0, done.stderr
    assert format == "pcm" or len(decode(out.read_bytes())[0]) > 5000


def test_say_sends_the_key_it_is_given(tmp_path: Path) -> None:
    seen: list[str] = []

    async def refuse(request: Request) -> Response:
        seen.append(request.headers["x-api-key"])
        return Response("no", 401)

    app = Starlette(routes=[Route("/v1/audio/speech", refuse, methods=["POST"])])
    with served(app) as url:
        for options in ({}, {"ORPHEUS_API_KEYS": "theirs"}):
            done = orpheus("say", "Hi.", "--url", url, "--key", "mine", NO_PROXY="127.0.0.1", **options)
            assert (done.returncode, "answered 401" in done.stderr) == (1, True)
    assert seen == ["mine", "mine"]


def test_say_reads_standard_input(pair: Pair, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "orpheus", "say", "-", "--url", pair.url, "--out", str(tmp_path / "x.wav")],
        input="Hello from a pipe.",
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "says", "code"),
    [
        (["say", ""], "nothing to say", 1),
        (["say", "Hi.", "--format", "midi"], "no format 'midi'", 1),
        (["say", "Hi.", "--voice", "bob"], "no voice 'bob'", 1),
        (["say", "Hi.", "--out", "x.docx"], ".mp3", 1),
        (["say", "Hi.", "--out", "/no/such/x.wav"], "no folder", 1),
        (["say", "Hi.", "--out", ""], "is not a file", 1),
        (["say", "Hi.", "--out", "."], "is not a file", 1),
        (["say", "Hi.", "--out", "/dev/null"], "is not a file", 1),
        (["say", "Hi.", "--out", "/proc/x.wav"], "/proc/x.wav cannot be written", 1),
        (["say", "Hi.", "--out", "x" * 300 + ".wav"], "cannot be written: File name too long", 1),
        (["say", "Hi.", "--out", "x" * 250 + ".wav", "--url", "http://127.0.0.1:1"], "File name too long", 1),
        (["bench", "--out", "."], "is not a file", 1),
        (["bench", "--out", "/proc/x.json"], "/proc/x.json cannot be written", 1),
        (["say", "Hi.", "--url", "http://[::1"], "write http://HOST:PORT", 2),
        (["say", "Hi.", "--url", "localhost:5005"], "write http://HOST:PORT", 2),
        (["bench", "--url", "localhost:5005"], "write http://HOST:PORT", 2),
        (["relay", "--url", "http://[::1"], "write http://HOST:PORT", 2),
        (["say", "Hi.", "--url", "http://127.0.0.1:1"], "Nothing answers", 1),
        (["say", "Hi.", "--speed", "9"], "speed", 2),
    ],
)
def test_an_error_is_reported_at_once_and_leaves_no_file(
    command: Callable[..., Done], arguments: list[str], says: str, code: int
) -> None:
    done = command(*arguments)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(Path.cwd().glob("*"))


def test_say_writes_to_standard_output(pair: Pair) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "orpheus",
            "say",
            "Hello.",
            "--url",
            pair.url,
            "--out",
            "-",
            "--format",
            "mp3",
        ],
        env=clean_environment(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert len(decode(done.stdout)[0]) > 5000
    assert b"first audio after" in done.stderr
    assert not Path("-").exists()


@pytest.mark.parametrize(
    ("closed", "arguments", "says"),
    [
        (">&-", ["version"], b""),
        (">&- 2>&-", ["version"], b""),
        (">&-", ["say", "Hello.", "--out", "x.wav"], b""),
        ("2>&-", ["say", "Hello.", "--out", "x.wav"], b""),
        ("<&-", ["say", "Hello.", "--out", "x.wav"], b""),
        ("<&-", ["say", "-", "--out", "x.wav"], b"nothing to say"),
        (">&-", ["say", "Hello.", "--out", "-"], b"Standard output is closed"),
    ],
)
def test_a_command_runs_without_its_standard_streams(
    pair: Pair, tmp_path: Path, closed: str, arguments: list[str], says: bytes
) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "orpheus", *arguments],
        env=clean_environment() | {"ORPHEUS_FASTAPI_URL": pair.url},
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert says in done.stderr
    assert (done.returncode, done.stderr.count(b"\n")) == ((1, 1) if says else (0, 0)), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == (
        [] if says or "x.wav" not in arguments else ["x.wav"]
    )


@pytest.mark.parametrize("exists", [False, True])
def test_say_writes_through_a_link(pair: Pair, tmp_path: Path, exists: bool) -> None:
    real, link = tmp_path / "real.wav", tmp_path / "link.wav"
    link.symlink_to(real.name)
    if exists:
        real.write_bytes(b"old")
    assert orpheus("say", "Hello.", "--url", pair.url, "--out", str(link)).returncode == 0
    assert link.is_symlink()
    assert len(decode(real.read_bytes())[0]) > 5000


def test_a_text_that_is_not_utf_8_is_one_sentence(tmp_path: Path) -> None:
    for given, text in ((["-"], b"Caf\xe9"), ([b"Caf\xe9"], b"")):
        done = subprocess.run(
            [sys.executable, "-m", "orpheus", "say", *given, "--out", str(tmp_path / "x.wav")],
            input=text,
            env=clean_environment(),
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr.count(b"\n")) == (1, 1), done.stderr
        assert b"not UTF-8" in done.stderr


def test_say_speaks_a_text_longer_than_a_request_may_be(tmp_path: Path) -> None:
    out = tmp_path / "long.wav"
    text = "The boat drifted slowly down the river. Nobody knew where it went."
    done = orpheus("say", text, "--out", str(out), ORPHEUS_MAX_INPUT_CHARS="20")
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size > 100_000


@pytest.mark.parametrize("name", ["version", "settings"])
def test_an_output_that_cannot_be_written_is_one_sentence(name: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "orpheus", name],
            env=clean_environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "No space left on device" in done.stderr


def test_a_reader_that_has_seen_enough_is_not_complained_to() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "orpheus", "version"],
        env=clean_environment(),
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(write)
    assert done.stderr == b""


def test_settings_are_listed_with_their_source(
    command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORPHEUS_TOP_P", "0.7")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    done = command("settings")
    line = next(line for line in done.stdout.splitlines() if line.startswith("ORPHEUS_TOP_P"))
    assert "0.7" in line
    assert "environment" in line
    assert "hf_secret" not in done.stdout
    assert "ORPHEUS_LLAMA_ENDPOINT" in done.stdout


def test_a_flag_of_tier_1_is_its_setting(
    command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Settings] = []

    def load(**given: object) -> NoReturn:
        found.append(load_settings(**given))
        sys.exit()

    monkeypatch.setattr(cli, "load_settings", load)
    for options, environment in (([], "false"), (["--unconstrained"], "false"), ([], "true")):
        monkeypatch.setenv("ORPHEUS_UNCONSTRAINED", environment)
        command("llama", *options)
    assert [settings.unconstrained for settings in found] == [False, True, True]


def test_a_misspelt_setting_is_warned_about(
    command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORPHEUS_TEMPRATURE", "1")
    done = command("settings")
    assert "did you mean ORPHEUS_TEMPERATURE" in done.stderr


@pytest.mark.parametrize(
    "name", ["", "serve", "llama", "speech", "relay", "say", "bench", "doctor", "settings"]
)
def test_every_command_explains_itself(command: Callable[..., Done], name: str) -> None:
    done = command(*name.split(), "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_an_interrupt_before_there_is_a_command_prints_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """typer builds the commands for 50 ms, and handles interrupts only after that."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupted)
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == 130
