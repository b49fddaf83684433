"""`orpheus voices`: what can speak, and from which checkpoint; `orpheus voices try`: a line by each, to hear and see."""

from __future__ import annotations

import asyncio
import base64
import html
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from orpheus import weights
from orpheus.errors import BadRequest, NotReady, OrpheusError
from orpheus.languages import name_of
from orpheus.pcm import Pcm
from orpheus.settings import EMBEDDED, Settings
from orpheus.voices import VOICES, Voice, compared, model_of, voices_of

if TYPE_CHECKING:
    from orpheus.server.service import SpeechService

LIST_TIMEOUT_S = 10.0
SEED = 1  # so that another run sounds the same
PAGE = "index.html"
# A line in each language that many fine-tunes speak; a voice of another needs a `sample`.
SAMPLES = {
    "ar": "مرحبًا، هذا صوتي.", "bn": "নমস্কার, এটি আমার কণ্ঠ।", "de": "Hallo, das ist meine Stimme.",
    "en": "Hello, this is my voice.", "es": "Hola, esta es mi voz.", "fa": "سلام، این صدای من است.",
    "fr": "Bonjour, voici ma voix.", "hi": "नमस्ते, यह मेरी आवाज़ है।", "it": "Ciao, questa è la mia voce.",
    "ja": "こんにちは、これが私の声です。", "ko": "안녕하세요, 이것이 제 목소리입니다.", "nl": "Hallo, dit is mijn stem.",
    "pl": "Cześć, to jest mój głos.", "pt": "Olá, esta é a minha voz.", "ru": "Здравствуйте, это мой голос.",
    "ta": "வணக்கம், இது என் குரல்.", "te": "నమస్కారం, ఇది నా గొంతు.", "tr": "Merhaba, bu benim sesim.",
    "uk": "Привіт, це мій голос.", "ur": "السلام علیکم، یہ میری آواز ہے۔", "vi": "Xin chào, đây là giọng của tôi.",
    "zh": "你好，这是我的声音。",
}  # fmt: skip
WINDOW, PIXELS_PER_S, FLOOR_DB = 1024, 150, -80.0  # of a spectrogram
# Silence to full scale: black, violet, orange, white.
_COLOURS = np.array([(10, 8, 24), (92, 28, 120), (236, 104, 56), (255, 246, 214)], np.float32)


def table(settings: Settings) -> Table:
    """The voices of the model that the settings name, and then those of the published ones that it stands beside."""
    loaded = voices_of(weights.model_name(settings), settings.own_voices)
    model = weights.model_name(settings) + (f" with {settings.lora}" if settings.lora else "")
    taken = {name for voice in loaded.all for name in voice.names}
    others = [voice for voice in VOICES.values() if loaded.published and compared(voice.id) not in taken]
    shown = _empty_table()
    for voice, checkpoint in chain(
        ((voice, model) for voice in loaded.all),
        ((voice, f"ORPHEUS_MODEL={model_of(voice).repository}") for voice in others),
    ):
        gender, aliases = voice.gender or "", ", ".join(voice.aliases)
        shown.add_row(voice.id, voice.name, name_of(voice.language), gender, aliases, checkpoint)
    return shown


def remote_table(url: str, headers: dict[str, str]) -> Table:
    """The voices that a running server lists. NotReady if it does not."""
    shown = _empty_table()
    try:
        answer = httpx.get(f"{url.rstrip('/')}/v1/audio/voices", headers=headers, timeout=LIST_TIMEOUT_S)
        for voice in answer.raise_for_status().json()["voices"]:
            row = (voice["id"], voice["name"], name_of(voice["language"]), voice.get("gender") or "", "", url)
            shown.add_row(*map(str, row))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotReady(f"{url} does not list its voices ({type(error).__name__}): is it a tier 2?") from error
    return shown


def _empty_table() -> Table:
    return Table("voice", "name", "language", "gender", "also", "checkpoint", box=None, pad_edge=False)


@dataclass(frozen=True)
class Line:
    """What one voice was asked to say, and what came of it."""

    voice: Voice
    text: str
    file: str
    duration_s: float = 0.0
    spectrogram: bytes = b""  # a PNG
    error: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {self.error or f'{self.duration_s:.2f} s'}"


def line_for(voice: Voice, text: str | None) -> str:
    """What a voice says to be heard: `text`, its sample, or one in its language. BadRequest if there is none."""
    line = text or voice.sample or SAMPLES.get(voice.language)
    if line is None:
        raise BadRequest(
            f"There is no line in {name_of(voice.language)} for the voice {voice.id!r}: give it a `sample` in "
            "ORPHEUS_VOICES, or name one with --text."
        )
    return line


def try_voices(
    settings: Settings, folder: Path, text: str | None, tell: Callable[[Line], None]
) -> list[Line]:
    """A line by each voice, as WAV files in `folder` with a page that shows them; both tiers run in this process.

    A voice that fails is told and does not keep the others from speaking. Raises OrpheusError if none can.
    """
    listed = voices_of(weights.model_name(settings), settings.own_voices).all
    asked = [(voice, line_for(voice, text)) for voice in listed]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lines = asyncio.run(_speak_all(settings, folder, asked, tell))
        (folder / PAGE).write_text(page(lines, weights.model_name(settings)), encoding="utf-8")
    except OSError as error:
        raise BadRequest(f"{folder} cannot be written: {error.strerror}. Name another with --out.") from error
    return lines


