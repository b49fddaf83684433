"""A copy without the rows that speech never needs: the same speech, made once, and never in the way."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.quantization import QUANTIZATIONS, quantize, tensor_types
from orpheus import embedded
from orpheus.errors import BadRequest, WeightsError
from orpheus.llama import gguf_file, trimmed_head
from orpheus.llama.backend import Context, ContextOptions, Model, Weights, read_shape
from orpheus.llama.batches import BatchRow
from orpheus.llama.embedding_table import EmbeddingTable
from orpheus.llama.engine import Completion, Engine
from orpheus.llama.engine_config import EngineConfig
from orpheus.llama.gguf_file import GgufFile, field
from orpheus.llama.trimmed_head import (
    FOLDER,
    TrimmedHead,
    find,
    find_or_make,
    find_or_make_checked,
    is_intact,
)
from orpheus.ops.doctor import weights as doctor
from orpheus.prompt import turn_text
from orpheus.sampling import Sampling
from orpheus.vocabulary import CODES_PER_SLOT, FIRST_CODE, PUBLISHED_BASE_ID, SLOTS
from orpheus.weights import Lora
from tests.support.checkpoints import save_lora
from tests.support.llama import collect, load, settings
from training.random_gguf import VOCABULARY, Body, write_gguf

SEEDS = range(100)
END_OF_SPEECH, START_OF_SPEECH = PUBLISHED_BASE_ID + 2, PUBLISHED_BASE_ID + 1
CODES = SLOTS * CODES_PER_SLOT
KEPT = range(END_OF_SPEECH, PUBLISHED_BASE_ID + FIRST_CODE + CODES)
TURN = (128259, 128000, 65, 66, 67, 128009, 128260, 128261, START_OF_SPEECH)
# As few bytes as a published vocabulary allows.
NARROW = Body(layers=1, width=32, heads=1, kv_heads=1, ffn=32)
BODIES = {
    "q8_0, tied": dataclasses.replace(NARROW, weights="q8_0"),
    "f16, untied": dataclasses.replace(NARROW, tied=False),
}


@pytest.fixture(scope="module", params=BODIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("tiny") / "m.gguf", BODIES[request.param])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("small") / "m.gguf", NARROW)


@pytest.fixture
def small(written: Path, tmp_path: Path) -> Path:
    """In a folder of its own."""
    return Path(shutil.copy(written, tmp_path / "m.gguf"))


@pytest.fixture(scope="module")
def engines(model: Path) -> Iterator[tuple[Engine, Engine]]:
    """The whole model, and the trimmed one."""
    trimmed = find_or_make(model)
    assert trimmed is not None
    pair = load(model, 25, waiting=100), load(model, 25, waiting=100, trimmed=trimmed)
    yield pair
    for engine in pair:
        engine.close()


def say(engine: Engine, *completions: Completion) -> list[list[int]]:
    async def gather() -> list[list[int]]:
        return await asyncio.gather(*(collect(engine.submit(each)) for each in completions))

    return asyncio.run(gather())


def test_a_hundred_seeds_say_the_same(engines: tuple[Engine, Engine]) -> None:
    prompt = engines[0].tokenize_prompt(turn_text("tara", "Hello."))
    assert prompt == engines[1].tokenize_prompt(turn_text("tara", "Hello."))
    asked = [Completion(prompt, SLOTS, Sampling(repetition_penalty=1.1, seed=seed)) for seed in SEEDS]
    whole, trimmed = (say(engine, *asked) for engine in engines)
    assert whole == trimmed
    assert len({tuple(said) for said in whole}) > 50


def test_prompts_of_codes_and_of_one_token_say_the_same(engines: tuple[Engine, Engine]) -> None:
    code = PUBLISHED_BASE_ID + FIRST_CODE
    spoken = tuple(code + CODES_PER_SLOT * (n % SLOTS) + n for n in range(SLOTS + 3))
    prompts = [(*TURN, *spoken), spoken, (code,), (65,), (END_OF_SPEECH,), (VOCABULARY - 1,), TURN * 20]
    asked = [Completion(prompt, 2 * SLOTS, Sampling(seed=1)) for prompt in prompts]
    assert say(engines[0], *asked) == say(engines[1], *asked)
    alone = [say(engines[1], each)[0] for each in asked]
    assert alone == say(engines[1], *asked)


def test_text_is_refused_and_said_how_to_have(engines: tuple[Engine, Engine]) -> None:
    async def submit(engine: Engine) -> list[int]:
        return await collect(engine.submit(Completion(TURN, 3, Sampling(seed=1), constrained=False)))

    asyncio.run(submit(engines[0]))
    with pytest.raises(BadRequest, match="ORPHEUS_UNCONSTRAINED=true") as refused:
        asyncio.run(submit(engines[1]))
    assert refused.value.param == "constrained"
    assert [engine.load_report()["outputs"] for engine in engines] == [VOCABULARY, len(KEPT)]


def differences(whole: Weights, trimmed: Weights) -> int:
    """Logits of a prompt and of codes in a batch that are not the whole model's, bit for bit."""
    code = PUBLISHED_BASE_ID + FIRST_CODE
    batches = (
        [BatchRow(0, 0, TURN, True)],
        [BatchRow(0, len(TURN), (code,), True), BatchRow(1, 0, (code + CODES_PER_SLOT, 5, 128257), True)],
        [BatchRow(0, len(TURN) + 1, (code + 9,), True), BatchRow(1, 3, (code + CODES - 1,), True)],
    )
    found = []
    for model in (whole, trimmed):
        context = Context(model, ContextOptions(4, 256, 64, 4, 1))
        logits = []
        for rows in batches:
            assert context.decode(rows) == 0
            logits.append(context.logits(len(rows)).copy())
        found.append(np.concatenate(logits))
        context.close()
    all_of_them, kept = found
    return int((all_of_them[:, KEPT.start : KEPT.stop] != kept).sum())


