"""The benchmark of tier 2's ceiling: what it pretends is what is real; and, slowly, that it measures."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from benchmarks.ceiling_parts import Schedule, _event, frame_count, frame_numbers
from orpheus.prompt import turn_text
from orpheus.tts.frames import FrameAssembler, RepetitionDetector
from orpheus.tts.token_source import read_event
from orpheus.vocabulary import TokenTextParser, numbers_from_published_ids
from tests.support.live import ROOT


def test_its_frames_are_read_like_those_of_a_tier_1_and_are_no_loop() -> None:
    assembler, repetition = FrameAssembler(), RepetitionDetector()
    for numbers in frame_numbers() * 3:
        event = read_event(_event(numbers))
        assert event is not None
        assert tuple(TokenTextParser().parse(event.text)) == numbers
        assert tuple(numbers_from_published_ids(event.ids)) == numbers
        assert not repetition.detect(assembler.assemble(numbers))
    assert (assembler.frames, assembler.resyncs) == (3 * len(frame_numbers()), 0)
    last = read_event(_event((), "stop"))
    assert last is not None
    assert last.finish_reason == "stop"


def test_its_speech_is_as_long_as_speech_and_as_fast_as_asked() -> None:
    assert 60 < frame_count("a" * 84) < 80  # six seconds
    schedule = Schedule(turn_text("tara", "Hello there, how are you?"), pace=2.0)
    began_s = schedule.due_s
    for _ in range(24):
        schedule.advance()
    assert schedule.due_s - began_s == pytest.approx(1.024)


@pytest.mark.slow
def test_it_measures_what_a_frame_costs() -> None:
    command = [sys.executable, "-m", "benchmarks.ceiling", "--quick", "--streams", "3", "--only", "pcm,opus"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout.splitlines()[-1])
    assert 1 < result["pcm_us_per_frame_3"] < result["opus_us_per_frame_3"]
