"""The recipe of the embedded voice, at a size that runs in a minute."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from random import Random

import gguf
import numpy as np
import pytest
import soundfile
import torch
from snac import SNAC

from orpheus import embedded
from orpheus.vocabulary import Vocabulary
from training import (
    alignment,
    carry,
    codec,
    codes,
    features,
    gguf_file,
    language,
    likeness,
    listen,
    melody,
    preference,
    recover,
    samples,
    shift,
    sing,
    speech,
    texts,
    tries,
    turns,
    voiced_waves,
    whisper,
)
from training.__main__ import SMOKE, STAGES, run
from training.batches import collate
from training.clock import TEACHER_HZ
from training.coder import Coder, Recovery
from training.speakers import SPEAKERS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every stage from texts to GGUF, once."""
    out = tmp_path_factory.mktemp("recipe")
    for stage in STAGES[: STAGES.index("listen")]:
        run(stage, SMOKE, out)
    return out


def test_the_same_seed_gives_the_same_codes(made: Path, tmp_path: Path) -> None:
    """From the texts on: speech, features and codes made again are the same to the bit."""
    for stage in ("texts", "speech", "features", "codes"):
        run(stage, SMOKE, tmp_path)
    first, again = samples.read(made / "codes"), samples.read(tmp_path / "codes")
    assert [one.text for one in first] == [one.text for one in again]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.frames, other.frames)


def test_stages_that_need_no_teacher_load_none() -> None:
    """A carried folder is learned from where neither the teacher nor the tools that move its voice are installed."""

    def loaded(module: str) -> set[str]:
        asked = f"import sys, {module}; print(*sys.modules)"
        told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
        return set(told.stdout.split())

    teachers = {"piper", "parselmouth", "pyworld"}
    recipe = loaded("training.__main__")
    assert "training.language" in recipe
    assert not {*teachers, "llama_cpp", "pocketsphinx"} & recipe
    assert not teachers & loaded("training.tries")