def test_logits_have_the_same_bits(engines: tuple[Engine, Engine]) -> None:
    whole, trimmed = (engine._model for engine in engines)
    assert differences(whole, trimmed) == 0


def test_rows_that_are_not_quantized_are_read_as_they_are(tmp_path: Path) -> None:
    path, rows = tmp_path / "rows", np.arange(12, dtype=np.float32).reshape(3, 4)
    path.write_bytes(b"head" + rows.tobytes())
    head = TrimmedHead(path, first_id=2, rows=1, source=path, source_rows_at=4, row_bytes=16, width=4, type=0)
    for mapped in (True, False):
        out = np.zeros((5, 4), np.float32)
        EmbeddingTable(head, 3, mapped=mapped).read(np.array([2, 0], np.int32), out)
        assert (out[:2] == rows[[2, 0]]).all()
        assert not out[2:].any()


@pytest.mark.slow
def test_rows_of_k_quants_have_the_same_bits(tmp_path: Path) -> None:
    body = Body(layers=1, width=256, heads=2, kv_heads=1, ffn=256, tied=False)
    path = tmp_path / "m.gguf"
    quantize(write_gguf(tmp_path / "whole.gguf", body), path, QUANTIZATIONS["Q4_K_M"])
    assert {"Q4_K", "Q6_K"} <= {*tensor_types(path)}  # the embeddings, and the outputs
    trimmed = find_or_make(path)
    assert trimmed is not None
    models = Weights(path, 0), Weights(path, 0, trimmed)
    assert differences(*models) == 0
    for model in models:
        model.close()


def test_a_copy_holds_the_rows_byte_for_byte_and_is_made_once(small: Path) -> None:
    trimmed = find_or_make(small)
    assert trimmed is not None
    assert (trimmed.first_id, trimmed.rows) == (KEPT.start, len(KEPT))
    made = trimmed.path.stat()
    assert made.st_size < 0.4 * small.stat().st_size
    assert is_intact(trimmed)
    assert find_or_make(small) == find_or_make_checked(small) == find(small) == trimmed
    assert trimmed.path.stat() == made
    whole, copy = GgufFile.read(small), GgufFile.read(trimmed.path)
    bytes_of_whole, bytes_of_copy = small.read_bytes(), trimmed.path.read_bytes()
    assert [tensor.name for tensor in copy.tensors] == [tensor.name for tensor in whole.tensors]
    for old, new in zip(whole.tensors, copy.tensors, strict=True):
        start = old.start + (KEPT.start * old.row_bytes if old.name == "token_embd.weight" else 0)
        assert bytes_of_whole[start : start + new.size] == bytes_of_copy[new.start : new.start + new.size]
    assert read_shape(trimmed.path) == read_shape(small)


