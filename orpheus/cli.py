"""The command line: options become settings, which go to the function that does the work.

An OrpheusError is one sentence on standard error, and sets the exit code.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from orpheus import __version__, logs, tracing
from orpheus.deploy.settings import Deployment, load_deployment
from orpheus.errors import BadRequest, OrpheusError, SetupError, in_a_sentence
from orpheus.ops.settings_table import setting_rows, unknown_names
from orpheus.redaction import redacted
from orpheus.settings import REAL_CODEC, REAL_MODEL, Settings, load_settings
from orpheus.voices import DEFAULT_VOICE

app = typer.Typer(
    help="Orpheus text-to-speech: a llama.cpp token service and a SNAC speech service.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
voices_app = typer.Typer(help="What can speak, and from which checkpoint.", invoke_without_command=True)
app.add_typer(voices_app, name="voices")
console = Console(stderr=True)

Host = Annotated[str | None, typer.Option(help="Address to listen on [ORPHEUS_HOST, 127.0.0.1].")]
Port = Annotated[int | None, typer.Option(help="Port to listen on [ORPHEUS_PORT, 5005].")]
LlamaPort = Annotated[int | None, typer.Option(help="Port of tier 1 [ORPHEUS_LLAMA_PORT, 5006].")]
Model = Annotated[
    str | None, typer.Option(help="'embedded', a GGUF file or owner/repo[@revision][:file] [ORPHEUS_MODEL].")
]
Wyoming = Annotated[
    str | None,
    typer.Option(
        metavar="[ADDRESS:]PORT",
        help="Also take Home Assistant's Wyoming protocol. It has no keys: a port alone is for this machine only.",
    ),
]
Codec = Annotated[
    str | None, typer.Option(help="'embedded', a SNAC folder or owner/repo[@revision] [ORPHEUS_CODEC].")
]
Supervised = Annotated[bool, typer.Option(hidden=True)]
Url = Annotated[str | None, typer.Option(help="A running pair, asked over HTTP, instead of this machine.")]
Key = Annotated[str | None, typer.Option(help="API key of the running pair [ORPHEUS_API_KEY].")]


def main() -> None:
    """Run the command that `sys.argv` names, and exit with its code."""
    sys.stderr = logs.Unbreakable(sys.stderr)  # a server goes on without whoever read its log
    try:
        app()
    except (OrpheusError, ModuleNotFoundError) as error:
        known = in_a_sentence(error)
        if not isinstance(known, SetupError) and isinstance(error, ModuleNotFoundError):
            raise  # not a missing extra but a fault of ours
        _tell(f"orpheus: {known}")
        sys.exit(known.exit_code)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _tell(f"orpheus: {error.strerror}: free some, or write to another place.")
        sys.exit(1)
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # nobody reads it any more; Python would complain of it at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@app.command()
def serve(
    host: Host = None,
    port: Port = None,
    llama_port: LlamaPort = None,
    model: Model = None,
    codec: Codec = None,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Both tiers in one process, without HTTP between them.")
    ] = False,
) -> None:
    """Run both tiers on this machine until Ctrl-C; if one ends, stop the other."""
    settings = _settings(host=host, port=port, llama_port=llama_port, model=model, codec=codec)
    if in_process:
        _serve_speech(settings, in_process=True)
    else:
        from orpheus.ops.serve import supervise

        sys.exit(supervise(settings, console))


@app.command()
def talk(
    host: Host = None,
    port: Port = None,
    llama_port: LlamaPort = None,
    model: Model = None,
    codec: Codec = None,
    wyoming: Wyoming = None,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Both tiers in one process, without HTTP between them.")
    ] = False,
) -> None:
    """Run both tiers, and an agent to talk to: in a browser, or through OpenAI's Realtime API."""
    from orpheus.ops import talk as talking
    from orpheus.ops.serve import supervise

    settings = _settings(host=host, port=port, llama_port=llama_port, model=model, codec=codec)
    talking.check_installed(settings)
    house = talking.read_address(wyoming) if wyoming is not None else None
    if in_process:
        _serve_speech(settings, in_process=True, agent=True, house=house)
    else:
        options = talking.speech_options(wyoming)
        announcing = talking.announcer(settings, house)
        sys.exit(supervise(settings, console, speech_options=options, announcing=announcing))


