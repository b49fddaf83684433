"""The body of `POST /v1/completions`: OpenAI's keys, vLLM's and llama.cpp's names for the rest → a Completion.

Knows nothing of HTTP. Unknown keys are accepted and ignored, as by the engines this one stands in for.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, StrictInt, StrictStr

from orpheus.errors import BadRequest
from orpheus.llama.engine import Completion, Engine
from orpheus.llama.prompt_tokens import check_texts
from orpheus.sampling import Sampling
from orpheus.settings import Settings
from orpheus.vocabulary import TokenTextParser

Piece = StrictInt | StrictStr
PromptField = StrictStr | list[Piece | list[Piece]]
MOST_STOPS, LONGEST_STOP_CHARS = 64, 256  # each is looked for in each frame's text, on the event loop


class CompletionRequest(BaseModel):
    model_config = ConfigDict(extra="allow")

    prompt: PromptField = Field(description="text, ids, a mixture in one list, or a list with one of these")
    model: str | None = None
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = Field(
        None,
        ge=1,
        validation_alias=AliasChoices("max_tokens", "n_predict", "max_completion_tokens"),
        description="cut to what a stream holds; the answer then ends with finish_reason length",
    )
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = Field(
        None, validation_alias=AliasChoices("repetition_penalty", "repeat_penalty")
    )
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    return_token_ids: bool = False
    constrained: bool = Field(True, description="draw audio tokens only, each from the slot that is due")
    n: Annotated[int | None, Field(ge=1)] = None
    best_of: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    logprobs: int | None = None

    def completion(self, engine: Engine, settings: Settings) -> Completion:
        """Everything checked; BadRequest names what is not served here."""
        for name, served in (("n", (None, 1)), ("best_of", (None, 1)), ("echo", (None, False))):
            if getattr(self, name) not in served:
                raise BadRequest(f"{name} is not served here: leave it out.", param=name)
        for name in ("suffix", "logprobs"):
            if getattr(self, name) not in (None, "", 0):
                raise BadRequest(f"{name} is not served here: leave it out.", param=name)
        if len(self.stops) > MOST_STOPS or any(len(text) > LONGEST_STOP_CHARS for text in self.stops):
            raise BadRequest(
                f"stop takes at most {MOST_STOPS} strings of {LONGEST_STOP_CHARS} characters.", param="stop"
            )
        stop_ids = set(self.stop_token_ids or ())
        vocabulary = engine.vocabulary
        for text in self.stops:
            for number in TokenTextParser().push(text):
                try:
                    stop_ids.add(vocabulary.id_of(number))
                except KeyError:
                    continue  # a token this checkpoint has not: it cannot come
        return Completion(
            prompt=self._ids(engine),
            max_tokens=settings.max_tokens if self.max_tokens is None else self.max_tokens,
            sampling=self._sampling(settings),
            constrained=self.constrained,
            stop_ids=frozenset(stop_ids),
        )

    @property
    def stops(self) -> list[str]:
        """The stop strings, empty ones left out."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [text for text in given if text]

    @property
    def text_stops(self) -> list[str]:
        """Stop strings that are more than one token, to be looked for in the text of unconstrained output."""
        return [text for text in self.stops if not (text.startswith("<custom_token_") and text.endswith(">"))]

    def _ids(self, engine: Engine) -> tuple[int, ...]:
        prompt = self.prompt
        if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
            prompt = prompt[0]  # type: ignore[assignment]  # a batch of one
        if isinstance(prompt, str):
            return engine.tokenize_prompt(prompt)
        if any(isinstance(piece, list) for piece in prompt):
            raise BadRequest("One prompt a request: send several requests at once instead.", param="prompt")
        if prompt and all(isinstance(piece, str) for piece in prompt):
            raise BadRequest("One prompt a request: send several requests at once instead.", param="prompt")
        check_texts([piece for piece in prompt if isinstance(piece, str)])
        ids: list[int] = []
        for piece in prompt:
            if isinstance(piece, int):
                ids.append(piece)
            elif isinstance(piece, str):
                ids += engine.tokenize_fragment(piece)
        return tuple(ids)

    def _sampling(self, settings: Settings) -> Sampling:
        defaults = Sampling(temperature=settings.temperature, top_p=settings.top_p)

        def given(name: str) -> Any:
            value = getattr(self, name)
            return getattr(defaults, name) if value is None else value

        seed = None if self.seed is None or self.seed == -1 else self.seed  # -1 is llama.cpp's "any"
        return Sampling(
            temperature=given("temperature"),
            top_p=given("top_p"),
            top_k=max(0, given("top_k")),  # -1 is vLLM's "off"
            min_p=given("min_p"),
            repetition_penalty=given("repetition_penalty"),
            seed=seed,
        )
