"""Which model tier 1 serves, and what follows from it: its codec, its voices, how much to ask for at once.

Tokens of one model decode through another's codec without an error, into noise. So tier 2 does not guess: it goes by
what tier 1 says at `/v1/models`, and else by ORPHEUS_MODEL. A tier 1 that says nothing, with ORPHEUS_MODEL unset, is
taken to serve the published model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from orpheus import embedded
from orpheus.errors import NotReady, SetupError
from orpheus.sampling import LLAMA_CPP_ANY_SEED
from orpheus.settings import EMBEDDED, REAL_CODEC, REAL_MODEL, SERVED_NAME, Settings
from orpheus.vocabulary import PUBLISHED_TOKENS, SLOTS
from orpheus.voices import languages_of

if TYPE_CHECKING:
    from orpheus.codec.checkpoint import CodecConfig

SEGMENT_CHARS = 280  # most characters generated in one go
SEGMENT_TOKENS = 2048  # the context that so many need, prompt and speech
# The embedded voice learned single sentences: with two or three in one go it gets a word in five wrong.
EMBEDDED_SEGMENT_CHARS, EMBEDDED_JOIN_CHARS = 110, 50
SHORTEST_CONTEXT_TOKENS = 256  # half a sentence
NARROW_SEED_MASK = (1 << 31) - 1  # llama-server keeps 32 bits of a seed; vLLM refuses more than 63


@dataclass(frozen=True)
class ServedModel:
    """A model at a completions endpoint, as far as it is known."""

    name: str  # as ORPHEUS_MODEL would name it
    id: str = SERVED_NAME  # what a request calls it
    vocabulary: int | None = None  # tokens
    codes_per_slot: int | None = None
    context_tokens: int | None = None  # of prompt and speech together
    refuses_longer: bool = False  # a request for more than that, where other servers stop at it
    wide_seeds: bool = False  # all 64 bits of a seed count
    fingerprint: str | None = None  # of the weights; in the header of each of our tier 1's answers

    @property
    def embedded(self) -> bool:
        """Whether it is the embedded voice: by its vocabulary, or if that is not known by its name."""
        return self.name == EMBEDDED if self.vocabulary is None else self.vocabulary == embedded.VOCABULARY

    @property
    def published(self) -> bool:
        """Whether it has the published vocabulary."""
        return self.vocabulary is not None and self.vocabulary >= PUBLISHED_TOKENS

    @property
    def codec(self) -> str:
        """The codec it was trained with, as ORPHEUS_CODEC would name it."""
        return EMBEDDED if self.embedded else REAL_CODEC

    @property
    def segment_chars(self) -> int:
        """Most characters generated in one go."""
        most = EMBEDDED_SEGMENT_CHARS if self.embedded else SEGMENT_CHARS
        return min(most, SEGMENT_CHARS * (self.context_tokens or SEGMENT_TOKENS) // SEGMENT_TOKENS)

    @property
    def join_chars(self) -> int | None:
        """Sentences shorter than this share a segment; None for as many as fit."""
        return EMBEDDED_JOIN_CHARS if self.embedded else None

    def most_tokens(self, prompt: str, wanted: int) -> int:
        """As many of the `wanted` tokens as may be asked for with this prompt."""
        if not self.refuses_longer or self.context_tokens is None:
            return wanted
        # No tokenizer here makes more tokens of a text than it has bytes.
        return max(SLOTS, min(wanted, self.context_tokens - len(prompt.encode())))

    def fits(self, codec: CodecConfig) -> bool:
        """Whether its tokens can be spoken by this codec, as far as is known; a voice of one's own may be."""
        # Here, as it imports torch, which not every client of tier 1 has.
        from orpheus.codec.checkpoint import PUBLISHED, read_config

        if (self.codes_per_slot or 0) > codec.codes:
            return False
        if self.published:
            return codec != read_config(embedded.CODEC)
        return codec != PUBLISHED or self.vocabulary != embedded.VOCABULARY

    def seed(self, seed: int) -> int:
        """`seed` as this server takes it: the same one always gives the same, and no other's meaning of "any"."""
        if not self.wide_seeds:
            return seed & NARROW_SEED_MASK
        return seed + 1 if seed == LLAMA_CPP_ANY_SEED else seed

    def __str__(self) -> str:
        size = f" with a vocabulary of {self.vocabulary:,}" if self.vocabulary else ""
        return f"the model {PurePath(self.id).name!r}{size}"  # of a path on tier 1's disk only the file


