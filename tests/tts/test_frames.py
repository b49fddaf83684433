"""FrameAssembler: tokens in, whole frames out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orpheus.tts.frames import FrameAssembler
from orpheus.vocabulary import END_OF_SPEECH, FIRST_CODE, LAST_CODE, number_of


def frame(*codes: int) -> list[int]:
    return [number_of(slot, code) for slot, code in enumerate(codes)]


def test_a_frame_is_complete_with_its_seventh_token() -> None:
    assembler = FrameAssembler()
    numbers = frame(5, 1, 2, 3, 4, 9, 4095)
    assert assembler.assemble(numbers[:6]) == []
    assert assembler.assemble(numbers[6:]) == [5, 1, 2, 3, 4, 9, 4095]
    assert (assembler.frames, assembler.resyncs) == (1, 0)


def test_code_zero_is_sound_like_any_other() -> None:
    assert FrameAssembler().assemble(frame(0, 0, 0, 0, 0, 0, 0) * 2) == [0] * 14


def test_control_tokens_and_numbers_out_of_range_are_skipped() -> None:
    numbers = frame(1, 2, 3, 4, 5, 6, 7)
    noisy = [END_OF_SPEECH, numbers[0], FIRST_CODE - 1, *numbers[1:4], LAST_CODE + 1, -3, *numbers[4:]]
    assembler = FrameAssembler()
    assert assembler.assemble(noisy) == [1, 2, 3, 4, 5, 6, 7]
    assert assembler.resyncs == 0


def test_a_missing_token_costs_its_own_frame_only() -> None:
    broken = frame(1, 1, 1, 1, 1, 1, 1)
    del broken[3]
    assembler = FrameAssembler()
    assert (
        assembler.assemble(frame(7, 7, 7, 7, 7, 7, 7) + broken + frame(9, 9, 9, 9, 9, 9, 9))
        == [7] * 7 + [9] * 7
    )
    assert (assembler.frames, assembler.resyncs) == (2, 1)


def test_a_frame_that_starts_again_in_the_middle_is_kept() -> None:
    assembler = FrameAssembler()
    assert assembler.assemble(frame(1, 1, 1, 1, 1, 1, 1)[:4] + frame(2, 2, 2, 2, 2, 2, 2)) == [2] * 7
    assert assembler.resyncs == 1


def test_a_start_in_the_middle_of_a_frame_waits_for_slot_zero() -> None:
    assembler = FrameAssembler()
    assert assembler.assemble(frame(1, 1, 1, 1, 1, 1, 1)[3:] + frame(2, 2, 2, 2, 2, 2, 2)) == [2] * 7
    assert assembler.resyncs == 1


@given(
    st.lists(st.tuples(*[st.integers(0, 4095)] * 7), max_size=5),
    st.lists(st.integers(0, 35), max_size=4),
)
def test_how_tokens_are_split_changes_nothing(frames: list[tuple[int, ...]], cuts: list[int]) -> None:
    numbers = [number for codes in frames for number in frame(*codes)]
    assembler, out, start = FrameAssembler(), [], 0
    for cut in [*sorted(cuts), len(numbers)]:
        out += assembler.assemble(numbers[start:cut])
        start = max(start, cut)
    assert out == [code for codes in frames for code in codes]
    assert assembler.frames == len(frames)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 7), st.integers(0, 4095)), max_size=20))
def test_every_frame_is_returned_once_and_in_order(runs: list[tuple[int, int, int]]) -> None:
    tokens = [(slot, code) for first, last, code in runs for slot in range(first, last)]
    windows = [tokens[start : start + 7] for start in range(len(tokens))]
    whole = [window for window in windows if [slot for slot, _ in window] == list(range(7))]
    assembler = FrameAssembler()
    out = assembler.assemble(number_of(slot, code) for slot, code in tokens)
    assert out == [code for window in whole for _, code in window]
    assert assembler.frames == len(whole)


def test_four_seconds_of_the_same_few_frames_are_a_loop_and_speech_is_not() -> None:
    from orpheus.tts.frames import RepetitionDetector

    for period in (1, 3, 8):
        watch = RepetitionDetector()
        loops = [watch.detect([frame % period] * 7) for frame in range(60)]
        assert loops.index(True) >= 47
        assert loops[-1]
    watch = RepetitionDetector()
    assert not any(watch.detect([frame % 9] * 7) for frame in range(200))
    watch = RepetitionDetector()
    assert not any(watch.detect([7] * 7 * 40 + [8] * 7) for _ in range(5))


@given(st.lists(st.integers(0, 2), max_size=150), st.integers(1, 5))
def test_a_loop_is_found_exactly_where_comparing_four_seconds_frame_by_frame_finds_it(
    frames: list[int], together: int
) -> None:
    from orpheus.tts.frames import LOOP_FRAMES, LOOP_PERIOD, RepetitionDetector

    def loops(latest: list[int]) -> bool:
        return len(latest) == LOOP_FRAMES and any(
            latest[period:] == latest[:-period] for period in range(1, LOOP_PERIOD + 1)
        )

    frames = [*frames, *frames[-6:] * 10]  # chance alone makes no loop
    watch = RepetitionDetector()
    for start in range(0, len(frames), together):
        codes = [code for frame in frames[start : start + together] for code in [frame] * 7]
        assert watch.detect(codes) == loops(frames[: start + together][-LOOP_FRAMES:])
