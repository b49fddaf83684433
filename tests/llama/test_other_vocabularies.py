"""Fine-tunes whose tokens of speech have other ids, or no names, as llama.cpp loads them: random weights."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import gguf
import pytest

from orpheus.llama.engine import Completion, Engine
from orpheus.llama.trimmed_head import find_or_make
from orpheus.prompt import turn_text
from orpheus.sampling import Sampling
from orpheus.vocabulary import END_OF_SPEECH, LAST_CODE, SLOTS, slot_and_code, token_text
from tests.support.llama import collect, load
from training import random_gguf
from training.random_gguf import TINY, write_gguf

SPEECH = LAST_CODE + 1
LFM2 = 64_400  # its own tokens: fewer than Llama's, so that the file is small
START, END = 1, 7


@pytest.fixture(scope="module", params=["named", "unnamed", "trimmed"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A model over LFM 2's vocabulary, whose converter knew the names of its tokens of speech, or did not; or without its text."""
    normal, control, unused = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL, gguf.TokenType.UNUSED
    named = request.param != "unnamed"
    tokens = [f"text {number}" for number in range(LFM2)]
    kinds = [normal] * LFM2
    from_bytes = [chr(0x100 + byte) for byte in range(0x21)] + [chr(byte) for byte in range(0x21, 0x7F)]
    tokens[100 : 100 + len(from_bytes)] = from_bytes  # as GPT-2 writes the bytes of ASCII
    tokens[START], tokens[END] = "<|startoftext|>", "<|im_end|>"
    kinds[START] = kinds[END] = control
    tokens += [token_text(n) if named else f"[PAD{LFM2 + n}]" for n in range(SPEECH)]
    kinds += [gguf.TokenType.USER_DEFINED if named else unused] * SPEECH
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random_gguf, "VOCABULARY", len(tokens))
        patch.setattr(random_gguf, "_vocabulary", lambda _: (tokens, kinds))
        patch.setattr(random_gguf, "_TEXT", START)
        path: Path = write_gguf(tmp_path_factory.mktemp("lfm2") / "tiny.gguf", TINY)
    trimmed = find_or_make(path) if request.param == "trimmed" else None
    assert trimmed is None or trimmed.first_id == LFM2 + END_OF_SPEECH
    engine = load(path, streams=1, context_tokens=256, trimmed=trimmed)
    yield engine
    engine.close()


def test_it_generates_whole_frames_after_the_turn_of_its_own_vocabulary(engine: Engine) -> None:
    prompt = engine.tokenize_prompt(turn_text("ronan", "Hi."))
    assert prompt[:2] == (LFM2 + 3, START)
    assert prompt[-4:] == (END, LFM2 + 4, LFM2 + 5, LFM2 + 1)

    async def generate() -> list[int]:
        return await collect(engine.submit(Completion(prompt, 3 * SLOTS, Sampling(seed=1))))

    numbers = asyncio.run(generate())
    assert len(numbers) == 3 * SLOTS
    assert [found[0] for number in numbers if (found := slot_and_code(number))] == [*range(SLOTS)] * 3


def test_a_prompt_of_ones_own_is_made_of_its_tokens_too(engine: Engine) -> None:
    whole = "<custom_token_3><|begin_of_text|>Hi<|eot_id|><custom_token_1>"
    ids = engine.tokenize_prompt(whole, verbatim=True)
    assert (ids[0], ids[1], ids[-2], ids[-1]) == (LFM2 + 3, START, END, LFM2 + 1)
    assert all(100 <= token < 300 for token in ids[2:-2])
