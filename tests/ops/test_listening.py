"""A long text is understood no worse than its sentences alone: the seams cost nothing."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from orpheus.server.schema import SpeechRequest
from orpheus.server.service import SpeechService
from orpheus.settings import load_settings
from orpheus.tts.usage import Usage
from tests.support.sentences import SENTENCES
from training.listen import hear, word_error_rate

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def spoken(service: SpeechService, text: str, seed: int) -> list[tuple[str, NDArray[np.int16]]]:
    """The segments a text was spoken in, with the samples of each."""
    usage = Usage()
    params = service.params(SpeechRequest(input=text, response_format="pcm", seed=seed, temperature=0.4))
    chunks = service.encoded(service.segment(text, params).source(), params, usage)
    samples = np.frombuffer(b"".join([chunk async for chunk in chunks]), "<i2")
    parts = np.split(samples, usage.segment_starts[1:])
    return list(zip([segment.text for segment in usage.segments], parts, strict=True))


async def test_a_text_of_forty_sentences_is_understood_as_well_as_each_alone() -> None:
    service = SpeechService.in_process(load_settings(model="embedded", codec="embedded"))
    async with service.running():
        await service.loaded()
        whole = await spoken(service, " ".join(SENTENCES), 1)
        alone = [part for n, text in enumerate(SENTENCES) for part in await spoken(service, text, n)]
    rates = {}
    for name, parts in (("whole", whole), ("alone", alone)):
        rates[name] = word_error_rate([text for text, _ in parts], [hear(pcm) for _, pcm in parts])
    print(f"word error rate: whole {rates['whole']:.3f}, alone {rates['alone']:.3f}")
    # Each rate is of 290 words: three standard errors of their difference are 0.12 at these rates.
    assert rates["whole"] <= rates["alone"] + 0.12
