"""FrameAssembler: tokens in, whole frames out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orpheus.frames import FrameAssembler
from orpheus.vocabulary import END_OF_SPEECH, FIRST_CODE, LAST_CODE, number_of


def frame(*codes: int) -> list[int]:
    return [number_of(slot, code) for slot, code in enumerate(codes)]


def test_a_frame_leaves_when_its_seventh_token_is_there() -> None:
    assembler = FrameAssembler()
    numbers = frame(5, 1, 2, 3, 4, 9, 4095)
    assert assembler.push(numbers[:6]) == []
    assert assembler.push(numbers[6:]) == [5, 1, 2, 3, 4, 9, 4095]
    assert (assembler.frames, assembler.resyncs, assembler.dropped) == (1, 0, 0)


def test_code_zero_is_sound_like_any_other() -> None:
    assert FrameAssembler().push(frame(0, 0, 0, 0, 0, 0, 0) * 2) == [0] * 14


def test_control_tokens_and_numbers_out_of_range_are_passed_over() -> None:
    numbers = frame(1, 2, 3, 4, 5, 6, 7)
    noisy = [END_OF_SPEECH, numbers[0], FIRST_CODE - 1, *numbers[1:4], LAST_CODE + 1, -3, *numbers[4:]]
    assembler = FrameAssembler()
    assert assembler.push(noisy) == [1, 2, 3, 4, 5, 6, 7]
    assert assembler.resyncs == 0


def test_a_missing_token_costs_its_own_frame_only() -> None:
    broken = frame(1, 1, 1, 1, 1, 1, 1)
    del broken[3]
    assembler = FrameAssembler()
    assert (
        assembler.push(frame(7, 7, 7, 7, 7, 7, 7) + broken + frame(9, 9, 9, 9, 9, 9, 9)) == [7] * 7 + [9] * 7
    )
    assert (assembler.frames, assembler.resyncs, assembler.dropped) == (2, 1, 6)


def test_a_frame_that_starts_anew_in_the_middle_is_kept() -> None:
    assembler = FrameAssembler()
    assert assembler.push(frame(1, 1, 1, 1, 1, 1, 1)[:4] + frame(2, 2, 2, 2, 2, 2, 2)) == [2] * 7
    assert (assembler.resyncs, assembler.dropped) == (1, 4)


def test_a_start_in_the_middle_of_a_frame_waits_for_slot_zero() -> None:
    assembler = FrameAssembler()
    assert assembler.push(frame(1, 1, 1, 1, 1, 1, 1)[3:] + frame(2, 2, 2, 2, 2, 2, 2)) == [2] * 7
    assert (assembler.resyncs, assembler.dropped) == (1, 4)


@given(
    st.lists(st.tuples(*[st.integers(0, 4095)] * 7), max_size=5),
    st.lists(st.integers(0, 35), max_size=4),
)
def test_how_tokens_are_split_changes_nothing(frames: list[tuple[int, ...]], cuts: list[int]) -> None:
    numbers = [number for codes in frames for number in frame(*codes)]
    assembler, out, start = FrameAssembler(), [], 0
    for cut in [*sorted(cuts), len(numbers)]:
        out += assembler.push(numbers[start:cut])
        start = max(start, cut)
    assert out == [code for codes in frames for code in codes]
    assert assembler.frames == len(frames)


@given(st.lists(st.integers(0, LAST_CODE + 10), max_size=60))
def test_every_audio_token_is_given_out_dropped_or_still_held(numbers: list[int]) -> None:
    assembler = FrameAssembler()
    out = assembler.push(numbers)
    audio = sum(FIRST_CODE <= number <= LAST_CODE for number in numbers)
    assert len(out) == 7 * assembler.frames
    assert 0 <= audio - len(out) - assembler.dropped < 7


def test_four_seconds_of_the_same_few_frames_are_a_loop_and_speech_is_not() -> None:
    from orpheus.frames import LoopWatch

    for period in (1, 3, 8):
        watch = LoopWatch()
        loops = [watch.push([frame % period] * 7) for frame in range(60)]
        assert loops.index(True) >= 47
        assert loops[-1]
    watch = LoopWatch()
    assert not any(watch.push([frame % 9] * 7) for frame in range(200))
    watch = LoopWatch()
    assert not any(watch.push([7] * 7 * 40 + [8] * 7) for _ in range(5))
