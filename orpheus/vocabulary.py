"""Audio tokens: their names, numbers and ids, and the slot of a frame and the SNAC code that each stands for.

A token's number is the N of `<custom_token_N>`: the same in every checkpoint, while ids differ from one vocabulary to
the next (published Orpheus: id = 128256 + N). From Orpheus-TTS's decoder.py and the published tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orpheus.errors import WeightsError

SLOTS = 7  # positions in a frame, one token each
FRAME_S = 2048 / 24000  # seconds of audio in a frame
TOKENS_PER_S = SLOTS / FRAME_S  # of speech in real time: 82
CODES_PER_SLOT = 4096  # numbers reserved for a slot, whatever the codebook's size
FIRST_CODE = 10  # the number of code 0 of slot 0
LAST_CODE = FIRST_CODE + SLOTS * CODES_PER_SLOT - 1  # 28681
PUBLISHED_BASE_ID = 128256  # id of <custom_token_0> in the published vocabulary
PUBLISHED_TOKENS = (
    PUBLISHED_BASE_ID + LAST_CODE + 1
)  # 156938; a vocabulary with as many has the published ids

START_OF_SPEECH = 1
END_OF_SPEECH = 2  # the true stop, whatever end token the file declares
START_OF_HUMAN = 3
END_OF_HUMAN = 4
START_OF_AI = 5
END_OF_AI = 6

BEGIN_OF_TEXT = "<|begin_of_text|>"
END_OF_TURN = "<|eot_id|>"
LEGACY_AUDIO = "<|audio|>"  # older front ends open their prompts with it; the trained turn has no such token

_TOKEN = re.compile(r"<custom_token_(\d{1,9})>")


class _Base(NamedTuple):
    """A language model's vocabulary that speech tokens were added to."""

    begin_of_text: str
    end_of_turn: str
    end_of_turn_id: int
    size: int  # tokens before the first of speech, where the training scripts count from


# Llama 3.2, which the published Orpheus is; Qwen 3 and LFM 2, of VyvoTTS' models.
_BASES = (
    _Base(BEGIN_OF_TEXT, END_OF_TURN, 128_009, PUBLISHED_BASE_ID),
    _Base("<|endoftext|>", "<|im_end|>", 151_645, 151_669),
    _Base("<|startoftext|>", "<|im_end|>", 7, 64_400),
)


def token_text(number: int) -> str:
    """The token as text, as llama.cpp renders it."""
    return f"<custom_token_{number}>"


def number_of(slot: int, code: int) -> int:
    """The number of `code` (below CODES_PER_SLOT) in `slot` (below SLOTS)."""
    return FIRST_CODE + slot * CODES_PER_SLOT + code


def slot_and_code(number: int) -> tuple[int, int] | None:
    """(slot, code) of an audio token's number, or None for any other number. Code 0 is legal."""
    if not FIRST_CODE <= number <= LAST_CODE:
        return None
    return divmod(number - FIRST_CODE, CODES_PER_SLOT)


class TokenTextParser:
    """Text that arrives split anywhere → token numbers. Text between tokens is skipped."""

    _LONGEST_TOKEN = len("<custom_token_>") + 9

    def __init__(self) -> None:
        self._tail = ""

    def parse(self, text: str) -> list[int]:
        """The numbers of the tokens that `text` completes."""
        text = self._tail + text
        # Only what follows the last "<" can still become a token; bounded against endless text.
        start = text.rfind("<")
        is_open = start >= 0 and len(text) - start < self._LONGEST_TOKEN and text.find(">", start) < 0
        self._tail = text[start:] if is_open else ""
        return [int(number) for number in _TOKEN.findall(text)]


def numbers_from_published_ids(ids: Iterable[int]) -> list[int]:
    """Token numbers of ids in the published vocabulary; ids of text tokens are skipped."""
    return [token - PUBLISHED_BASE_ID for token in ids if token >= PUBLISHED_BASE_ID]


def frame_to_layers(frames: NDArray[np.integer]) -> list[NDArray[np.int64]]:
    """Codes of frames (n, 7) → the codes of SNAC's three layers (n,), (2n,), (4n,), in time order.

    Slot 0 is the coarse layer; 1 and 4 the middle one; 2, 3, 5, 6 the fine one.
    """
    frames = np.asarray(frames, dtype=np.int64).reshape(-1, SLOTS)
    return [
        frames[:, 0].copy(),
        frames[:, [1, 4]].reshape(-1),
        frames[:, [2, 3, 5, 6]].reshape(-1),
    ]


