"""Probabilities of speech, a frame at a time → turns: when the human began, paused, went on and ended.

Pure: no threads and no clock. Time is the position in the audio, so that a test of ten minutes takes milliseconds and a
client that sends faster than it speaks is heard the same. And what interrupts the agent (`is_barge_in`), which needs
the words as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from orpheus.agent.vad import FRAME_MS
from orpheus.text.sentences import CLOSING, ends_sentence

START_FRAMES = 3  # in a row above the threshold: a click has one or two
HYSTERESIS = 0.15  # below the threshold, before a frame counts as quiet
END_THRESHOLD_MIN = 0.01
PAUSE_MS = 160  # of quiet, after which a transcript may be begun on suspicion
MAX_TURN_MS = (
    120_000  # whatever is still heard then: a turn must end for somebody to answer, and its audio is kept
)

# semantic_vad, by eagerness: the quiet that ends a turn whose words are a whole sentence, and any other's.
_PATIENCE_MS = {"low": (600, 2_000), "medium": (300, 1_200), "auto": (300, 1_200), "high": (300, 600)}

BARGE_IN_MS = 350  # of speech, if its words are known
BARGE_IN_WORDS = 2  # or so many of them, however fast they came
BARGE_IN_UNHEARD_MS = 800  # if they are not: longer than any "mm-hmm"
# Whisper base makes "Apple", "Bye-bye." or "Get her." of an "uh-huh" or a "yeah": of 96 murmurs in eight voices, 320 to 640 ms
# after they began, none was three words and likelier than the last of these, nor two and likelier than the first. Of 90
# sentences said into an answer, 49, 65 and 79 are believed once they have lasted 320, 480 and 640 ms (2026-11-30).
_DOUBTFUL = {2: -0.4, 3: -0.6}  # mean log probability of a token, by the number of words

Eagerness = Literal["low", "medium", "high", "auto"]


@dataclass(frozen=True)
class TurnConfig:
    """How turns are told apart: OpenAI's `turn_detection`. With no kind the client says where they end."""

    kind: Literal["server_vad", "semantic_vad"] | None = "server_vad"
    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 500
    eagerness: Eagerness = "auto"
    idle_timeout_ms: int | None = None
    create_response: bool = True
    interrupt_response: bool = True


@dataclass(frozen=True)
class SpeechStarted:
    """A turn has begun, `start_ms` into the audio, what is kept from before its first sound included."""

    start_ms: int


@dataclass(frozen=True)
class SpeechPaused:
    """Quiet for `PAUSE_MS`; the speech so far ended at `end_ms`. Its transcript may be begun; nothing may leave yet."""

    end_ms: int


@dataclass(frozen=True)
class SpeechResumed:
    """Speech again before the turn was over: what was begun at the pause is void."""


@dataclass(frozen=True)
class SpeechStopped:
    """The turn is over; `end_ms` is where its audio ends, the quiet that ended it included."""

    end_ms: int


@dataclass(frozen=True)
class SilenceTimeout:
    """No speech for `idle_timeout_ms`. Once, until there is speech or `restart_timeout` is called."""


TurnEvent = SpeechStarted | SpeechPaused | SpeechResumed | SpeechStopped | SilenceTimeout