def named_model(settings: Settings) -> ServedModel:
    """What the settings say of the model, where tier 1 says nothing."""
    return ServedModel(settings.model or REAL_MODEL, settings.model_name or SERVED_NAME)


def listed_model(answer: Any, settings: Settings) -> ServedModel:
    """The model to use of those that an answer to `/v1/models` lists.

    NotReady if there are several and none of them stands out.
    """
    listed = answer.get("data") if isinstance(answer, dict) else None
    listed = listed if isinstance(listed, list) else []
    cards = [card for card in listed if isinstance(card, dict) and isinstance(card.get("id"), str)]
    chosen = _chosen(cards, settings.model_name)
    if chosen is None:
        return named_model(settings)
    meta = chosen.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    ours = chosen.get("owned_by") == "orpheus"
    limit = _size(chosen, "max_model_len")  # vLLM and SGLang
    fingerprint = meta.get("fingerprint")
    names = [name for name in (chosen["id"], chosen.get("root")) if isinstance(name, str)]
    telling = next((name for name in names if languages_of(name) != languages_of("")), names[0])
    weights = meta.get("weights")
    return ServedModel(
        name=settings.model or (weights if isinstance(weights, str) else telling),
        id=settings.model_name or chosen["id"],
        vocabulary=_size(meta, "n_vocab"),  # llama-server's name for it, too
        codes_per_slot=_size(meta, "codes_per_slot"),
        context_tokens=limit or _size(meta, "context_tokens") or _size(meta, "n_ctx"),  # ours, llama-server's
        refuses_longer=limit is not None,
        wide_seeds=ours,
        fingerprint=fingerprint if isinstance(fingerprint, str) else None,
    )


def _chosen(cards: list[dict[str, Any]], wanted: str | None) -> dict[str, Any] | None:
    if len(cards) < 2:
        return cards[0] if cards else None
    if wanted is not None:
        return next((card for card in cards if card["id"] == wanted), None)
    known = (PUBLISHED_TOKENS, embedded.VOCABULARY)
    for card in cards:
        meta = card.get("meta")
        size = _size(meta, "n_vocab") if isinstance(meta, dict) else None
        if size is not None and (size >= known[0] or size == known[1]):
            return card
    for card in cards:  # vLLM with adapters lists the model they belong to first, LM Studio all that it has
        if "orpheus" in card["id"].lower():
            return card
    names = ", ".join(card["id"][:80] for card in cards[:5])
    raise NotReady(f"Tier 1 has {len(cards)} models ({names}): set ORPHEUS_MODEL_NAME to one of them.")


def check_fit(model: ServedModel, codec: CodecConfig) -> None:
    """SetupError unless this codec can speak what the model generates, as far as that is known."""
    if model.context_tokens is not None and model.context_tokens < SHORTEST_CONTEXT_TOKENS:
        raise SetupError(
            f"Tier 1 serves {model} with a context of {model.context_tokens} tokens, too few to speak in: give it "
            f"{SEGMENT_TOKENS} or more (vLLM: --max-model-len, llama-server: --ctx-size)."
        )
    if not model.fits(codec):
        raise SetupError(
            f"Tier 1 serves {model}, which this codec of {codec.codes:,} codes was not made for, so all would be "
            f"noise: set ORPHEUS_CODEC={model.codec}, or unset ORPHEUS_CODEC and ORPHEUS_MODEL here."
        )


def _size(values: Mapping[str, Any], name: str) -> int | None:
    value = values.get(name)
    return value if type(value) is int and value > 0 else None
