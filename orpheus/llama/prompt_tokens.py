"""Prompt text → token ids, such that nothing in the text can become a control token; and how many tokens may follow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from orpheus.errors import BadRequest
from orpheus.llama.completion import Completion
from orpheus.prompt import read_turn, split_control, strip_control
from orpheus.vocabulary import (
    END_OF_HUMAN,
    SLOTS,
    START_OF_AI,
    START_OF_HUMAN,
    START_OF_SPEECH,
    Vocabulary,
    slot_and_code,
)

if TYPE_CHECKING:
    from orpheus.llama.backend import Model

# Tokenizing blocks the caller. Without these bounds a request of a megabyte blocked for 20 s, and 30,000 characters of
# punctuation in a row overflowed the stack of llama.cpp's std::regex, which ends the process. Minutes of speech fit.
MAX_PROMPT_CHARS = 4096
MAX_PROMPT_TEXTS = 64


def prompt_ids(model: Model, prompt: str, *, verbatim: bool = False) -> tuple[int, ...]:
    """Token ids of a text prompt, as `Engine.tokenize_prompt` describes them. BadRequest if it is empty or too long."""
    if not prompt:
        raise BadRequest("The prompt is empty.", param="prompt")
    check_texts([prompt])
    if verbatim:
        return tuple(_verbatim_ids(model, prompt))
    vocabulary, control = model.vocabulary, model.vocabulary.control
    inner = read_turn(prompt)
    if inner is None:
        return tuple(model.tokenize(prompt, add_bos=True, parse_special=True))
    # llama.cpp parses user-defined tokens even without `parse_special`, so they are removed from the text first, and
    # any that is left from the ids.
    ids = model.tokenize(strip_control(inner), add_bos=False, parse_special=False)
    banned = {vocabulary.begin_of_text, vocabulary.end_of_turn}
    text = [token for token in ids if token not in banned and vocabulary.number_of_id(token) is None]
    head = (control[START_OF_HUMAN], vocabulary.begin_of_text)
    tail = (control[END_OF_HUMAN], control[START_OF_AI], control[START_OF_SPEECH])
    return (*head, *text, vocabulary.end_of_turn, *tail)


def _verbatim_ids(model: Model, prompt: str) -> Iterator[int]:
    """Control tokens by their published names, which a vocabulary may call otherwise or not at all."""
    for part in split_control(prompt):
        token = model.vocabulary.control_id(part)
        if token is not None:
            yield token
        elif part:
            yield from model.tokenize(part, add_bos=False, parse_special=True)


def check_texts(texts: Sequence[str]) -> None:
    """BadRequest if there is more to tokenize than a prompt may hold."""
    chars = sum(map(len, texts))
    if chars > MAX_PROMPT_CHARS:
        raise BadRequest(
            f"The prompt has {chars} characters; the limit is {MAX_PROMPT_CHARS}. Shorten it.", param="prompt"
        )
    if len(texts) > MAX_PROMPT_TEXTS:
        raise BadRequest(
            f"The prompt has {len(texts)} texts between its ids; the limit is {MAX_PROMPT_TEXTS}. Join them.",
            param="prompt",
        )


def generation_limit(completion: Completion, vocabulary: Vocabulary, context_tokens: int) -> tuple[int, int]:
    """(most tokens to generate, in whole frames; slot of the first). BadRequest if not one frame fits."""
    prompt = completion.prompt
    if not prompt:
        raise BadRequest("The prompt is empty.", param="prompt")
    left = context_tokens - len(prompt)
    first_slot = 0
    if completion.constrained:
        # Audio tokens at the end of a prompt begin a frame, which is continued.
        number = vocabulary.number_of_id(prompt[-1])
        audio = slot_and_code(number) if number is not None else None
        first_slot = (audio[0] + 1) % SLOTS if audio else 0
    least = SLOTS - first_slot if completion.constrained else 1
    if left < least:
        raise BadRequest(
            f"The prompt has {len(prompt)} tokens and the context {context_tokens}: not one frame of speech would fit. "
            "Shorten the text, or raise ORPHEUS_CONTEXT_TOKENS.",
            param="prompt",
            code="context_length_exceeded",
        )
    if not all(0 <= token < vocabulary.size for token in prompt):  # after the length: it visits every token
        raise BadRequest(
            f"The prompt holds an id outside the vocabulary of {vocabulary.size}.", param="prompt"
        )
    if completion.max_tokens < least:
        raise BadRequest(f"max_tokens must be {least} or more: one frame.", param="max_tokens")
    limit = min(completion.max_tokens, left)
    if completion.constrained:
        limit = (limit + first_slot) // SLOTS * SLOTS - first_slot
    return limit, first_slot