def test_a_stage_that_was_stopped_makes_only_what_is_missing(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(made, out)
    kept = (out / "speech" / "00000.flac").stat().st_mtime_ns
    missing = out / "codes" / "00000.npz"
    missing.unlink()
    for stage in ("texts", "speech", "features", "codes"):
        run(stage, SMOKE, out)
    assert missing.exists()
    assert (out / "speech" / "00000.flac").stat().st_mtime_ns == kept


@pytest.mark.parametrize(
    ("stage", "loss"),
    [("language", "attention_miss"), ("codec", "spectral_loss"), ("codec", "discriminator_loss")],
)
def test_a_loss_that_is_nan_changes_no_weight(
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    loss: str,
) -> None:
    """Everything learned is saved over the only checkpoint, so one such step would lose it all."""
    module = {"language": language, "codec": codec}[stage]
    whole, calls = getattr(module, loss), count()
    monkeypatch.setattr(module, loss, lambda *given: whole(*given) * (np.nan if next(calls) == 1 else 1))
    (tmp_path / "codes").symlink_to(made / "codes")
    for name in ("speech", "shifted", "features"):
        (tmp_path / name).symlink_to(made / name)
    recipe = replace(SMOKE, codec=replace(SMOKE.codec, adversarial_from=0.0))
    run(stage, recipe, tmp_path)
    assert next(calls) > 2
    assert "1 skipped as not finite" in capsys.readouterr().out
    state = torch.load(tmp_path / f"{stage}.pt", weights_only=True)
    for part in ("model", "snac", "discriminators"):
        assert all(value.isfinite().all() for value in state.get(part, {}).values())


def test_frames_last_as_long_as_the_teacher_spoke(made: Path) -> None:
    lines = {line["id"]: line for line in speech.read_lines(made / "speech" / "00000")}
    for one in samples.read(made / "codes"):
        spoken_s = lines[one.number]["samples"] / TEACHER_HZ
        assert 0 <= len(one.frames) * 2048 / 24000 - spoken_s < 2048 / 24000 + 0.001
        assert len(one.positions) == len(one.phones) == 4 * len(one.frames)


def test_the_coder_of_a_finished_voice_can_be_recovered(made: Path, tmp_path: Path) -> None:
    """Its centres and melodies exactly as its codec learned them; enough of the rest to code its teacher and go on."""
    for name in ("texts.jsonl", "speech", "features", "model.gguf", "snac"):
        (tmp_path / name).symlink_to(made / name)
    run("recover", SMOKE, tmp_path)
    (coder, mean, melodies), (true, true_mean, true_melodies) = codes.load(tmp_path), codes.load(made)
    np.testing.assert_allclose(melodies, true_melodies, atol=0.001)
    for speaker in SPEAKERS:  # else a lesson's pulses and the codec's waves part
        periods = melody.whole_periods(melodies, speaker)
        np.testing.assert_array_equal(periods, melody.whole_periods(true_melodies, speaker))
    np.testing.assert_allclose(mean, true_mean, atol=1e-5)
    for book, true_book in ((coder.middle, true.middle), (coder.fine, true.fine)):
        scaled = true_book.centres / true_book.centres.std()
        np.testing.assert_allclose(book.centres, scaled, atol=0.03)
    run("codes", SMOKE, tmp_path)
    coded, truly = samples.read(tmp_path / "codes"), samples.read(made / "codes")
    assert [one.frames.shape for one in coded] == [one.frames.shape for one in truly]
    agreed = [
        np.mean(one.frames[:, 0] == other.frames[:, 0]) for one, other in zip(coded, truly, strict=True)
    ]
    assert np.mean(agreed) > 0.9
    kept = (tmp_path / "codes" / "coder.pt").stat().st_mtime_ns
    run("recover", SMOKE, tmp_path)
    assert (tmp_path / "codes" / "coder.pt").stat().st_mtime_ns == kept


def test_a_coder_is_recovered_from_what_its_codes_mean() -> None:
    """A coder of random weights codes anything; one that has only its centres learns to choose as it does."""
    torch.manual_seed(3)
    true = Coder(66, 16, 32, 8).eval()
    with torch.no_grad():
        middle, fine = torch.randint(16, (1, 2000)), torch.randint(16, (1, 4000))
        heard = true.rebuild(middle, fine)
        heard = (heard - heard.mean(dim=2, keepdim=True)) / heard.std(dim=2, keepdim=True)
    corpus = recover.Corpus(heard[0].T.numpy(), middle[0].numpy(), fine[0].numpy())
    found = Coder(66, 16, 32, 8)
    found.middle.centres, found.fine.centres = true.middle.centres, true.fine.centres
    plan = Recovery(meaning_steps=400, choosing_steps=800, latents=32)
    recover.learn(found, corpus, corpus, plan, 1)
    with torch.no_grad():
        _, chosen_middle, chosen_fine, _ = found(heard)
    assert (chosen_middle == middle).float().mean() > 0.8
    assert (chosen_fine == fine).float().mean() > 0.8


def test_a_coder_is_not_recovered_from_nothing(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--stage features"):
        run("recover", SMOKE, tmp_path)


def test_the_embedded_voice_can_be_trained_further(made: Path, tmp_path: Path) -> None:
    """Its coder, its codec, and the teacher's sentences in its codes."""
    for name in ("texts.jsonl", "speech", "features"):
        (tmp_path / name).symlink_to(made / name)
    run("recover", SMOKE, tmp_path)
    run("codes", SMOKE, tmp_path)
    assert SNAC.from_pretrained(str(tmp_path / "snac")).codebook_size == 4096
    coded = np.concatenate([one.frames for one in samples.read(tmp_path / "codes")])
    assert coded.max() > 64
    assert coded[:, 0].max() < 256


def test_a_finished_voice_can_be_trained_further(made: Path, tmp_path: Path) -> None:
    """It begins as it is: a step of no size leaves what it says where it was."""
    (tmp_path / "codes").symlink_to(made / "codes")
    plan = language.going_on(replace(SMOKE.language, steps=1, rate=1e-9), made / "model.gguf")
    before = gguf_file.read(made / "model.gguf").state_dict()
    after = language.load(language.train(tmp_path, samples.read(made / "codes"), plan, 1)).state_dict()
    for name, values in before.items():
        if not name.startswith("phones"):
            torch.testing.assert_close(after[name], values, msg=name)


def test_a_finished_codec_can_be_trained_further(made: Path, tmp_path: Path) -> None:
    """It begins as it is, whatever the size of the recipe; its waves stay, and the rest learns."""
    for name in ("codes", "shifted"):
        (tmp_path / name).symlink_to(made / name)
    plan = codec.going_on(replace(SMOKE.codec, codes=8, width=64, rate=0.02), made / "snac")
    assert (plan.codes, plan.width) == (SMOKE.codec.codes, SMOKE.codec.width)
    found = codec.utterances(tmp_path, plan.codes)
    before = SNAC.from_pretrained(str(made / "snac")).state_dict()
    begun, held = codec.begin(plan, tmp_path, found)
    for name, values in begun.state_dict().items():
        torch.testing.assert_close(values, before[name], msg=name)
    learned = torch.load(codec.train(tmp_path, found, plan, 1))["snac"]
    moved = 0
    for name, values in begun.named_parameters():
        mask = held.masks.get(values, torch.zeros_like(values, dtype=torch.bool))
        assert torch.equal(learned[name][mask], values[mask]), name
        moved += int((learned[name] != values).sum())
    assert moved > 1000


def test_speakers_differ_in_pitch_and_say_a_sentence_at_the_same_moments(made: Path) -> None:
    _, audio = max(speech.read(made / "speech" / "00000"), key=lambda pair: len(pair[1]))
    prepared = shift.prepare(audio, TEACHER_HZ)
    analysis = shift.analyse(prepared)
    said = {speaker.name: shift.speak(analysis, speaker) for speaker in SPEAKERS}
    assert {len(one) for one in said.values()} == {len(prepared)}
    loud = {name: np.sqrt(np.square(one.reshape(-1, 2048)).mean(axis=1)) > 0.02 for name, one in said.items()}
    for name in said:
        assert np.mean(loud[name] == loud["leo"]) > 0.8, name
    pitches = sorted(speaker.pitch_hz for speaker in SPEAKERS)
    assert min(b / a for a, b in pairwise(pitches)) > 1.08


def test_the_training_audio_has_the_melody_of_the_codes(made: Path) -> None:
    *_, melodies = codes.load(made)
    frames = {one.number: one.frames for one in samples.read(made / "codes")}
    audio, _ = soundfile.read(made / "shifted" / "00000.flac")
    off = []
    for line in json.loads((made / "shifted" / "00000.json").read_text()):
        speaker = SPEAKERS[line["speaker"]]
        if speaker.pitch_hz < 160:  # higher ones are above what joe's pitch is looked for in
            said = audio[line["start"] : line["start"] + line["samples"]].sum(axis=1)
            heard = shift.pitch(said, shift.frame_times(said))
            told = melody.pitch(frames[line["id"]][:, 0], melodies, speaker)
            told = np.append(told[::256], told[-1])
            assert len(told) == len(heard)
            voiced = heard > 0
            off += list(1200 * np.abs(np.log2(heard[voiced] / told[voiced])))
    assert np.median(off) < 20


def test_a_frame_begins_with_a_pulse_and_the_pitch_stays_near() -> None:
    melodies = np.linspace(-0.3, 0.3, 16)[:, None] + np.linspace(-0.05, 0.05, 4)
    coarse = np.array([3, 4, 6, 9, 13, 15, 12, 8, 5, 2, 0, 0])
    for speaker in SPEAKERS:
        hz = melody.pitch(coarse, melodies, speaker)
        positions = sing.pulses(hz)
        assert positions[0] == pytest.approx(0, abs=1e-3)
        starts = np.arange(0, len(hz), 2048)
        assert np.abs(positions[:, None] - starts).min(axis=0).max() < 0.01
        told = speaker.pitch(melody.told(coarse, melodies))
        away = np.abs(np.log(hz / np.interp(np.arange(len(hz)) / 256, np.arange(len(told)), told)))
        fewest = told.min() * 2048 / 24000
        # Half a period and what the neighbours bend, half as much again in the middle.
        assert 0.005 < away.max() < 1.5 * 0.6 / fewest


def test_the_decoder_starts_with_the_phase_of_the_voice() -> None:
    plan = replace(SMOKE.codec, codes=128)  # sixteen melodies
    melodies = np.linspace(-0.15, 0.15, 16)[:, None] + np.linspace(-0.05, 0.05, 4)
    draw = np.random.default_rng(1)
    sequences = [np.clip(8 + np.cumsum(draw.integers(-2, 3, 60)), 0, 15) for _ in range(20)]
    snac = SNAC(**plan.config()).eval()
    voiced_waves.lay(snac, melodies, sequences)
    seen: dict[int, torch.Tensor] = {}
    for level in (2, 3):
        unit = snac.decoder.model[level].block[3]
        unit.register_forward_hook(lambda _, __, waves, level=level: seen.update({level: waves[0]}))
    for number, speaker in enumerate(SPEAKERS):
        frames = np.zeros((60, 7), int)
        frames[:, 0] = sequences[number]
        spoken = samples.said_by(number, frames, 128)
        codec.decode(snac, spoken)
        cycles = np.cumsum(melody.pitch(frames[:, 0], melodies, speaker)) / 24000
        for level, samples_a_position, first in ((2, 8, 2), (3, 2, 1)):
            inner = slice(2 * 2048 // samples_a_position, -2 * 2048 // samples_a_position)
            for position, harmonic in enumerate(voiced_waves.HARMONICS[level]):
                angle = 2 * np.pi * harmonic * cycles[samples_a_position // 2 - 1 :: samples_a_position]
                channel = first + 2 * position
                for offset, wave in enumerate((np.cos(angle), np.sin(angle))):
                    made_wave = seen[level][channel + offset].numpy()
                    likeness = np.corrcoef(made_wave[inner], wave[inner])[0, 1]
                    assert likeness > np.exp(-0.02 * harmonic**2), (speaker.name, level, harmonic)


def test_weights_set_by_hand_are_not_trained(made: Path) -> None:
    found = codec.utterances(made, SMOKE.coder.codes)
    torch.manual_seed(1)
    snac, held = codec.begin(SMOKE.codec, made, found)
    held.guard()
    before = {parameter: parameter.detach().clone() for parameter in held.masks}
    optimizer = torch.optim.AdamW(snac.parameters(), lr=0.1, weight_decay=0.0)
    layers, _, _ = codec.draw_batch(found, SMOKE.codec, np.random.default_rng(1), "cpu")
    for _ in range(2):
        optimizer.zero_grad()
        (snac.decoder(snac.quantizer.from_codes(layers)) - 1).square().sum().backward()
        optimizer.step()
    for parameter, mask in held.masks.items():
        assert torch.equal(parameter[mask], before[parameter][mask])
    assert any(not torch.equal(parameter, old) for parameter, old in before.items())


def test_tone_and_breath_are_the_voice(made: Path) -> None:
    _, audio = speech.read(made / "speech" / "00000")[0]
    analysis = shift.analyse(shift.prepare(audio, TEACHER_HZ))
    hz = SPEAKERS[0].pitch(shift.melody(analysis.f0))
    hz = np.interp(np.arange(256 * (len(hz) - 1)) / 256, np.arange(len(hz)), hz)
    tone, breath = sing.sing(shift.move(analysis, SPEAKERS[0]), hz)
    said = shift.speak(analysis, SPEAKERS[0])
    together = shift.level(tone + breath)
    assert len(together) == len(said)
    loud = [np.log(np.square(one.reshape(-1, 2048)).mean(axis=1) + 1e-6) for one in (together, said)]
    assert np.corrcoef(*loud)[0, 1] > 0.95


def test_carried_audio_keeps_its_length_and_both_channels(made: Path, tmp_path: Path) -> None:
    carried = tmp_path / "carry"
    shutil.copytree(carry.pack(made, 1), carried)
    carry.unpack_audio(carried)
    before, after = (soundfile.read(folder / "shifted" / "00000.flac")[0] for folder in (made, carried))
    assert after.shape == before.shape
    lasts = len(before) // 2048 * 2048
    loud = [np.square(one[:lasts].reshape(-1, 2048, 2)).mean(axis=1) ** 0.5 for one in (before, after)]
    for channel in range(2):
        assert np.corrcoef(loud[0][:, channel], loud[1][:, channel])[0, 1] > 0.9


def test_a_turn_is_the_published_prompt_with_codes_of_one_speaker_in_slot_order(made: Path) -> None:
    sample = samples.read(made / "codes")[0]
    codes = SMOKE.coder.codes
    turn = turns.turn(sample, codes, Random(1), vary=False)
    names = turns.token_texts(codes)
    vocabulary = Vocabulary.from_tokens(names, "the recipe")
    assert len(names) == turns.vocabulary_size(codes)
    assert [names[token] for token in turn.ids[:2]] == ["<custom_token_3>", "<|begin_of_text|>"]
    assert vocabulary.number_of_id(int(turn.ids[-1])) == 2
    spoken = turn.ids[len(turn.ids) - 1 - 7 * len(sample.frames) : -1]
    for position, token in enumerate(spoken):
        assert int(token) in vocabulary.code_ids[position % 7]
    coarse = (spoken[::7] - vocabulary.code_ids[0].start) // (codes // len(SPEAKERS))
    assert len(set(coarse.tolist())) == 1
    assert SPEAKERS[coarse[0]].rate == sample.rate


def test_the_letter_guide_runs_through_the_text_from_its_first_to_its_last_word() -> None:
    text = "Ann has 42 cats."
    letters = alignment.letter_of_phonemes(text, [*"^æn hæz fˈɔːɹɾi tˈuː kˈæts.$"])
    assert (np.diff(letters) >= 0).all()
    assert letters[0] < 2
    assert letters[-1] > len(text) - 3


def test_both_weights_load_where_the_service_loads_them(made: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    snac = SNAC.from_pretrained(str(made / "snac"))
    frames = samples.said_by(3, samples.read(made / "codes")[0].frames, SMOKE.coder.codes)
    assert codec.decode(snac, frames).shape[-1] == 2048 * len(frames)
    llama = llama_cpp.Llama(str(made / "model.gguf"), n_ctx=256, verbose=False)
    assert llama.n_vocab() == turns.vocabulary_size(SMOKE.coder.codes)
    prompt = (
        "<custom_token_3><|begin_of_text|>tara: Hé!<|eot_id|><custom_token_4><custom_token_5><custom_token_1>"
    )
    assert llama.tokenize(prompt.encode(), add_bos=False, special=True) == turns.prompt("Hé!", "tara")
    assert llama.token_eos() == turns.END_TURN


def test_texts_keep_their_tags_and_the_teacher_hears_sounds(made: Path) -> None:
    assert texts.spoken("<laugh> Hello.") == "ha ha ha ha! Hello."
    for line in (made / "texts.jsonl").read_text().splitlines():
        assert "<" not in json.loads(line)["spoken"]


def test_the_model_continues_its_own_codes_and_only_legal_ones(made: Path) -> None:
    codes, plan = SMOKE.coder.codes, replace(SMOKE.language, own=1.0)
    model = language.load(made / "language.pt")
    told = [turns.turn(one, codes, Random(1), vary=False) for one in samples.read(made / "codes")]
    ids = collate(told, "cpu").ids
    torch.manual_seed(5)
    heard = language.own_words(model, ids, plan)
    is_code = (ids >= turns.FIRST_CODE_ID) & (ids < turns.legacy_audio(codes))
    slots, kept = (ids - turns.FIRST_CODE_ID) // codes, (heard == ids)
    assert kept[~is_code].all()
    assert ((heard - turns.FIRST_CODE_ID) // codes == slots)[is_code].all()
    assert 0.1 < kept[is_code].float().mean() < 0.9
    same_as_before = (kept[:, 1:] == kept[:, :-1])[is_code[:, 1:]].float().mean()
    assert same_as_before > 0.75  # stretches; of single codes it would be about a half
    assert language.own_words(model, ids, replace(plan, own=0.0)).equal(ids)


def test_only_legal_codes_of_the_slot_count_and_their_level_is_measured(made: Path) -> None:
    model = language.load(made / "language.pt")
    codes, stop = SMOKE.coder.codes, turns.CONTROL_ID[2]
    torch.manual_seed(2)
    targets = torch.tensor([turns.FIRST_CODE_ID + slot * codes + slot for slot in range(7)] + [stop])
    hidden = torch.randn(len(targets), model.shape.width)
    expected, levels = [], []
    for slot, state, target in zip([*range(7), 0], hidden, targets, strict=True):
        first = turns.FIRST_CODE_ID + slot * codes
        legal = [*range(first, first + codes), *([stop] if slot == 0 else [])]
        weighed = torch.logsumexp(model.rows()[legal] @ state, dim=0)
        levels.append(weighed**2)
        expected.append(weighed - model.rows()[target] @ state)
    told, level = language.legal_entropy(model, hidden, targets)
    torch.testing.assert_close(told, torch.stack(expected).mean())
    torch.testing.assert_close(level, torch.stack(levels).mean())


def test_a_finished_plan_continues_with_more_steps(made: Path, tmp_path: Path) -> None:
    (tmp_path / "codes").symlink_to(made / "codes")
    shutil.copy(made / "language.pt", tmp_path)
    run(
        "language", replace(SMOKE, language=replace(SMOKE.language, steps=SMOKE.language.steps + 3)), tmp_path
    )
    assert torch.load(tmp_path / "language.pt", weights_only=True)["step"] == SMOKE.language.steps + 3


def test_of_two_tries_the_one_that_was_understood_becomes_likelier(made: Path) -> None:
    model, codes = language.load(made / "language.pt"), SMOKE.coder.codes
    draw = np.random.default_rng(3)

    def said(text: str, wrong: float, right: bool) -> tries.Try:
        frames, sure = draw.integers(0, codes, (6, 7)), np.array([0.0, -3.0 * wrong])
        heard, spans = np.array([True, right]), np.array([[0, 3], [3, 6]])
        return tries.Try(text, "leo", frames, True, wrong, heard, sure, spans, np.full(6, np.nan))

    told = [
        [said(text, wrong, wrong < 0.5) for wrong in (0.5, 0.0, 1.0)] for text in ("One two.", "Three four.")
    ]
    plan = replace(SMOKE.preference, passes=12, rate=3e-3, batch_tokens=10)
    taught = preference.learn(model, told, plan, 1)
    with torch.no_grad():
        before, now = (preference.likelihoods(one, told).codes for one in (model, taught))
    for first, after in zip(before, now, strict=True):
        gains = [float((b - a).sum()) for a, b in zip(first, after, strict=True)]
        assert gains[1] > max(gains[0], gains[2])
        # The word that both others lost is what moved them apart.
        words = [float((b - a)[3 * 7 : 6 * 7].sum()) for a, b in zip(first, after, strict=True)]
        assert words[1] > max(words[0], words[2])
    # What is learned among a slot's own codes lets no other in, which engines other than ours would draw.
    with torch.no_grad():
        leaks = [float(preference.likelihoods(one, told).illegal) for one in (model, taught)]
    assert leaks[1] < leaks[0]


def test_of_two_tries_understood_alike_the_one_more_like_the_teacher_becomes_likelier(made: Path) -> None:
    model, codes = language.load(made / "language.pt"), SMOKE.coder.codes
    draw = np.random.default_rng(5)

    def said(away: float) -> tries.Try:
        frames, spans = draw.integers(0, codes, (6, 7)), np.array([[0, 3], [3, 6]])
        far = np.array([1.0, 1.0, 1.0, away, away, away])
        return tries.Try("One two.", "leo", frames, True, 0.0, np.ones(2, bool), np.zeros(2), spans, far)

    told = [[said(away) for away in (1.5, 0.5, 2.5)]]
    plan = replace(SMOKE.preference, passes=12, rate=3e-3)
    taught = preference.learn(model, told, plan, 1)
    with torch.no_grad():
        before, now = (preference.likelihoods(one, told).codes[0] for one in (model, taught))
    gains = [float((b - a)[3 * 7 : 6 * 7].sum()) for a, b in zip(before, now, strict=True)]
    assert gains[1] > gains[0] > gains[2]


def test_distances_are_along_the_nearest_path() -> None:
    draw = np.random.default_rng(2)
    times = np.concatenate([np.arange(0, 60, 1.0), np.arange(60, 120, 1.5), np.arange(120, 180, 0.75)])
    line = np.abs(np.arange(180.0) - times[:, None])
    path = likeness.align(line)
    assert path is not None
    assert tuple(path[0]) == (0, 0)
    assert tuple(path[-1]) == (len(times) - 1, 179)
    assert np.diff(path, axis=0).min() >= 0
    assert set(path[:, 0]) == set(range(len(times)))
    assert set(path[:, 1]) == set(range(180))
    assert np.abs(times[path[:, 0]] - path[:, 1]).max() < 2
    assert likeness.align(draw.random((10, 25))) is None


def test_speech_is_nearer_to_its_own_sentence_than_to_another(made: Path) -> None:
    (name,) = features.shards(made)
    first, second, *_ = sorted(features.read(made, name), key=lambda one: abs(len(one.bands) - 240))
    slower = np.repeat(first.bands, np.arange(len(first.bands)) % 4 // 3 + 1, axis=0)
    louder = slower[: len(slower) // 8 * 8] + 1.0
    near, far = likeness.away(louder, first.bands), likeness.away(louder, second.bands)
    assert near is not None
    assert far is not None
    assert len(near) == len(louder) // 8
    assert near.mean() < 0.1 < 0.5 < far.mean()


def test_tries_are_of_sentences_to_learn_from_and_read_as_they_were_written(
    made: Path, tmp_path: Path
) -> None:
    held_out = {line["text"] for line in texts.read(made) if line["test"]}
    every = tries.sentences(made, 0, 100)
    assert every
    assert not held_out & set(every)
    assert tries.sentences(made, 1, 1) == every[1:2]
    (file,) = (made / "tries" / "0").glob("*.npz")
    read = tries.read(file)
    assert [some[0].text for some in read] == every[: SMOKE.preference.sentences]
    taught = tries.teachers_bands(made, every)
    assert set(taught) == set(every)
    tries.write(tmp_path / "again.npz", [one for some in read for one in some])
    for some, others in zip(read, tries.read(tmp_path / "again.npz"), strict=True):
        for one, other in zip(some, others, strict=True):
            np.testing.assert_equal(vars(one), vars(other))
    assert torch.load(made / "preferred.pt", weights_only=True)["rounds"] == 1


def test_a_word_is_located_and_counted_as_understood(made: Path) -> None:
    text = "The road was closed because of the snow."
    audio, _ = speech.speak(speech.load_teacher(), text, 1)
    spans = listen.when_said(audio, text, TEACHER_HZ)
    assert len(spans) == 8
    assert (spans[:, 0] < spans[:, 1]).all()
    assert (spans[1:, 0] >= spans[:-1, 1] - 1e-9).all()
    assert 0 <= spans[0, 0] < spans[-1, 1] <= len(audio) / TEACHER_HZ + 0.05
    right, wrong = listen.understood(text, "the road was clothed because of a the snow")
    assert right.tolist() == [True, True, True, False, True, False, False, True]
    assert wrong == pytest.approx(2 / 8)
    assert not listen.knows("The road was xyzzyish.")


def test_a_second_recognizer_is_surer_of_the_right_words() -> None:
    said, other = "The boat drifted slowly - very slowly.", "The goat lifted slowly - very slowly."
    audio, _ = speech.speak(speech.load_teacher(), said, 1)
    assert {"boat", "slowly"} <= set(whisper.hear(audio, TEACHER_HZ).split())
    right, wrong = (whisper.sure(audio, text, TEACHER_HZ) for text in (said, other))
    assert right.shape == wrong.shape == (6,)  # a dash is no word
    assert (right >= whisper.UNHEARD).all()
    assert (right <= 0).all()
    assert (right[1:3] > wrong[1:3] + 1).all()
    assert len(whisper.sure(audio, "A half-drifted boat.", TEACHER_HZ)) == 4
    for nothing in (np.zeros(0, np.int16), np.zeros(24_000, np.float32), np.zeros(40 * 24_000, np.float32)):
        assert whisper.hear(nothing) == ""
        assert whisper.sure(nothing, said).mean() < right.mean()


def test_a_model_is_read_back_from_its_gguf(made: Path, tmp_path: Path) -> None:
    model = language.load(made / "preferred.pt")
    gguf_file.write(model, tmp_path / "model.gguf", "F16")
    again = gguf_file.read(tmp_path / "model.gguf")
    assert replace(again.shape, phone_layer=model.shape.phone_layer) == model.shape
    torch.testing.assert_close(again.rows(), model.rows(), atol=2e-4, rtol=1e-3)
    ids = torch.tensor([turns.prompt("Hello.", "tara")])
    with torch.no_grad():
        torch.testing.assert_close(again(ids)[0], model(ids)[0], atol=2e-2, rtol=1e-2)


def test_a_file_is_sharper_than_its_model(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says by how much; an older file says nothing and is as sharp as its model."""
    model = language.load(made / "preferred.pt")

    def stored() -> torch.Tensor:
        tensors = {one.name: one.data for one in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
        return torch.from_numpy(np.array(tensors["output_norm.weight"]))

    gguf_file.write(model, tmp_path / "model.gguf")
    torch.testing.assert_close(stored(), gguf_file.SHARPNESS * model.output_norm.weight.detach())
    add = gguf.GGUFWriter.add_float32
    monkeypatch.setattr(
        gguf.GGUFWriter, "add_float32", lambda *given: add(*given) if "sharpness" not in given[1] else None
    )
    gguf_file.write(model, tmp_path / "model.gguf")
    torch.testing.assert_close(gguf_file.read(tmp_path / "model.gguf").output_norm.weight.detach(), stored())


def test_without_a_language_model_training_continues_from_the_embedded_voice(
    made: Path, tmp_path: Path
) -> None:
    (tmp_path / "texts.jsonl").symlink_to(made / "texts.jsonl")
    run("preference", replace(SMOKE, preference=replace(SMOKE.preference, sentences=1)), tmp_path)
    run("gguf", SMOKE, tmp_path)
    assert len(gguf_file.read(tmp_path / "model.gguf").blocks) == len(gguf_file.read(embedded.MODEL).blocks)
    (file,) = (tmp_path / "tries" / "0").glob("*.npz")
    assert all(one.ended for some in tries.read(file) for one in some)
