"""The figures of a voice, and the judges on the teacher's own audio."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from orpheus import embedded
from training import speech
from training.figures import identity_accuracy, mismatch, summary, table
from training.judges import LISTENERS, ROOM, SILENCE_S, Row, Task, Verdict, in_a_room, judge, sound_s
from training.speakers import SPEAKERS

TEXT = "The boat drifted slowly down the river."


def row(voice: str, text: str, heard: str, identity: list[float], said_s: float = 2.0) -> Row:
    """A row whose teacher was understood, in another voice than any of ours, and took two seconds."""
    unlike = np.array([0, 0, 0, 1], np.float32)
    return Row(
        voice,
        text,
        {
            "teacher": Verdict(dict.fromkeys(LISTENERS, text), 3.0, unlike, 2.0),
            "voice": Verdict(
                {"pocketsphinx": heard, "whisper": text}, 2.5, np.array(identity, np.float32), said_s
            ),
        },
        {},
    )


def test_figures_by_voice_and_overall() -> None:
    rows = [
        row("tara", "one two three four", "one two three four", [1, 0, 0, 0]),
        row("tara", "five six seven eight", "five six", [1, 0.1, 0, 0], said_s=1.0),
        row("dan", "one two three four", "", [0, 1, 0, 0]),
        row("dan", "five six seven eight", "five six seven eight", [0, 1, 0.1, 0]),
    ]
    ran_away = {(one.voice, one.text): one.voice == "dan" and one.text.startswith("one") for one in rows}
    figures = summary(rows, ran_away)
    assert figures["wer_teacher"] == {"tara": 0, "dan": 0, "overall": 0}
    assert figures["wer_codec"] == {"tara": None, "dan": None, "overall": None}
    assert figures["wer_voice"] == {"tara": 0.25, "dan": 0.5, "overall": 0.375}
    assert figures["wer_whisper_voice"] == {"tara": 0, "dan": 0, "overall": 0}
    assert figures["dnsmos_voice"]["overall"] == 2.5
    assert figures["runaway_rate"] == {"tara": 0, "dan": 0.5, "overall": 0.25}
    assert figures["early_stop_rate"] == {"tara": 0.5, "dan": 0, "overall": 0.25}
    assert figures["words_per_minute_voice"] == {
        "tara": 160,
        "dan": 120,
        "overall": pytest.approx(137.14, abs=0.01),
    }
    assert figures["identity_accuracy"] == {"tara": 1, "dan": 1, "overall": 1}
    assert "| dan | 0.000 | — | 0.500 |" in table(figures)


def test_one_speaker_under_two_names_is_no_better_than_chance() -> None:
    draw = np.random.default_rng(1)
    rows = [
        row(voice, f"sentence {number}", "", (np.array([1, 0, 0, 0]) + 0.3 * draw.normal(size=4)).tolist())
        for voice in ("tara", "dan")
        for number in range(60)
    ]
    accuracy = identity_accuracy(rows, "voice")["overall"]
    assert accuracy is not None
    assert 0.3 < accuracy < 0.7


def test_all_are_judged_in_the_same_quiet_room() -> None:
    cut = np.sin(np.arange(2400)).astype(np.float32)
    played = in_a_room(cut)
    before = round(SILENCE_S * 24_000)
    assert len(played) == len(cut) + 2 * before
    assert np.std(played[:before]) == pytest.approx(ROOM, rel=0.05)
    assert np.max(np.abs(played[before:-before] - cut)) < 6 * ROOM
    assert np.array_equal(played, in_a_room(cut))


def test_a_sentence_that_was_not_made_counts_every_word_as_missed() -> None:
    said = row("tara", "one two three four", "one two three four", [1, 0, 0, 0])
    missing = Row("tara", "five six seven eight", {"teacher": said.verdicts["teacher"]}, {})
    figures = summary([said, missing], {("tara", said.text): False, ("tara", missing.text): True})
    assert figures["wer_voice"]["tara"] == 0.5
    assert figures["runaway_rate"]["tara"] == 0.5


def test_the_judges_understand_the_teacher_and_distinguish_its_voices() -> None:
    spoken, _ = speech.speak(speech.load_teacher(), TEXT, 1)
    names = [speaker.name for speaker in SPEAKERS]
    rows = {name: judge(Task(names.index(name), TEXT, None, None, embedded.CODEC)) for name in ("mia", "leo")}
    for name, one in rows.items():
        teacher = one.verdicts["teacher"]
        assert set(one.verdicts) == {"teacher"}
        for heard in teacher.heard.values():
            assert len(set(heard.split()) & set(TEXT.lower().strip(".").split())) >= 3, (name, teacher.heard)
        assert 1.5 < teacher.mos < 5
        assert abs(teacher.sound_s - len(spoken) / 22050) < 1
        assert np.linalg.norm(teacher.identity) == pytest.approx(1, abs=1e-3)
    mia, leo = (rows[name].verdicts["teacher"].identity for name in ("mia", "leo"))
    assert mia @ leo < 0.9
    assert sound_s(np.zeros(100, np.float32)) == 0


def test_a_codec_that_does_not_speak_the_recipes_codes_is_named(tmp_path: Path) -> None:
    assert "holds no codes/coder.pt" in (mismatch(tmp_path, embedded.CODEC) or "")
