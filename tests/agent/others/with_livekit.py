"""A conversation by an agent of livekit, without a room: it hears and plays here.   with_livekit.py URL SOUNDS"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from livekit import rtc
from livekit.agents import Agent, AgentSession, function_tool
from livekit.agents.voice.io import AudioInput, AudioOutput, AudioOutputCapabilities
from livekit.plugins.openai import realtime
from report import report

RATE, PIECE = 24_000, 2400  # samples: 100 ms


class Microphone(AudioInput):
    """In real time: livekit cancels the answer itself at an interruption, which must not reach the next answer."""

    def __init__(self) -> None:
        super().__init__(label="microphone")
        self.pieces: asyncio.Queue[bytes] = asyncio.Queue()

    async def __anext__(self) -> rtc.AudioFrame:
        piece = await self.pieces.get()
        await asyncio.sleep(PIECE / RATE)
        return rtc.AudioFrame(piece, RATE, 1, len(piece) // 2)


class Speaker(AudioOutput):
    """Plays in no more than the time that it takes."""

    def __init__(self) -> None:
        super().__init__(label="speaker", capabilities=AudioOutputCapabilities(pause=False), sample_rate=RATE)
        self.samples = 0  # of what is being played
        self._began_s = 0.0
        self._playing: asyncio.Task[None] | None = None

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        if not self.samples:
            self._began_s = time.monotonic()
            self.on_playback_started(created_at=time.time())
        self.samples += frame.samples_per_channel

    def flush(self) -> None:
        super().flush()
        if self.samples:
            self._playing = asyncio.create_task(self._play())

    async def _play(self) -> None:
        await asyncio.sleep(max(0.0, self._began_s + self.samples / RATE - time.monotonic()))
        self._finish(False)

    def clear_buffer(self) -> None:
        if self._playing is not None:
            self._playing.cancel()
        if self.samples:
            self._finish(True)

    def _finish(self, interrupted: bool) -> None:
        played_s = min(self.samples / RATE, time.monotonic() - self._began_s)
        report["samples"].append(self.samples)
        self.samples = 0
        self.on_playback_finished(playback_position=played_s, interrupted=interrupted)


@function_tool
async def get_weather(city: str) -> str:
    """The weather in a city."""
    report["called"].append(city)
    return "sunny"


async def main(url: str, sounds: Path) -> None:
    model = realtime.RealtimeModel(base_url=url, api_key="none", voice="alloy")
    session: AgentSession[None] = AgentSession(llm=model)
    microphone, speaker = Microphone(), Speaker()
    session.input.audio, session.output.audio = microphone, speaker

    @session.on("error")
    def _(event: Any) -> None:
        report["errors"].append(str(event.error))

    @session.on("conversation_item_added")
    def _(event: Any) -> None:
        if event.item.type != "message":
            return
        report["heard" if event.item.role == "user" else "said"].append(event.item.text_content)
        report["interrupted"] += event.item.interrupted

    async def say(name: str) -> None:
        sound = (sounds / f"{name}.pcm").read_bytes()
        for start in range(0, len(sound), 2 * PIECE):
            microphone.pieces.put_nowait(sound[start : start + 2 * PIECE])

    async def until(holds: Any) -> None:
        until_s = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < until_s, report
            await asyncio.sleep(0.01)

    async with asyncio.timeout(80):
        await session.start(Agent(instructions="Be kind.", tools=[get_weather]))
        for number, name in enumerate(("hello", "weather"), 1):
            await say(name)
            await until(lambda number=number: len(report["said"]) == number and not speaker.samples)
            await asyncio.sleep(0.3)
        await say("story")
        await until(lambda: speaker.samples)
        await asyncio.sleep(0.3)
        await say("stop")
        await until(lambda: len(report["said"]) == 4)
        await session.aclose()


asyncio.run(main(sys.argv[1].replace("ws", "http", 1).removesuffix("/realtime"), Path(sys.argv[2])))
print(json.dumps(report))
