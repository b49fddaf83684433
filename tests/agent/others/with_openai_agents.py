"""A conversation by openai-agents, which takes every event strictly.   with_openai_agents.py URL SOUNDS"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from agents import function_tool, set_tracing_disabled
from agents.realtime import RealtimeAgent, RealtimeRunner

PIECE = 4800  # bytes: 100 ms
report: dict[str, Any] = {"errors": [], "called": [], "interrupted": 0, "samples": []}


@function_tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    report["called"].append(city)
    return "sunny"


async def main(url: str, sounds: Path) -> None:
    set_tracing_disabled(True)
    agent = RealtimeAgent(name="Test", instructions="Be kind.", tools=[get_weather])
    session = await RealtimeRunner(agent).run(model_config={"url": url, "api_key": "none"})
    done, samples, audible = 0, 0, asyncio.Event()

    async def read() -> None:
        nonlocal done, samples
        async for event in session:
            match event.type:
                case "error":
                    report["errors"].append(str(event.error))
                case "audio":
                    samples += len(event.audio.data) // 2
                    audible.set()
                case "audio_interrupted":
                    report["interrupted"] += 1
                case "raw_model_event" if event.data.type == "raw_server_event":
                    if event.data.data["type"] == "response.done":
                        done += 1
                        report["samples"].append(samples)
                        samples = 0
                        audible.clear()

    async def say(name: str) -> None:
        sound = (sounds / f"{name}.pcm").read_bytes()
        for start in range(0, len(sound), PIECE):
            await session.send_audio(sound[start : start + PIECE])

    async def ended(number: int) -> None:
        while done < number:  # noqa: ASYNC110 - told by the events
            await asyncio.sleep(0.01)
        await asyncio.sleep(report["samples"][-1] / 24_000 + 0.3)  # played

    async with asyncio.timeout(80), session:
        reading = asyncio.create_task(read())
        await say("hello")
        await ended(1)
        await say("weather")
        await ended(3)
        report["interrupted"] = 0
        await say("story")
        await audible.wait()
        await asyncio.sleep(0.3)
        await say("stop")
        await ended(5)
        reading.cancel()
        report["samples"] = [count for count in report["samples"] if count]
        messages = [item for item in session._history if item.type == "message"]
        for name, role in (("heard", "user"), ("said", "assistant")):
            texts = [item.content[0].transcript for item in messages if item.role == role]
            report[name] = texts


asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
print(json.dumps(report))
