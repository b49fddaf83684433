"""Tier 2 in front of vLLM, served as docs/deploy.md says: by vLLM's rules, at most those of any version."""

from __future__ import annotations

import re
from contextlib import aclosing

import pytest

from orpheus.errors import UpstreamError
from orpheus.prompt import turn_text
from orpheus.sampling import Sampling
from orpheus.settings import load_settings
from orpheus.tts.pipeline import TOKENS_EXTRA, TOKENS_PER_CHAR
from orpheus.tts.served_model import SEGMENT_CHARS, ServedModel
from orpheus.tts.token_source import Generation, HttpTokenSource
from orpheus.voices import VOICES
from tests.support.live import ROOT, served
from tests.support.vllm import FRAMES, INT64_MAX, Vllm, count_tokens

pytestmark = pytest.mark.anyio
LONGEST = "The boat drifted slowly down the river and nobody spoke. " * 5
BUDGET = TOKENS_EXTRA + TOKENS_PER_CHAR * SEGMENT_CHARS


async def numbers(
    url: str, text: str = LONGEST[:SEGMENT_CHARS], seed: int = 7, **settings: object
) -> list[int]:
    source = HttpTokenSource(load_settings(llama_endpoint=url, **settings))
    try:
        async with aclosing(
            source.generate(Generation(VOICES["tara"], text, Sampling(seed=seed), BUDGET))
        ) as chunks:
            return [number async for chunk in chunks for number in chunk.numbers]
    finally:
        await source.aclose()


@pytest.mark.parametrize("max_model_len", [2048, 4096, 8192])
@pytest.mark.parametrize(
    "text", [LONGEST[:SEGMENT_CHARS], "नाव धीरे-धीरे नदी में बह रही थी। " * 8, "배가 천천히 떠내려갔다. " * 16]
)
async def test_the_longest_segment_is_answered(max_model_len: int, text: str) -> None:
    vllm = Vllm(max_model_len=max_model_len)
    with served(vllm.app) as url:
        assert len(await numbers(url, text[:SEGMENT_CHARS])) == FRAMES * 7
    (sent,) = vllm.requests
    assert sent["model"] == vllm.name
    assert sent["max_tokens"] + count_tokens(sent["prompt"], False) <= max_model_len


async def test_what_the_documented_length_holds_is_not_cut() -> None:
    said = (ROOT / "docs/deploy.md").read_text()
    (command,) = re.findall(r"vllm serve .*", said)
    length = re.search(r"--max-model-len (\d+)", command)
    assert length
    assert "--served-model-name orpheus" in command
    vllm = Vllm("orpheus", max_model_len=int(length[1]))
    with served(vllm.app) as url:
        await numbers(url)
    assert vllm.requests[0]["max_tokens"] == BUDGET
    assert vllm.requests[0]["model"] == "orpheus"


async def test_a_model_that_it_does_not_serve_is_told_in_its_own_words() -> None:
    with served(Vllm().app) as url, pytest.raises(UpstreamError, match="model `m` does not exist") as told:
        await numbers(url, model_name="m")
    assert "ORPHEUS_MODEL_NAME" in str(told.value)


async def test_a_restart_under_another_name_fails_one_request() -> None:
    vllm = Vllm()
    with served(vllm.app) as url:
        source = HttpTokenSource(load_settings(llama_endpoint=url))
        generation = Generation(VOICES["tara"], "Hello.", Sampling(), 700)
        assert [chunk async for chunk in source.generate(generation)]
        vllm.name = "orpheus-2"
        with pytest.raises(UpstreamError, match="does not exist"):
            await anext(source.generate(generation))
        assert [chunk async for chunk in source.generate(generation)]
        await source.aclose()


@pytest.mark.parametrize("seed", [INT64_MAX + 1, 2**64 - 1])
async def test_no_seed_is_too_large_for_it(seed: int) -> None:
    with served(Vllm().app) as url:
        assert await numbers(url, seed=seed) == await numbers(url, seed=seed)


async def test_it_knows_every_field_but_those_for_llama_cpp() -> None:
    vllm = Vllm()
    with served(vllm.app) as url:
        await numbers(url)
    assert vllm.ignored == {"repeat_penalty", "repeat_last_n"}
    sent = vllm.requests[0]
    assert sent["prompt"] == turn_text("tara", LONGEST[:SEGMENT_CHARS])
    assert sent["stop"] == ["<custom_token_2>"]
    assert (sent["return_token_ids"], sent["add_special_tokens"]) == (True, False)
    assert (sent["skip_special_tokens"], sent["min_p"]) == (False, 0.0)
    assert "top_k" not in sent  # off is 0 for some of its versions and -1 for others


@pytest.mark.parametrize(("context", "chars"), [(1024, 140), (2048, 280), (8192, 280), (None, 280)])
def test_a_short_context_makes_short_segments(context: int | None, chars: int) -> None:
    assert ServedModel("m", context_tokens=context, refuses_longer=True).segment_chars == chars