@app.command()
def llama(
    host: Host = None,
    port: Annotated[int | None, typer.Option(help="Port [ORPHEUS_LLAMA_PORT, 5006].")] = None,
    model: Model = None,
    unconstrained: Annotated[
        bool,
        typer.Option(
            "--unconstrained",
            help='Serve requests with "constrained": false too, which need all of the vocabulary: slower '
            "[ORPHEUS_UNCONSTRAINED].",
        ),
    ] = False,
    supervised: Supervised = False,
) -> None:
    """Run tier 1 alone: prompts in, audio tokens out, at /v1/completions."""
    from orpheus.http.process import Process, end_with_parent, listen
    from orpheus.llama.engine import Engine
    from orpheus.llama.gpu_memory import find_model
    from orpheus.llama.server import create_app

    settings = _settings(host=host, llama_port=port, model=model, unconstrained=unconstrained or None)
    bound = listen(settings.host, settings.llama_port, "--port or ORPHEUS_LLAMA_PORT")
    if supervised:
        end_with_parent(settings.drain_s)
    tracing.configure(tracing.LLAMA)
    process = Process(settings)
    load = process.ending_on_failure(
        lambda: Engine.load(find_model(settings), settings, on_death=process.end)
    )
    process.serve(create_app(settings, load), bound)


