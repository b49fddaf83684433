"""The body of `POST /v1/completions` as a Pydantic model: OpenAI's keys, and vLLM's and llama.cpp's beyond them.

Unknown keys are accepted and ignored, as by the engines this one stands in for.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, StrictInt, StrictStr

from orpheus.errors import BadRequest
from orpheus.llama.completion import Completion
from orpheus.llama.engine import Engine
from orpheus.llama.prompt_tokens import check_texts
from orpheus.sampling import Sampling
from orpheus.settings import Settings
from orpheus.vocabulary import TokenTextParser

PromptPart = StrictInt | StrictStr
Prompt = StrictStr | list[PromptPart | list[PromptPart]]
MAX_STOPS, MAX_STOP_CHARS = 64, 256  # each is looked for in every frame's text, on the event loop


class CompletionRequest(BaseModel):
    model_config = ConfigDict(extra="allow")

    prompt: Prompt = Field(description="text, token ids, a list that mixes both, or a list with one of these")
    model: str | None = None
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = Field(
        None,
        ge=1,
        validation_alias=AliasChoices("max_tokens", "n_predict", "max_completion_tokens"),
        description="lowered to what the context holds; the completion then ends with finish_reason length",
    )
    temperature: float | None = None  # bounded, like the rest of sampling, by Sampling
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = Field(
        None,
        validation_alias=AliasChoices("repetition_penalty", "repeat_penalty"),
    )
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    return_token_ids: bool = False
    constrained: bool = Field(True, description="generate audio tokens only, each from the slot that is due")
    n: Annotated[int | None, Field(ge=1)] = None
    best_of: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    logprobs: int | None = None

    def completion(self, engine: Engine, settings: Settings) -> Completion:
        """The request, checked. BadRequest names what is wrong or not supported."""
        for name, supported in (
            ("n", (None, 1)),
            ("best_of", (None, 1)),
            ("echo", (None, False)),
            ("suffix", (None, "")),
            ("logprobs", (None, 0)),
        ):
            if getattr(self, name) not in supported:
                raise BadRequest(f"{name} is not supported: leave it out.", param=name)
        if len(self.stops) > MAX_STOPS or any(len(text) > MAX_STOP_CHARS for text in self.stops):
            raise BadRequest(
                f"stop may hold at most {MAX_STOPS} strings of {MAX_STOP_CHARS} characters.", param="stop"
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
            return engine.tokenize_prompt(prompt)
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
            seed=None if self.seed == -1 else self.seed,  # -1 is llama.cpp's "any"
        )