class TurnDetector:
    """One conversation's turns."""

    def __init__(self, config: TurnConfig) -> None:
        self.position_ms = 0  # of the audio heard so far
        self._earliest_ms = 0  # where the next turn may begin: after the one before
        self.configure(config)

    def configure(self, config: TurnConfig) -> None:
        """Go on by other rules. A turn that has begun goes on too, unless turns are the client's from now on."""
        self.config = config
        if config.kind is None or self.position_ms == 0:
            self.reset()

    def reset(self) -> None:
        """Forget the turn that has begun, without an event: the client has committed or cleared its audio."""
        self.speaking = False
        self._loud_frames = 0  # in a row
        self._run_ms = 0  # where they began
        self._onset_ms = 0  # where the speech that was not interrupted by a pause began
        self._speech_end_ms = 0  # where the last loud frame ended
        self._quiet_from_ms: int | None = None
        self._paused = False
        self._turn_ms = 0  # where the turn began
        self._whole_sentence = False
        self._earliest_ms = self.position_ms
        self.restart_timeout()

    def restart_timeout(self) -> None:
        """Count `idle_timeout_ms` from here: the agent has just stopped speaking."""
        self._idle_from_ms: int | None = self.position_ms

    def set_transcript(self, text: str) -> None:
        """The words of the turn so far: with `semantic_vad` they decide how long a quiet ends it."""
        self._whole_sentence = is_whole_sentence(text)

    def speech_ms(self) -> int:
        """Of speech without a pause, up to now; 0 while it is quiet."""
        if not self.speaking or self._paused:
            return 0
        return self._speech_end_ms - self._onset_ms

    def add(self, probability: float) -> list[TurnEvent]:
        """The next frame of `FRAME_MS` → what it settles."""
        began_ms = self.position_ms
        self.position_ms += FRAME_MS
        if self.config.kind is None:
            return []
        loud = probability > self.config.threshold
        self._loud_frames = self._loud_frames + 1 if loud else 0
        if self._loud_frames == 1:
            self._run_ms = began_ms
        return self._in_turn(probability, began_ms) if self.speaking else self._between_turns()

    def _between_turns(self) -> list[TurnEvent]:
        if self._loud_frames >= START_FRAMES:
            self.speaking, self._paused, self._quiet_from_ms = True, False, None
            self._onset_ms, self._speech_end_ms = self._run_ms, self.position_ms
            self._turn_ms = max(self._earliest_ms, self._run_ms - self.config.prefix_padding_ms)
            self._whole_sentence = False
            self._idle_from_ms = None
            return [SpeechStarted(self._turn_ms)]
        timeout_ms, from_ms = self.config.idle_timeout_ms, self._idle_from_ms
        if timeout_ms is not None and from_ms is not None and self.position_ms - from_ms >= timeout_ms:
            self._idle_from_ms = None
            return [SilenceTimeout()]
        return []

    def _in_turn(self, probability: float, began_ms: int) -> list[TurnEvent]:
        events: list[TurnEvent] = []
        quiet_below = max(END_THRESHOLD_MIN, self.config.threshold - HYSTERESIS)
        if self._loud_frames:
            self._quiet_from_ms, self._speech_end_ms = None, self.position_ms
            if self._paused:
                self._paused, self._onset_ms, self._whole_sentence = False, began_ms, False
                events.append(SpeechResumed())
        elif self._quiet_from_ms is None and not probability >= quiet_below:  # nan is quiet too
            self._quiet_from_ms = began_ms
        # A frame between the two thresholds is as loud as what it follows.
        quiet_ms = 0 if self._quiet_from_ms is None else self.position_ms - self._quiet_from_ms
        if quiet_ms >= PAUSE_MS and not self._paused:
            self._paused = True
            events.append(SpeechPaused(self._speech_end_ms))
        if quiet_ms >= self._silence_ms() or self.position_ms - self._turn_ms >= MAX_TURN_MS:
            events.append(SpeechStopped(self.position_ms))
            self.reset()
        return events

    def _silence_ms(self) -> int:
        """The quiet that ends the turn; never less than a frame."""
        if self.config.kind == "server_vad":
            return max(FRAME_MS, self.config.silence_duration_ms)
        whole_ms, other_ms = _PATIENCE_MS[self.config.eagerness]
        return whole_ms if self._whole_sentence else other_ms


# A recognizer writes a full stop after anything; nobody ends with one of these.
_GOES_ON = frozenset(
    word
    for language in (
        "a an the my your his her our their and but or nor so because if when while that which who to of in on at for "
        "from with by as than into about is are was were am be um uh er erm like well then let's i'm i'd i'll you're "
        "we're they're",
        "et mais ou donc parce que le la les un une des de du mon ma euh",
        "und aber oder weil dass der die das ein eine mit äh ähm",
        "y pero o porque el los las unos una mi tu eh este",
        "e ma perché il lo gli uno di del",
    )
    for word in language.split()
)
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def is_whole_sentence(text: str) -> bool:
    """Whether the speaker may be done: the text ends as a sentence does, and not on a word that asks for another."""
    text = text.strip()
    bare = text.rstrip(CLOSING)
    if bare.endswith(("...", "…")) or ends_sentence(text, len(text), "en") is False:
        return False
    words = _WORD.findall(bare)
    # A question may end in any word: "What is it about?"
    return bool(words) and (bare.endswith(("?", "？")) or words[-1].lower().replace("’", "'") not in _GOES_ON)


def is_barge_in(speech_ms: int, text: str | None, likely: float | None = None) -> bool:
    """Whether speech over the agent's own is meant to stop it.

    Args:
        speech_ms: how long it has lasted (`TurnDetector.speech_ms`).
        text: the words so far; empty or None while they are not known.
        likely: as `is_doubtful`.
    """
    if not text or not text.strip():
        return speech_ms >= BARGE_IN_UNHEARD_MS
    if is_backchannel(text) or is_doubtful(speech_ms, text, likely):
        return False
    units = _units(text)
    return speech_ms >= BARGE_IN_MS or len(units) >= BARGE_IN_WORDS or units[:1] in _OPENERS


def is_doubtful(speech_ms: int, text: str, likely: float | None) -> bool:
    """Whether words are so short, few or unsure that they may be a murmur: an "uh-huh" is recognized as "Apple".

    Args:
        speech_ms: how long they took.
        likely: mean log probability of their tokens; None if it is not known, and then they are believed.
    """
    if likely is None or speech_ms >= BARGE_IN_UNHEARD_MS:
        return False
    units = _units(text)
    words = len(units) if _CHINESE.search(text) else len(text.split())
    return units[:1] not in _OPENERS and likely < _DOUBTFUL.get(min(words, 3), 0.0)


