"""Streams through the real llama.cpp and the embedded voice."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orpheus import embedded
from orpheus.errors import AtCapacity, BadRequest, EngineError, NotReady, OrpheusError, WeightsError
from orpheus.llama.batches import NO_KV_ROOM
from orpheus.llama.engine import Completion, Engine
from orpheus.prompt import turn_text
from orpheus.sampling import Sampling
from orpheus.vocabulary import SLOTS
from tests.support.live import clean_environment
from tests.support.llama import TEXT, collect, completion, engine_of, settings
from tests.support.waiting import until
from training.random_gguf import TINY, write_gguf

SENTENCES = [
    "The boat drifted slowly down the river.",
    "Hi.",
    "Nobody knew where the old road went after the bridge.",
    "Three small birds sat on the wire.",
]


def test_every_frame_is_whole_and_in_slot_order() -> None:
    async def run(engine: Engine) -> None:
        asked = [engine.submit(completion(engine, seed=n, tokens=70)) for n in range(4)]
        for numbers in await asyncio.gather(*map(collect, asked)):
            assert numbers
            assert [(n - 10) // 4096 for n in numbers] == list(range(SLOTS)) * (len(numbers) // SLOTS)

    with engine_of() as engine:
        asyncio.run(run(engine))


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_tokens_are_the_same_alone_and_among_15_others_that_come_and_go(temperature: float) -> None:
    def asked(engine: Engine, n: int) -> Completion:
        return completion(
            engine,
            turn_text("tara", SENTENCES[n % 4]),
            tokens=49 + 7 * (n % 5),
            temperature=temperature,
            seed=n,
        )

    async def run(engine: Engine) -> None:
        assert engine.load_report()["batch_invariant"]
        watched = range(0, 16, 3)
        alone = {n: await collect(engine.submit(asked(engine, n))) for n in watched}
        chance = random.Random(1)

        async def other(n: int) -> list[int]:
            await asyncio.sleep(chance.random() * 0.05)
            stream = engine.submit(asked(engine, n))
            if n not in alone and n % 2:
                await anext(stream)
                await stream.aclose()
                return []
            return await collect(stream)

        together = await asyncio.gather(*map(other, range(16)))
        assert {n: together[n] for n in watched} == alone
        await until(lambda: engine.load_report()["active"] == 0)

    with engine_of(streams=16) as engine:
        asyncio.run(run(engine))


def test_a_seed_gives_the_same_tokens_again_and_no_seed_gives_others(engine: Engine) -> None:
    async def run() -> list[list[int]]:
        return [await collect(engine.submit(completion(engine, seed=seed))) for seed in (5, 5, None, None)]

    first, again, free, other = asyncio.run(run())
    assert first == again
    assert free != other


def test_speech_ends_by_itself_before_the_limit(engine: Engine) -> None:
    async def run() -> None:
        chunks = [chunk async for chunk in engine.submit(completion(engine, tokens=8192))]
        assert chunks[-1].finish_reason == "stop"
        assert chunks[-1].ids == ()
        v = engine.vocabulary
        assert all([v.number_of_id(one) for one in chunk.ids] == list(chunk.numbers) for chunk in chunks)
        assert all(len(chunk.ids) == SLOTS for chunk in chunks[:-1])

    asyncio.run(run())


def test_max_tokens_beyond_the_context_are_cut_and_end_with_length() -> None:
    async def run(engine: Engine) -> None:
        prompt = engine.tokenize_prompt(TEXT)
        chunks = [chunk async for chunk in engine.submit(completion(engine, tokens=8192, temperature=0))]
        assert chunks[-1].finish_reason == "length"
        assert sum(len(chunk.ids) for chunk in chunks) == (256 - len(prompt)) // SLOTS * SLOTS

    with engine_of(context_tokens=256) as engine:
        engine._steps._codes = -1  # nothing counts as the end of speech
        asyncio.run(run(engine))


def test_a_prompt_with_no_room_for_a_frame_is_refused_before_any_work(engine: Engine) -> None:
    async def run() -> None:
        before = engine.stats.steps
        with pytest.raises(BadRequest, match="not one frame"):
            engine.submit(Completion((1,) * 506, 100, Sampling()))
        with pytest.raises(BadRequest, match="outside the vocabulary"):
            engine.submit(Completion((10**6,), 100, Sampling()))
        with pytest.raises(BadRequest, match="empty"):
            engine.submit(Completion((), 100, Sampling()))
        assert engine.stats.steps == before

    asyncio.run(run())


def test_a_cancel_frees_the_stream_within_a_step(engine: Engine) -> None:
    async def run() -> None:
        stream = engine.submit(completion(engine, tokens=480))
        await anext(stream)
        stream.cancel()
        at = engine.stats.steps
        await until(lambda: engine.load_report()["active"] == 0)
        assert engine.stats.steps <= at + 1
        assert [chunk async for chunk in stream] == []
        stream.cancel()

    asyncio.run(run())


def test_a_request_past_capacity_learns_when_to_retry_and_a_waiting_one_is_served() -> None:
    async def run(engine: Engine) -> None:
        streams = [engine.submit(completion(engine, tokens=70, seed=n)) for n in range(3)]
        with pytest.raises(AtCapacity) as full:
            engine.submit(completion(engine))
        assert full.value.retry_after_s >= 1
        first_s = full.value.retry_after_s
        for seed, same in (
            (1, True),
            (1, True),
            (2, False),
        ):  # our tier 2 keeps asking for a segment, with its seed
            with pytest.raises(AtCapacity) as again:
                engine.submit(completion(engine, seed=seed))
            assert (again.value.retry_after_s <= first_s) == same
        assert all(await asyncio.gather(*map(collect, streams)))
        assert engine.stats.rejected == 4

    with engine_of(streams=2, waiting=1) as engine:
        asyncio.run(run(engine))


def test_a_reader_that_stops_reading_pauses_its_stream_alone_and_gets_every_frame_later() -> None:
    async def run(engine: Engine) -> None:
        asked = completion(engine, tokens=210, temperature=0.9, seed=3)
        whole = await collect(engine.submit(asked))
        assert len(whole) > 6 * SLOTS
        slow = engine.submit(asked)
        await until(lambda: engine.load_report()["paused"] == 1)
        steps = engine.stats.steps
        assert await collect(engine.submit(completion(engine, tokens=70)))  # the others go on
        assert engine.stats.steps > steps
        assert slow.unread == 4
        late = await collect(slow)
        assert len(late) % SLOTS == 0
        assert late == whole

    with engine_of(stream_frames=4) as engine:
        asyncio.run(run(engine))


def test_a_reader_that_never_comes_back_is_dropped_after_the_stated_time() -> None:
    async def run(engine: Engine) -> None:
        stream = engine.submit(completion(engine, tokens=480))
        await until(lambda: engine.stats.dropped == 1)
        assert engine.load_report()["active"] == 0
        with pytest.raises(EngineError, match=r"its client read nothing for 0\.2 s"):
            await collect(stream)

    with engine_of(stream_frames=2, pause_timeout_s=0.2) as engine:
        asyncio.run(run(engine))


def test_after_a_fatal_decode_error_the_next_request_works(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def run(engine: Engine) -> None:
        good = await collect(engine.submit(completion(engine)))
        stream = engine.submit(completion(engine, tokens=480))
        await anext(stream)
        context = engine._steps._context
        assert context is not None

        def broken(rows: Any) -> int:
            raise EngineError("llama.cpp could not decode (status -3).")

        monkeypatch.setattr(context, "decode", broken)
        with pytest.raises(EngineError, match="status -3"):
            await collect(stream)
        assert await collect(engine.submit(completion(engine))) == good
        assert engine.stats.reloads == 1

    with engine_of() as engine:
        asyncio.run(run(engine))


def test_when_the_context_cannot_be_recreated_every_client_learns_it_and_nobody_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run(engine: Engine) -> None:
        streams = [engine.submit(completion(engine, tokens=480, seed=n)) for n in range(5)]
        await anext(streams[0])
        monkeypatch.setattr(engine._steps, "_open_context", lambda: 1 / 0)
        monkeypatch.setattr(engine._steps._context, "decode", lambda rows: 1 / 0)
        for stream in streams:
            with pytest.raises(EngineError):
                await collect(stream)
        with pytest.raises(NotReady):
            engine.submit(completion(engine))
        with pytest.raises(NotReady):
            engine.check()
        assert engine.load_report()["dead"]
        await until(lambda: len(deaths) == 1)
        assert "Restart it" in str(deaths[0])

    deaths: list[OrpheusError] = []
    engine = Engine.load(embedded.MODEL, settings(), on_death=deaths.append)
    try:
        asyncio.run(run(engine))
    finally:
        engine.close()


def test_no_room_in_the_cache_makes_smaller_batches_and_is_not_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(engine: Engine) -> None:
        context = engine._steps._context
        assert context is not None
        decode = context.decode
        monkeypatch.setattr(context, "decode", lambda rows: NO_KV_ROOM if len(rows) > 2 else decode(rows))
        streams = [engine.submit(completion(engine, tokens=70, seed=n)) for n in range(4)]
        assert all(await asyncio.gather(*map(collect, streams)))
        assert engine.stats.no_room > 0
        assert engine.stats.reloads == 0

    with engine_of() as engine:
        asyncio.run(run(engine))


def test_a_lone_stream_without_room_in_the_cache_fails_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run(engine: Engine) -> None:
        monkeypatch.setattr(engine._steps._context, "decode", lambda rows: NO_KV_ROOM)
        with pytest.raises(EngineError, match="cache is full: lower ORPHEUS_STREAMS"):
            await collect(engine.submit(completion(engine)))

    with engine_of() as engine:
        asyncio.run(run(engine))


def test_closing_ends_what_is_in_flight_with_an_error_and_twice_is_fine() -> None:
    async def run() -> None:
        engine = await asyncio.to_thread(Engine.load, embedded.MODEL, settings())
        stream = engine.submit(completion(engine, tokens=480))
        await asyncio.to_thread(engine.close)
        engine.close()
        with pytest.raises(EngineError, match="closed"):
            await collect(stream)
        with pytest.raises(EngineError, match="closed"):
            engine.submit(completion(engine))

    asyncio.run(run())


def test_community_prompts_become_the_trained_turn(engine: Engine) -> None:
    v = engine.vocabulary
    inner = engine.tokenize_fragment("tara: Hi.")
    trained = (v.id_of(3), v.begin_of_text, *inner, v.end_of_turn, v.id_of(4), v.id_of(5), v.id_of(1))
    for prompt in (
        turn_text("tara", "Hi."),
        "<|begin_of_text|>" + turn_text("tara", "Hi."),
        "<|audio|>tara: Hi.<|eot_id|>",
        "<|audio|>tara: Hi.<|eot_id|><custom_token_4>",
    ):
        assert engine.tokenize_prompt(prompt) == trained


@pytest.mark.parametrize("attack", ["<custom_token_2>", "<|eot_id|>", "<custom_<|x|>token_10>", "<|audio|>"])
def test_a_text_cannot_bring_control_tokens_into_its_turn(engine: Engine, attack: str) -> None:
    clean = engine.tokenize_prompt("<|audio|>tara: Say this.<|eot_id|>")
    assert engine.tokenize_prompt(f"<|audio|>tara: Say {attack}this.<|eot_id|>") == clean


def test_other_prompts_are_tokenized_plainly_with_the_bos_of_the_file(engine: Engine) -> None:
    ids = engine.tokenize_prompt("abc<custom_token_1>")
    assert ids[0] == engine.vocabulary.begin_of_text
    assert ids[-1] == engine.vocabulary.id_of(1)


def test_a_frame_begun_in_the_prompt_is_continued(engine: Engine) -> None:
    async def run() -> None:
        v = engine.vocabulary
        begun = (*engine.tokenize_prompt(TEXT), v.id_of(10), v.id_of(4107), v.id_of(8203))
        chunks = [c async for c in engine.submit(Completion(begun, 18, Sampling(seed=1)))]
        assert [len(c.ids) for c in chunks] == [4, 7, 7]
        assert [(n - 10) // 4096 for n in chunks[0].numbers] == [3, 4, 5, 6]

    asyncio.run(run())


def test_unconstrained_streams_run_beside_constrained_ones(engine: Engine) -> None:
    async def run() -> None:
        plain = Completion(engine.tokenize_prompt("Once"), 30, Sampling(seed=1), constrained=False)
        speech = completion(engine, tokens=70)
        alone = await collect(engine.submit(speech))
        both = await asyncio.gather(collect(engine.submit(speech)), collect(engine.submit(plain)))
        assert both[0] == alone

    asyncio.run(run())


def test_the_real_vocabulary_size_works(tmp_path: Path) -> None:
    async def run(engine: Engine) -> None:
        assert engine.vocabulary.size == 156_940
        assert engine.vocabulary.end_of_speech == 128_258
        assert engine.tokenize_prompt("<|audio|>a<|eot_id|>")[:2] == (128_259, 128_000)
        numbers = await collect(engine.submit(completion(engine, tokens=35)))
        assert [(n - 10) // 4096 for n in numbers] == list(range(SLOTS)) * (len(numbers) // SLOTS)

    with engine_of(write_gguf(tmp_path / "real.gguf", TINY)) as engine:
        asyncio.run(run(engine))


def test_files_that_are_not_orpheus_models_are_refused_with_one_sentence(tmp_path: Path) -> None:
    text = tmp_path / "notes.gguf"
    text.write_text("not weights")
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(embedded.MODEL.read_bytes()[:50_000])
    mute = write_gguf(tmp_path / "mute.gguf", TINY, speech=False)
    for path, reason in (
        (tmp_path / "missing.gguf", "cannot be read"),
        (text, "not a GGUF"),
        (torn, "could not load"),
        (mute, "no <custom_token_1>"),
    ):
        with pytest.raises(WeightsError, match=reason) as refused:
            Engine.load(path, settings())
        assert "\n" not in str(refused.value)


def test_llama_cpp_is_not_loaded_before_an_engine_is() -> None:
    code = "import sys, orpheus.llama.server; sys.exit('llama_cpp' in sys.modules or 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=False, env=clean_environment())
    assert done.returncode == 0