@dataclass(frozen=True)
class Vocabulary:
    """The ids of one checkpoint, read from its token list.

    `code_ids[s]` is a contiguous range of ids, from code `first_codes[s]` of slot s on. Small checkpoints have fewer
    than CODES_PER_SLOT codes per slot, and not all of them begin at 0: what exists is what is legal.
    """

    size: int
    begin_of_text: int
    end_of_turn: int
    control: dict[int, int]  # number → id, for the control numbers below FIRST_CODE that exist
    code_ids: tuple[range, ...]  # one range of ids per slot
    first_codes: tuple[int, ...] = (0,) * SLOTS

    @property
    def end_of_speech(self) -> int:
        return self.control[END_OF_SPEECH]

    @property
    def codes(self) -> int:
        """Legal codes per slot."""
        return len(self.code_ids[0])

    @property
    def span(self) -> int:
        """One more than the highest legal code: the size of codebook that a codec needs."""
        return max(self.first_codes) + self.codes

    def id_of(self, number: int) -> int:
        """Id of a control token or an audio token. KeyError if the checkpoint has none."""
        audio = slot_and_code(number)
        if audio is None:
            return self.control[number]
        slot, code = audio
        ids, offset = self.code_ids[slot], code - self.first_codes[slot]
        if not 0 <= offset < len(ids):
            raise KeyError(number)
        return ids[offset]

    def control_id(self, text: str) -> int | None:
        """Id of a token of speech, or of the bounds of a text, by the published name; None for any other text."""
        if text == BEGIN_OF_TEXT:
            return self.begin_of_text
        if text == END_OF_TURN:
            return self.end_of_turn
        match = _TOKEN.fullmatch(text)
        try:
            return self.id_of(int(match[1])) if match else None
        except KeyError:
            return None

    def number_of_id(self, token: int) -> int | None:
        """Number of a token id, or None for a text token."""
        for slot, ids in enumerate(self.code_ids):
            if token in ids:
                return number_of(slot, self.first_codes[slot] + token - ids.start)
        for number, control_id in self.control.items():
            if token == control_id:
                return number
        return None

    def moved(self, by: int) -> Vocabulary:
        """The same tokens at ids that are lower by so many: the columns of logits that begin with the token `by`."""
        return replace(
            self,
            begin_of_text=self.begin_of_text - by,
            end_of_turn=self.end_of_turn - by,
            control={number: token - by for number, token in self.control.items()},
            code_ids=tuple(range(ids.start - by, ids.stop - by) for ids in self.code_ids),
        )

    @classmethod
    def from_tokens(cls, tokens: Iterable[str], source: str) -> Vocabulary:
        """Read a vocabulary from its token texts in id order; `source` names it in errors.

        The names of the tokens tell where speech begins. A fine-tune that was saved with the tokenizer of its language
        model has no names for them, and then they are where the training scripts put them: after that model's own.

        WeightsError if tokens that speech needs are missing.
        """
        bounds = {text for base in _BASES for text in base[:2]}
        numbers: dict[int, int] = {}
        named: dict[str, int] = {}
        unnamed: set[int] = set()
        size = 0
        for token_id, text in enumerate(tokens):
            size += 1
            if text.startswith("<custom_token_") and (match := _TOKEN.fullmatch(text)):
                numbers[int(match.group(1))] = token_id
            elif text in bounds:
                named[text] = token_id
            elif text.startswith("[PAD") and text == f"[PAD{token_id}]":
                unnamed.add(token_id)  # llama.cpp's converter: in the weights, but not in the tokenizer
        known = [base for base in _BASES if base.begin_of_text in named and base.end_of_turn in named]
        # By its ids, as Qwen's names are LFM's too; of a smaller vocabulary, such as the embedded one, by its names.
        original = [base for base in known if named[base.end_of_turn] == base.end_of_turn_id]
        base = (*original, *known, _BASES[0])[0]
        if not numbers and original:
            speech = range(base.size, base.size + LAST_CODE + 1)
            if unnamed.issuperset(speech):
                numbers = dict(enumerate(speech))
        needed = [*range(START_OF_SPEECH, END_OF_AI)]
        firsts = []
        for slot in range(SLOTS):
            reserved = range(number_of(slot, 0), number_of(slot + 1, 0))
            firsts.append(next((number for number in reserved if number in numbers), reserved.start))
        missing = [token_text(number) for number in (*needed, *firsts) if number not in numbers]
        missing += [text for text in (base.begin_of_text, base.end_of_turn) if text not in named]
        if missing:
            raise WeightsError(
                f"{source} is not an Orpheus model: its vocabulary of {size} has no {missing[0]}. Set ORPHEUS_MODEL "
                "to an Orpheus GGUF, such as lex-au/Orpheus-3b-FT-Q8_0.gguf, or to 'embedded'."
            )
        code_ids = []
        for slot, number in enumerate(firsts):
            start, count = numbers[number], 0
            while number + count < number_of(slot + 1, 0) and numbers.get(number + count) == start + count:
                count += 1
            code_ids.append(range(start, start + count))
        if len({len(ids) for ids in code_ids}) != 1:
            raise WeightsError(
                f"{source} has a damaged vocabulary: its slots have different numbers of audio codes "
                f"({', '.join(str(len(ids)) for ids in code_ids)}). Fetch the file again."
            )
        return cls(
            size=size,
            begin_of_text=named[base.begin_of_text],
            end_of_turn=named[base.end_of_turn],
            control={number: numbers[number] for number in range(FIRST_CODE) if number in numbers},
            code_ids=tuple(code_ids),
            first_codes=tuple(first - number_of(slot, 0) for slot, first in enumerate(firsts)),
        )