@app.command()
def speech(
    host: Host = None,
    port: Port = None,
    codec: Codec = None,
    supervised: Supervised = False,
    agent: Annotated[bool, typer.Option("--agent", hidden=True)] = False,
    wyoming: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run tier 2 alone: text in, speech out, with tokens from ORPHEUS_LLAMA_ENDPOINT."""
    from orpheus.http.process import end_with_parent
    from orpheus.ops.talk import read_address

    settings = _settings(host=host, port=port, codec=codec)
    if supervised:
        end_with_parent(settings.drain_s)
    house = read_address(wyoming) if wyoming is not None else None
    _serve_speech(settings, in_process=False, agent=agent, house=house)


@app.command()
def relay(
    url: Annotated[
        str | None, typer.Option(help="The tier 2 to relay to, https://HOST [ORPHEUS_FASTAPI_URL].")
    ] = None,
    port: Annotated[int, typer.Option(help="Port to listen on; unmute expects its TTS at 8089.")] = 8089,
    header: Annotated[
        list[str] | None, typer.Option(help="Header to add, 'Name: value'; may be given several times.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Whoever can reach it uses your keys.")
    ] = "127.0.0.1",
) -> None:
    """Let an unmodified unmute, which connects to ws://127.0.0.1:8089, reach a tier 2 behind https.

    HTTP and WebSockets pass unchanged; ORPHEUS_API_KEY and Modal's proxy token (ORPHEUS_PROXY_KEY,
    ORPHEUS_PROXY_SECRET) are added. Unmute waits half a second for its TTS, so tier 2 must be running and near.
    """
    from orpheus.http.process import Process, listen, url_of
    from orpheus.ops.relay import create_app, read_headers

    settings = _settings(fastapi_url=url)
    if not settings.fastapi_url:
        raise SetupError("Name the tier 2 to relay to: --url https://HOST, or ORPHEUS_FASTAPI_URL.")
    headers = settings.client_headers | read_headers(header or [])
    relay_app = create_app(settings.fastapi_url, headers)
    bound = listen(host, port, "--port")
    here = url_of(host, bound.getsockname()[1]).replace("http", "ws", 1)
    _tell(f"{here} relays to {settings.fastapi_url}")
    Process(settings).serve(relay_app, bound)


@app.command()
def say(
    text: Annotated[str, typer.Argument(help="The text to speak; '-' reads standard input.")],
    voice: Annotated[str, typer.Option(help="One of the voices, or an OpenAI name.")] = DEFAULT_VOICE,
    out: Annotated[
        Path,
        typer.Option(
            help="File to write, '-' for standard output; its ending sets the format: wav mp3 opus aac flac pcm."
        ),
    ] = Path("hello.wav"),
    format: Annotated[
        str | None, typer.Option("--format", help="Format, where the name of the file does not tell.")
    ] = None,
    speed: Annotated[float, typer.Option(min=0.25, max=4.0, help="1 is the voice's own.")] = 1.0,
    url: Annotated[
        str | None,
        typer.Option(help="A running tier 2 [ORPHEUS_FASTAPI_URL]. Unset: both tiers run in this process."),
    ] = None,
    key: Key = None,
) -> None:
    """Write the speech of a text to a file, and print how fast that was. A text may be as long as a book."""
    from orpheus.ops.say import STDOUT, format_called
    from orpheus.ops.say import say as say_to_file

    settings = _settings(fastapi_url=url, api_key=key)
    logging.getLogger("orpheus").setLevel(logging.WARNING)
    text = _read_text(text)
    _check_audio_output(out)
    timing = asyncio.run(
        say_to_file(
            text,
            voice=voice,
            out=out,
            format=format_called(format, out),
            speed=speed,
            url=settings.fastapi_url,
            settings=settings,
            console=console,
        )
    )
    if out == STDOUT:
        _tell(str(timing))
    else:
        print(f"{out}: {timing}")


@app.command()
def converse(
    recording: Annotated[
        Path,
        typer.Argument(
            help="A recorded question, WAV, MP3, Ogg, WebM, M4A or FLAC; '-' reads standard input."
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            help="File to write, '-' for standard output; its ending sets the format: wav mp3 opus aac flac pcm."
        ),
    ] = Path("answer.wav"),
    voice: Annotated[str, typer.Option(help="One of the voices, or an OpenAI name.")] = DEFAULT_VOICE,
    format: Annotated[
        str | None, typer.Option("--format", help="Format, where the name of the file does not tell.")
    ] = None,
    speed: Annotated[float, typer.Option(min=0.25, max=4.0, help="1 is the voice's own.")] = 1.0,
    instructions: Annotated[str | None, typer.Option(help="Who answers, and how.")] = None,
    language: Annotated[
        str | None, typer.Option(help="Of the recording, such as en; unset, it is recognized.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="A running agent [ORPHEUS_FASTAPI_URL]. Unset: everything runs in this process."),
    ] = None,
    key: Key = None,
) -> None:
    """Answer a recorded question with speech, and print what was heard and answered and how long each stage took."""
    from orpheus.ops.converse import Question
    from orpheus.ops.converse import converse as converse_into
    from orpheus.ops.say import STDOUT, format_called

    settings = _settings(fastapi_url=url, api_key=key)
    logging.getLogger("orpheus").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    to_stdout = out == STDOUT
    _check_audio_output(out)
    question = Question(
        _read_recording(recording), voice, format_called(format, out), speed, instructions, language
    )
    asyncio.run(
        converse_into(
            question,
            out=out,
            url=settings.fastapi_url,
            settings=settings,
            console=console,
            tell=_tell if to_stdout else lambda line: print(line, flush=True),
        )
    )
    if not to_stdout:
        print(out)


@voices_app.callback()
def voices(context: typer.Context, url: Url = None, key: Key = None, model: Model = None) -> None:
    """List what can speak, and from which checkpoint: ORPHEUS_MODEL with ORPHEUS_VOICES, or a running server."""
    from orpheus.ops.voices import remote_table, table

    if context.invoked_subcommand is not None:
        return
    settings = _settings(model=model, api_key=key)
    shown = table(settings) if url is None else remote_table(url, settings.client_headers)
    Console(width=None if sys.stdout.isatty() else 200).print(shown, markup=False, highlight=False)


@voices_app.command("try")
def try_voices(
    file: Annotated[
        str | None, typer.Argument(help="A voices file, or names as in ronan,anna:de [ORPHEUS_VOICES].")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the WAV files and the page that shows them.")] = Path(
        "voices"
    ),
    text: Annotated[
        str | None, typer.Option(help="What each says. Unset: its sample, or a greeting in its language.")
    ] = None,
    model: Model = None,
    codec: Codec = None,
) -> None:
    """Speak a line by each voice into a folder, print how long each is, and draw them on a page. Exit code 1 if one failed."""
    from orpheus.ops.voices import PAGE
    from orpheus.ops.voices import try_voices as speak_each

    settings = _settings(voices=file, model=model, codec=codec)
    logging.getLogger("orpheus").setLevel(logging.WARNING)
    lines = speak_each(settings, out, text, lambda line: print(line, flush=True))
    print(out / PAGE)
    sys.exit(1 if any(line.error for line in lines) else 0)


@app.command()
def bench(
    url: Url = None,
    key: Key = None,
    out: Annotated[Path, typer.Option(help="JSON file to write, with a picture beside it.")] = Path(
        "bench.json"
    ),
    model: Model = None,
    codec: Codec = None,
) -> None:
    """Measure how soon, how fast and for how many listeners this machine or a running pair speaks. Two minutes."""
    from orpheus.ops.bench.bench import bench_here, bench_url
    from orpheus.ops.bench.show import save, show
    from orpheus.ops.doctor.remote import wait_until_ready

    if url is not None and (model or codec):
        raise BadRequest("--url measures a running pair: leave out --model and --codec.")
    _check_writable(out)
    settings = _settings(model=model, codec=codec, fastapi_url=url, api_key=key)
    logging.getLogger("orpheus").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with console.status("Measuring") as status:

        def progress(what: str) -> None:
            status.update(f"Measuring: {what}")
            if not console.is_terminal:
                console.print(f"Measuring: {what}", markup=False, highlight=False)

        if url is None:
            result = bench_here(settings, progress)
        else:
            wait_until_ready(url, settings.client_headers, settings.cold_wait_s, progress)
            result = bench_url(url, settings.client_headers, progress)
    show(result, Console(width=None if sys.stdout.isatty() else 200))
    print(save(result, out))


@app.command()
def doctor(
    url: Url = None,
    key: Key = None,
    real: Annotated[
        bool,
        typer.Option(
            "--real",
            help="Fetch the published Orpheus and SNAC, about 4 GB, and check those, by ear as it were: each voice's "
            "first silence and last word, the first byte, how many listeners.",
        ),
    ] = False,
    model: Model = None,
    codec: Codec = None,
) -> None:
    """Check this machine or a running pair, and say what is wrong and what to do. Exit code 1 if something failed."""
    from orpheus.ops.doctor import examine, local_checks, remote_checks

    if url is not None and (real or model or codec):
        raise BadRequest("--url checks a running pair: leave out --real, --model and --codec.")
    if real:
        model, codec = model or REAL_MODEL, codec or REAL_CODEC
    settings = _settings(model=model, codec=codec, api_key=key)
    checks = (
        remote_checks(url, settings.client_headers, settings.cold_wait_s)
        if url is not None
        else local_checks(settings, thorough=bool(real or model or codec))
    )
    sys.exit(1 if examine(checks, Console(), console) else 0)


@app.command()
def fetch(model: Model = None, codec: Codec = None) -> None:
    """Fetch the weights of both tiers into the cache, so that a later start needs no network."""
    from orpheus import weights
    from orpheus.llama import trimmed_head

    settings = _settings(model=model, codec=codec)
    path = weights.find_model(settings)
    print(path)
    print(weights.find_codec(settings))
    if not settings.unconstrained:
        trimmed_head.find_or_make_checked(path, weights.find_lora(settings))


@app.command()
def settings() -> None:
    """Print every setting with its value, where the value comes from, and what it is for."""
    table = Table("setting", "value", "from", "meaning", box=None, pad_edge=False)
    for row in (*setting_rows(_settings()), *setting_rows(load_deployment())):
        table.add_row(row.name, row.value, row.source, row.description)
    wide = Console(width=None if sys.stdout.isatty() else 200)
    wide.print(table, markup=False, highlight=False)


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def _tell(sentence: str) -> None:
    """Print to standard error on one line, without the secrets that an address in it may hold."""
    console.print(redacted(sentence), soft_wrap=True, highlight=False, markup=False)


def _read_text(argument: str) -> str:
    """The text to speak: the argument, or standard input if that is '-'. BadRequest if it is not UTF-8."""
    try:
        return sys.stdin.buffer.read().decode() if argument == "-" else os.fsencode(argument).decode()
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"The text is not UTF-8 ({error.reason} at byte {error.start}): convert it first, for example with "
            "`iconv -f latin1 -t utf-8`."
        ) from error


def _read_recording(path: Path) -> bytes:
    """The bytes of a file, or of standard input if that is '-'. BadRequest if it cannot be read, or is too long."""
    from orpheus.http.body_limit import MAX_RECORDING_BYTES

    try:
        with sys.stdin.buffer if str(path) == "-" else path.open("rb") as file:
            recording = file.read(MAX_RECORDING_BYTES + 1)
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}. Name a recording.") from error
    if len(recording) > MAX_RECORDING_BYTES:
        raise BadRequest(
            f"The recording is longer than {MAX_RECORDING_BYTES} bytes: compress it, or send a shorter one."
        )
    return recording


def _check_audio_output(out: Path) -> None:
    """Raise BadRequest before the work begins if audio could not be written to a file or to standard output."""
    from orpheus.ops.say import STDOUT

    if out != STDOUT:
        _check_writable(out)
    elif sys.__stdout__ is None:
        raise BadRequest("Standard output is closed: open it, or name a file.")
    elif sys.stdout.isatty():
        raise BadRequest("Audio would garble the terminal: pipe it to a player, or name a file.")


def _check_writable(out: Path) -> None:
    """Raise BadRequest before the work begins if its result could not be written."""
    if not out.parent.is_dir():
        raise BadRequest(f"There is no folder {out.parent}: create it, or name another file with --out.")
    out = out.resolve()  # what a link leads to, if out is one
    try:
        new = not out.exists()
        if not new and not out.is_file():
            raise BadRequest(f"{str(out)!r} is not a file: name one with --out.")
        out.open("ab").close()
        if new:
            out.unlink()
    except OSError as error:
        raise BadRequest(
            f"{out} cannot be written: {error.strerror}. Name another file with --out."
        ) from error


def _settings(**options: object) -> Settings:
    settings = load_settings(**options)
    logs.configure(settings)
    for sentence in unknown_names(Settings, Deployment):
        _tell(f"orpheus: {sentence}")
    return settings


def _serve_speech(
    settings: Settings, *, in_process: bool, agent: bool = False, house: tuple[str, int] | None = None
) -> None:
    from orpheus.http.process import Process, listen
    from orpheus.ops import serve, talk
    from orpheus.server.app import create_app
    from orpheus.server.service import SpeechService

    bound = listen(settings.host, settings.port, "--port or ORPHEUS_PORT")
    tracing.configure(tracing.SPEECH)
    process = Process(settings)
    if not in_process:
        service = SpeechService.over_http(settings, process.ending_on_failure, process.end)
    else:
        service = SpeechService.in_process(settings, process.ending_on_failure, process.end)
        # Separate tiers are announced by their supervisor, or whoever runs them knows.
        announce = talk.announcer(settings, house) if agent else serve.announce
        service.on_ready = lambda: announce(settings, settings.host, bound.getsockname()[1], console)
    app = create_app(service)
    if agent:
        from orpheus.agent.app import install

        install(app, service, settings, house=listen(*house, "--wyoming") if house else None)
    process.serve(app, bound, service.drain)