async def _speak_all(
    settings: Settings, folder: Path, asked: Sequence[tuple[Voice, str]], tell: Callable[[Line], None]
) -> list[Line]:
    # Imported here: the list needs neither torch nor llama.cpp, which take seconds to import.
    from orpheus.server.service import SpeechService

    lines = []
    service = SpeechService.in_process(settings)
    async with service.running():
        await service.loaded()
        for number, (voice, text) in enumerate(asked, 1):
            line = Line(voice, text, _file_name(number, voice))
            try:
                pcm = await _speak(service, voice, text)
            except OrpheusError as error:
                line = replace(line, error=str(error))
            else:
                line = await asyncio.to_thread(_save, line, folder, pcm, service.pipeline.sample_rate)
            tell(line)
            lines.append(line)
    return lines


def _save(line: Line, folder: Path, pcm: Pcm, rate: int) -> Line:
    """Write the WAV file; returns the line with what it has become."""
    from orpheus.tts.encode import wav_header

    data = (np.clip(pcm, -1, 1) * 32767).astype("<i2").tobytes()
    (folder / line.file).write_bytes(wav_header(rate, len(data)) + data)
    return replace(line, duration_s=len(pcm) / rate, spectrogram=spectrogram(pcm, rate))


async def _speak(service: SpeechService, voice: Voice, text: str) -> Pcm:
    """The samples of a text at the codec's rate."""
    from orpheus.server.schema import SpeechRequest
    from orpheus.tts.usage import Usage

    params = service.params(SpeechRequest(input=text, voice=voice.id, response_format="pcm", seed=SEED))
    source = service.segment(text, params).source()
    async with aclosing(service.pipeline.speak(source, params, Usage())) as samples:
        parts = [pcm async for pcm in samples]
    return np.concatenate(parts)


def _file_name(number: int, voice: Voice) -> str:
    name = re.sub(r"[^\w-]+", "-", voice.id).strip("-")[:40]
    return f"{number:02d}-{name or 'voice'}.wav"


def spectrogram(pcm: Pcm, rate: int) -> bytes:
    """A PNG of how loud each frequency is over time: 0 Hz at the bottom, half of `rate` at the top."""
    hop = max(1, rate // PIXELS_PER_S)
    padded = np.pad(pcm, (WINDOW // 2, WINDOW // 2))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::hop]
    levels = np.abs(np.fft.rfft(frames * np.hanning(WINDOW), axis=1))[:, 1:].T
    levels = levels.reshape(WINDOW // 8, 4, -1).max(axis=1)  # a row holds the loudest of four bins
    db = 20 * np.log10(np.maximum(levels / (WINDOW / 4), 10 ** (FLOOR_DB / 20)))
    return _png(_coloured(1 - np.flipud(db) / FLOOR_DB))


def _coloured(levels: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Levels from 0 to 1 → RGB."""
    at = np.linspace(0, 1, len(_COLOURS))
    channels = [np.interp(levels, at, _COLOURS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    import av

    height, width, _ = pixels.shape
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "rgb24"
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    packets = [*encoder.encode(frame), *encoder.encode(None)]
    return b"".join(map(bytes, packets))


_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
article { margin: 1.5rem 0 2.5rem; }
h2 { margin: 0; font-size: 1.2rem; } h2 small { font-weight: normal; opacity: .7; }
p { margin: .25rem 0 .5rem; }
figure { margin: 0; overflow-x: auto; } img { display: block; height: 160px; border-radius: 4px; }
figcaption { font-size: .85rem; opacity: .7; } audio { display: block; margin-top: .5rem; }
.error { color: light-dark(#a01818, #ff8a80); }
"""


def page(lines: Sequence[Line], model: str) -> str:
    """One HTML page with every line: its words, its sound, its spectrogram. Loads nothing but the files beside it."""
    body = "\n".join(map(_article, lines))
    title = f"Voices of {'the embedded model' if model == EMBEDDED else model}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n'
        f"<h1>{html.escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def _article(line: Line) -> str:
    voice = line.voice
    about = ", ".join(filter(None, (name_of(voice.language), voice.gender)))
    said = f'<p lang="{html.escape(voice.language)}" dir="auto">{html.escape(line.text)}</p>'
    return "\n".join((
        "<article>",
        f"<h2>{html.escape(voice.name)} <small>{html.escape(about)}</small></h2>",
        said,
        *(_heard(line) if not line.error else [f'<p class="error">{html.escape(line.error)}</p>']),
        "</article>",
    ))  # fmt: skip


def _heard(line: Line) -> Iterator[str]:
    picture = base64.b64encode(line.spectrogram).decode()
    yield f'<figure><img src="data:image/png;base64,{picture}" alt="Spectrogram of {html.escape(line.voice.name)}">'
    yield f"<figcaption>{line.duration_s:.2f} s, 0 to 12 kHz</figcaption></figure>"
    yield f'<audio controls preload="metadata" src="{html.escape(line.file)}"></audio>'
