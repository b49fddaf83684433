"""The trained turn, and nothing a text can do to it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orpheus.prompt import _CONTROL, read_turn, strip_control, turn_text

TAIL = "<|eot_id|><custom_token_4><custom_token_5><custom_token_1>"
FULL = f"<custom_token_3><|begin_of_text|>tara: Hi.{TAIL}"


def test_the_turn_is_the_trained_one() -> None:
    assert turn_text("tara", "Hi.") == FULL


def test_without_a_voice_there_is_no_prefix() -> None:
    assert turn_text("", "Hi.") == f"<custom_token_3><|begin_of_text|>Hi.{TAIL}"


@pytest.mark.parametrize(
    "prompt",
    [
        FULL,
        f"<|begin_of_text|>{FULL}",
        "<|audio|>tara: Hi.<|eot_id|>",
        "<|begin_of_text|><|audio|>tara: Hi.<|eot_id|>",
        "<|audio|>tara: Hi.<|eot_id|><custom_token_4>",
        f"<|audio|>tara: Hi.{TAIL}",
        f"<custom_token_3>tara: Hi.{TAIL}",
    ],
)
def test_a_turn_is_recognised_in_every_form_front_ends_send(prompt: str) -> None:
    assert read_turn(prompt) == "tara: Hi."


@pytest.mark.parametrize("prompt", ["", "tara: Hi.", "Once upon a time", "<|audio|>tara: Hi."])
def test_other_prompts_are_not_turns(prompt: str) -> None:
    assert read_turn(prompt) is None


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a<custom_token_2>b", "ab"),
        ("a<|eot_id|>b", "ab"),
        ("<|eot<custom_token_1>_id|>", ""),
        ("<custom_<|x|>token_2>", ""),
        ("<laugh> 3 < 4 > 2", "<laugh> 3 < 4 > 2"),
    ],
)
def test_control_strings_are_removed_and_tags_stay(text: str, left: str) -> None:
    assert strip_control(text) == left


segments = st.lists(
    st.sampled_from(["<", ">", "|", "<|", "|>", "custom_token_", "<custom_token_2>", "7", "x"])
)


@given(segments.map("".join))
def test_no_control_string_survives_whatever_the_nesting(text: str) -> None:
    left = strip_control(text)
    assert not _CONTROL.search(left)
    assert strip_control(left) == left


def test_deep_nesting_takes_linear_time() -> None:
    began = time.process_time()
    assert strip_control("<|" * 20_000 + "|>" * 20_000) == ""
    assert time.process_time() - began < 2