def is_backchannel(text: str) -> bool:
    """Whether these words only say that somebody listens ("mm-hmm", "yeah, okay"): no turn while the agent speaks."""
    units = _units(text)
    at = 0
    while at < len(units):
        taken = next(
            (
                size
                for size in range(min(_LONGEST, len(units) - at), 0, -1)
                if " ".join(units[at : at + size]) in _BACKCHANNELS
            ),
            0,
        )
        if not taken and not _MURMUR.fullmatch(units[at]):
            return False
        at += taken or 1
    return 0 < len(units) <= _MOST_UNITS


def is_murmur_text(text: str) -> bool:
    """Whether this is no word at all ("hmm", "uh-huh"), but a sound one also makes to oneself."""
    units = _units(text)
    return bool(units) and all(_MURMUR.fullmatch(unit) for unit in units)


_MOST_UNITS = 6  # "yeah, yeah, yeah": more is a speech
_CHINESE = re.compile(r"[\u3400-\u9fff]")
_UNIT = re.compile(
    r"[\u3400-\u9fff]|(?:(?![\u3400-\u9fff])[^\W_]|[\u0900-\u0963\u0966-\u097f])+(?:['’](?:(?![\u3400-\u9fff])[^\W_])+)*"
)
# mm, n, mhm, hmm, uh-huh, aha, ah, oh: however long, and however a recognizer spells them
_MURMUR = re.compile(r"m+h*m*|n+|h+m+|mm*h+|u+[hm]+|hu+[hm]+|a+h+a*|o+h+|e+h+|a+ha+|ä+h+m*|aj[aá]|h?u+m+")
_BACKCHANNELS = frozenset(
    phrase.strip()
    for line in (
        "yeah, yep, yup, yes, yes sir, ya, ok, okay, kay, right, sure, alright, all right, i see, i c, i know, got it, gotcha, wow, "
        "really, cool, nice, great, good, true, exactly, indeed, of course, makes sense, fair enough, interesting, "
        "uh huh, oh really, go on, i got it, oh wow, no way",
        "oui, ouais, d'accord, dac, je vois, ah bon, bien sûr, voilà, tout à fait, c'est ça, ça marche, super, exact",
        "ja, jo, genau, achso, ach so, ach ja, stimmt, klar, alles klar, richtig, gut, verstehe, ich verstehe, na klar, "
        "natürlich, aha",
        "sí, si, vale, claro, ya, bueno, de acuerdo, ya veo, entiendo, exacto, muy bien, bien, por supuesto",
        "sì, certo, va bene, capito, ho capito, esatto, giusto, d'accordo, bene, ecco, già, ah sì, perfetto",
        "네, 예, 응, 어, 음, 아, 그래, 그래요, 그렇군요, 그렇구나, 맞아, 맞아요, 네네, 알겠어요, 알겠습니다, 아하, 오",
        "हाँ, हां, जी, जी हाँ, जी हां, अच्छा, ठीक, ठीक है, सही, सही है, हम्म, हूँ, ओह, बिल्कुल, समझ गया, समझ गई",
        "嗯, 对, 好, 是, 哦, 啊, 噢, 唔, 行, 好 的, 是 的, 对 的, 是 啊, 对 啊, 好 吧, 没 错, 知 道 了, 明 白, 原 来 如 此, 當 然, 当 然, 對",
    )
    for phrase in line.split(",")
)
# How those begin who do interrupt, with a word that no murmur is taken for.
_OPENERS = [
    [word]
    for words in (
        "stop wait no hey hold hang excuse sorry pardon listen enough quiet but actually never what who whose where when "
        "why which how can could would tell go let's please that's turn make",
        "arrête arrêtez attends attendez non stop pardon mais assez quoi qui où quand pourquoi comment quel quelle dis",
        "stopp halt warte warten nein moment aber genug was wer wo wann warum wieso wie welche kannst können sag entschuldigung",
        "para espera no perdona perdón pero basta qué quién dónde cuándo cómo oye dime puedes",
        "ferma fermati aspetta no scusa scusi ma basta che cosa chi dove quando perché come senti dimmi puoi",
        "잠깐 잠깐만 잠시만 아니 아니요 그만 멈춰 근데 그런데 뭐 왜 어떻게 누가 누구 어디 언제 저기",
        "रुको रुकिए नहीं बस लेकिन मगर क्या क्यों कैसे कौन कहाँ कब सुनो सुनिए",
        "等 停 不 别 別 但 什 怎 为 為 谁 誰 哪 请 請 先",
    )
    for word in words.split()
]
_LONGEST = max(phrase.count(" ") + 1 for phrase in _BACKCHANNELS)


def _units(text: str) -> list[str]:
    """The words in lower case; a Chinese character is one, and so is each part of "mm-hmm"."""
    return [unit.lower().replace("’", "'") for unit in _UNIT.findall(text)]