def test_another_content_makes_another_copy_in_place_of_the_old(small: Path, tmp_path: Path) -> None:
    first = find_or_make(small)
    assert first is not None
    left_by_the_killed = first.path.with_suffix(".abc_1234.incomplete")
    left_by_the_killed.touch()
    small.write_bytes(small.read_bytes()[:-64] + bytes(64))
    assert find(small) is None
    second = find_or_make(small)
    assert second is not None
    assert held(second.path.parent) == {second.path.name, second.path.with_suffix(".sha256").name}
    os.utime(small)  # it may have changed
    assert find(small) is None


def held(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {trimmed_head.LOCK}


def test_of_the_copies_beside_it_those_go_whose_original_is_gone(small: Path) -> None:
    backup, former = small.with_name("m.gguf.bak"), small.with_name("former.gguf")
    for path in (backup, former):
        shutil.copy(small, path)
        assert find_or_make(path) is not None
    former.unlink()
    made = find_or_make(small)
    assert made is not None
    assert find(backup) is not None
    assert not [name for name in held(made.path.parent) if name.startswith("former")]


def test_of_several_who_start_at_once_one_makes_it(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock is the open file's, not the process', so threads do."""
    made: list[set[str]] = []
    found: list[TrimmedHead | None] = []
    waiting = threading.Barrier(3)
    make = trimmed_head._make

    def slowly(*given: Any) -> None:
        made.append(held(small.parent / FOLDER))
        threading.Event().wait(0.2)
        make(*given)

    def start() -> None:
        waiting.wait()
        found.append(find_or_make(small))

    monkeypatch.setattr(trimmed_head, "_make", slowly)
    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [find(small)] * 3
    assert None not in found
    assert made == [set()]


def test_an_original_that_changes_meanwhile_is_not_copied_or_loaded(
    small: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    kept = trimmed_head._kept

    def once_written(_: int) -> None:
        os.utime(small)

    def once_read(original: GgufFile) -> range | None:
        os.utime(small)
        return kept(original)

    for module, name, change in (
        (trimmed_head.os, "fsync", once_written),
        (trimmed_head, "_kept", once_read),
    ):
        caplog.clear()
        with monkeypatch.context() as patched:
            patched.setattr(module, name, change)
            assert find_or_make(small) is None
        assert "m.gguf changed while it was copied" in caplog.text
    assert not held(small.parent / FOLDER)
    trimmed = find_or_make(small)
    assert trimmed is not None
    times, content = (small.stat().st_atime_ns, small.stat().st_mtime_ns), bytearray(small.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    small.write_bytes(content)
    os.utime(small, ns=times)  # as where all files of an image get one time
    assert find(small) is None
    with pytest.raises(WeightsError, match="changed while it was loaded: start again"):
        Model(small, 0, None, trimmed)


def test_an_original_that_ends_early_is_what_is_told(small: Path) -> None:
    content = small.read_bytes()
    for missing in (100, 2000, len(content) // 2):  # within the last tensor, before it, within the embeddings
        small.write_bytes(content[:-missing])
        with pytest.raises(
            WeightsError, match=r"m\.gguf(:| cannot be read| could not be loaded).*etch it again"
        ):
            Engine.load(small, settings(streams=1))


def test_in_the_hubs_cache_the_hash_of_a_file_is_its_content(small: Path) -> None:
    blob = small.with_name("a" * 64)
    small.rename(blob)
    small.symlink_to(blob)
    trimmed = find_or_make(small)
    assert trimmed is not None
    os.utime(blob, (0, 0))
    assert find(small) == trimmed


def test_a_damaged_copy_is_made_again(small: Path, caplog: pytest.LogCaptureFixture) -> None:
    trimmed = find_or_make(small)
    assert trimmed is not None
    whole = trimmed.path.read_bytes()
    trimmed.path.write_bytes(whole[:-40] + b"?" * 8 + whole[-32:])
    assert find_or_make_checked(small) == trimmed
    assert "is damaged: it is made again" in caplog.text
    assert trimmed.path.read_bytes() == whole
    trimmed.path.with_suffix(".sha256").write_text("")  # a disk that was full, or lost its power
    assert find_or_make_checked(small) == trimmed
    assert is_intact(trimmed)
    trimmed.path.write_bytes(whole[:-32])
    assert find(small) is None
    assert find_or_make(small) == trimmed
    assert trimmed.path.read_bytes() == whole


def test_where_no_folder_can_be_made_the_whole_model_is_used(
    small: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (small.parent / FOLDER).touch()
    with caplog.at_level(logging.INFO):
        assert find_or_make(small) is None
    assert "each step reads all rows of m.gguf, as a copy" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("noticed", ["before", "while writing"])
def test_a_full_disk_is_told_and_nothing_is_left_on_it(
    noticed: str, small: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if noticed == "before":
        usage = shutil.disk_usage(small)._replace(free=1000)
        monkeypatch.setattr(trimmed_head.shutil, "disk_usage", lambda _: usage)
    else:

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(trimmed_head.os, "fsync", full)
    assert find_or_make(small) is None
    (told,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    said = "it takes 1.9 MB, and 0.0 MB are free" if noticed == "before" else "No space left on device"
    assert told.message.endswith(f"{FOLDER}: {said}. Free some of the disk")
    assert not held(small.parent / FOLDER)


def test_tier_1_makes_it_at_its_first_start_unless_it_serves_text_too(small: Path) -> None:
    for unconstrained, outputs in ((True, VOCABULARY), (False, len(KEPT))):
        engine = Engine.load(small, settings(streams=1, unconstrained=unconstrained))
        engine.close()
        assert engine.load_report()["outputs"] == outputs
        assert (find(small) is None) == unconstrained


def test_nothing_is_made_where_nothing_is_gained(tmp_path: Path, small: Path) -> None:
    voice = Path(shutil.copy(embedded.MODEL, tmp_path / "voice.gguf"))
    assert find_or_make(voice) is None
    assert not (tmp_path / FOLDER).exists()
    trimmed = find_or_make(small)
    assert trimmed is not None
    assert find_or_make(trimmed.path) is None


def test_an_adapter_of_the_layers_says_the_same_with_it_and_one_of_the_ends_does_without(
    small: Path, tmp_path: Path
) -> None:
    layers = Lora(save_lora(tmp_path / "layers.gguf", model=small, strength=40))
    ends = Lora(save_lora(tmp_path / "ends.gguf", model=small, tensors=("token_embd.weight",)))
    assert find_or_make(small, ends) is None
    assert find(small) is None
    trimmed = find_or_make(small, layers)
    assert trimmed is not None
    said = []
    for lora, head in ((layers, None), (layers, trimmed), (None, trimmed)):
        engine = Engine.open(small, load_config(), 0, lora=lora, trimmed=head)
        said += say(engine, Completion(TURN, 5 * SLOTS, Sampling(seed=1)))
        engine.close()
    assert said[0] == said[1] != said[2]


def load_config() -> EngineConfig:
    return EngineConfig.from_settings(settings(), gpu=False)


def test_the_doctor_looks_at_what_is_loaded(small: Path) -> None:
    trimmed = find_or_make(small)
    assert trimmed is not None
    told = [finding.text for finding in doctor.model(settings(model=str(small)))]
    assert f"tier 1 loads {trimmed.path.stat().st_size:,} bytes of it, {len(KEPT)} rows of the output" in told
    trimmed.path.write_bytes(trimmed.path.read_bytes()[:-1] + b"?")
    told = [finding.text for finding in doctor._trimmed(small)]
    assert any("were damaged and are removed" in text for text in told)
    assert find(small) is None


def test_a_damaged_head_is_a_sentence(tmp_path: Path) -> None:
    whole = embedded.MODEL.read_bytes()
    path = tmp_path / "m.gguf"
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole[: int(random.integers(0, 400_000))])
        for at in random.integers(0, max(len(damaged), 1), 20):
            damaged[at : at + 1] = bytes(random.integers(0, 256, len(damaged[at : at + 1]), np.uint8))
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match="fetch it again"):
            GgufFile.read(path)
        assert find_or_make(path) is None


def test_a_head_that_makes_no_sense_is_no_crash(small: Path, tmp_path: Path) -> None:
    whole = GgufFile.read(small)
    path = tmp_path / "odd.gguf"
    numbers = GgufFile.read(embedded.MODEL).fields["tokenizer.ggml.token_type"]
    for odd in (
        {"general.alignment": field("general.alignment", 0)},
        {"split.count": field("split.count", "many")},
        {"tokenizer.ggml.tokens": field("tokenizer.ggml.tokens", "none")},
        {"tokenizer.ggml.tokens": numbers.replace(b"token_type", b"tokens", 1)},
        {"general.architecture": field("general.architecture", 7)},
    ):
        path.write_bytes(gguf_file.head([*(whole.fields | odd).values()], whole.tensors, 32) + bytes(1000))
        assert find_or_make(path) is None


def test_a_model_that_is_not_there_has_none(tmp_path: Path) -> None:
    assert find(tmp_path / "m.gguf") is None
    assert find_or_make(tmp_path / "m.gguf") is None
