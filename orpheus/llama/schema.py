"""The body of `POST /v1/completions` as a Pydantic model: OpenAI's keys, and vLLM's and llama.cpp's beyond them.

Unknown keys are accepted and ignored, as by the engines this one stands in for. What clients of those engines send to
leave a key at its default counts as unset: null, an empty text (forms), and llama.cpp's numbers for it.

A body is checked on the event loop, so lists are bounded before their items are looked at, and the first wrong item
ends the checking: pydantic alone reported each of 200,000 nulls, for six seconds and a gigabyte.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    model_validator,
)

from orpheus.errors import BadRequest
from orpheus.llama.completion import Completion
from orpheus.llama.engine import Engine
from orpheus.llama.prompt_tokens import check_texts
from orpheus.sampling import LLAMA_CPP_ANY_SEED, Sampling
from orpheus.settings import Settings
from orpheus.vocabulary import TokenTextParser

MAX_PROMPT_PARTS = 131_072  # ids and texts: the context of Llama 3, more than any engine here is given
MAX_STOPS, MAX_STOP_CHARS = 64, 256  # each is looked for in every event's text, on the event loop
MAX_STOP_IDS = 1024
_MOST_ITEMS = {"prompt": MAX_PROMPT_PARTS, "stop": MAX_STOPS, "stop_token_ids": MAX_STOP_IDS}

PromptPart = StrictInt | StrictStr
PromptParts = Annotated[list[PromptPart], Field(fail_fast=True)]
Prompt = StrictStr | Annotated[list[PromptPart | PromptParts], Field(fail_fast=True)]


def _unset(*numbers: int) -> AfterValidator:
    """Reads these numbers as no number."""
    return AfterValidator(lambda value: None if value in numbers else value)


class CompletionRequest(BaseModel):
    model_config = ConfigDict(extra="ignore")

    prompt: Prompt = Field(description="text, token ids, a list that mixes both, or a list with one of these")
    model: str | None = None
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    max_tokens: Annotated[int | None, _unset(-1, -2)] = (
        Field(  # llama.cpp's "no limit", and "what the context holds"
            None,
            validation_alias=AliasChoices("max_tokens", "n_predict", "max_completion_tokens"),
            description="lowered to what the context holds; the completion then ends with finish_reason length",
        )
    )
    temperature: float | None = None  # bounded, like the rest of sampling, by Sampling
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = Field(
        None,
        validation_alias=AliasChoices("repetition_penalty", "repeat_penalty"),
    )
    seed: Annotated[int | None, _unset(-1, LLAMA_CPP_ANY_SEED)] = None
    stop: str | Annotated[list[str], Field(fail_fast=True)] | None = None
    stop_token_ids: Annotated[list[int], Field(fail_fast=True)] | None = None
    return_token_ids: Annotated[
        bool,
        Field(description="add token_ids to each choice; a stream then has an event a frame, not a token"),
    ] = False
    verbatim: bool = Field(
        False,
        description="take a text prompt as it stands; otherwise a turn in it, in any of its forms, becomes the trained "
        "one, and what is no turn gets the begin-of-text that the model declares",
    )
    constrained: bool = Field(True, description="generate audio tokens only, each from the slot that is due")
    n: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    logprobs: int | None = None

    @model_validator(mode="before")
    @classmethod
    def bounded(cls, body: Any) -> Any:
        """The body without keys that are unset. BadRequest if a list in it is too long to look at."""
        if not isinstance(body, dict):
            return body
        for name, most in _MOST_ITEMS.items():
            items = body.get(name)
            if isinstance(items, list) and len(items) == 1:
                items = items[0]  # a batch of one
            if isinstance(items, list) and len(items) > most:
                raise BadRequest(
                    f"{name} has {len(items)} items; the limit is {most}. Send fewer.", param=name
                )
        return {
            name: value
            for name, value in body.items()
            if value is not None and (value != "" or name == "prompt")
        }

    def completion(self, engine: Engine, settings: Settings) -> Completion:
        """The request, checked and tokenized; blocks. BadRequest names what is wrong or not supported."""
        for name, supported in (
            ("n", (None, 1)),
            ("best_of", (None, 1)),
            ("echo", (None, False)),
            ("suffix", (None, "")),
            ("logprobs", (None, 0)),
        ):
            if getattr(self, name) not in supported:
                raise BadRequest(f"{name} is not supported: leave it out.", param=name)
        if any(len(text) > MAX_STOP_CHARS for text in self.stops):
            raise BadRequest(
                f"A stop string may have {MAX_STOP_CHARS} characters at most: shorten it.", param="stop"
            )
        stop_ids = set(self.stop_token_ids or ())
        for text in self.stops:
            for number in TokenTextParser().parse(text):
                try:
                    stop_ids.add(engine.vocabulary.id_of(number))
                except KeyError:
                    continue  # a token that this checkpoint lacks cannot be generated
        return Completion(
            prompt=self._prompt_ids(engine),
            max_tokens=settings.max_tokens if self.max_tokens is None else self.max_tokens,
            sampling=self._sampling(settings),
            constrained=self.constrained,
            stop_ids=frozenset(stop_ids),
        )

    @property
    def stops(self) -> list[str]:
        """The stop strings, without empty ones."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [text for text in given if text]

    @property
    def text_stops(self) -> list[str]:
        """The stop strings to look for in unconstrained text: all but those that are one audio token."""
        return [text for text in self.stops if not (text.startswith("<custom_token_") and text.endswith(">"))]

    def _prompt_ids(self, engine: Engine) -> tuple[int, ...]:
        prompt = self.prompt
        if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
            prompt = prompt[0]  # type: ignore[assignment]  # a batch of one
        if isinstance(prompt, str):
            return engine.tokenize_prompt(prompt, verbatim=self.verbatim)
        several_texts = prompt and all(isinstance(part, str) for part in prompt)
        if several_texts or any(isinstance(part, list) for part in prompt):
            raise BadRequest(
                "A request takes one prompt: send several requests at once instead.", param="prompt"
            )
        check_texts([part for part in prompt if isinstance(part, str)])
        ids: list[int] = []
        for part in prompt:
            if isinstance(part, int):
                ids.append(part)
            elif isinstance(part, str):
                ids += engine.tokenize_fragment(part)
        return tuple(ids)

    def _sampling(self, settings: Settings) -> Sampling:
        defaults = Sampling(temperature=settings.temperature, top_p=settings.top_p)

        def given(name: str) -> Any:
            value = getattr(self, name)
            return getattr(defaults, name) if value is None else value

        return Sampling(
            temperature=given("temperature"),
            top_p=given("top_p"),
            top_k=max(0, given("top_k")),  # -1 is vLLM's "off"
            min_p=given("min_p"),
            repetition_penalty=given("repetition_penalty"),
            seed=self.seed,
        )
