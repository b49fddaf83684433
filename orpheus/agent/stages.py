"""The stages of a turn in words, a line each: what `orpheus converse` and a deployment print."""

from __future__ import annotations

from collections.abc import Mapping


def heard(text: str, took_s: float) -> str:
    return f'[ASR] transcribed in {took_s:.2f} s: "{text}"'


def answered(text: str, took_s: float) -> str:
    return f'[LLM] answered in {took_s:.2f} s: "{text}"'


def spoke(took_s: float, first_audio_s: float) -> str:
    return f"[TTS] spoke in {took_s:.2f} s, the first audio after {first_audio_s:.2f} s"


def turn(transcript: str, answer: str, timings: Mapping[str, float | None]) -> list[str]:
    """The same of a turn of a conversation, whose stages overlap: `orpheus` in its response, in milliseconds."""

    def after(name: str) -> str:
        took_ms = timings.get(name)
        return "?" if took_ms is None else f"{took_ms / 1000:.2f} s"

    return [
        f'[ASR] transcribed in {after("stt_ms")}: "{transcript}"',
        f'[LLM] first token after {after("llm_first_token_ms")}: "{answer}"',
        f"[TTS] first audio after {after('first_audio_ms')}, {after('end_to_audio_ms')} after the end of speech",
    ]
