"""A conversation by a pipeline of pipecat, without a transport.   with_pipecat.py URL SOUNDS"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from loguru import logger
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.adapters.llm.schemas.tools_schema import ToolsSchema
from pipecat.frames.frames import (
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMRunFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSTextFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService
from pipecat.workers.runner import WorkerRunner
from report import report

RATE, PIECE = 24_000, 4800  # bytes: 100 ms


class Listener(FrameProcessor):
    """What comes out of the model, and what goes back to the microphone's side of it."""

    def __init__(self) -> None:
        super().__init__()
        self.samples = 0
        self.text: list[str] = []
        self.spoken_s = 0.0
        self.heard = 0  # samples, of all answers

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        match frame:
            case TTSAudioRawFrame():
                self.samples += len(frame.audio) // 2
                self.heard += len(frame.audio) // 2
            case TTSTextFrame():
                self.text.append(frame.text)
            case TranscriptionFrame():
                report["heard"].append(frame.text)
            case InterruptionFrame():
                report["interrupted"] += 1
            case ErrorFrame():
                report["errors"].append(frame.error)
            case LLMFullResponseEndFrame() if self.samples:
                report["samples"].append(self.samples)
                report["said"].append("".join(self.text))
                self.spoken_s = self.samples / RATE
                self.samples, self.text = 0, []
        await self.push_frame(frame, direction)


async def get_weather(params: Any) -> None:
    report["called"].append(params.arguments["city"])
    await params.result_callback("sunny")


async def main(url: str, sounds: Path) -> None:
    city = {"city": {"type": "string", "description": "a city"}}
    weather = FunctionSchema("get_weather", "The weather in a city.", city, ["city"])
    model = OpenAIRealtimeLLMService(api_key="none", base_url=url)
    model.register_function("get_weather", get_weather)
    before, after = Listener(), Listener()
    aggregators = LLMContextAggregatorPair(LLMContext([], ToolsSchema([weather])))
    pipeline = Pipeline([aggregators.user(), before, model, after, aggregators.assistant()])
    params = PipelineParams(audio_in_sample_rate=RATE, audio_out_sample_rate=RATE)
    worker = PipelineWorker(pipeline, params=params)
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())

    async def say(name: str) -> None:
        """In real time: an interruption that pipecat deals with late would take the next answer with it."""
        sound = (sounds / f"{name}.pcm").read_bytes()
        for start in range(0, len(sound), PIECE):
            await worker.queue_frame(InputAudioRawFrame(sound[start : start + PIECE], RATE, 1))
            await asyncio.sleep(PIECE / 2 / RATE)

    async def until(holds: Any) -> None:
        until_s = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < until_s, (report, after.samples, after.text)
            await asyncio.sleep(0.01)

    async with asyncio.timeout(80):
        await asyncio.sleep(1)
        await worker.queue_frame(LLMRunFrame())
        for number, name in enumerate(("hello", "weather"), 1):
            await say(name)
            await until(lambda number=number: len(report["said"]) == number)
            await asyncio.sleep(after.spoken_s + 0.3)
        heard = after.heard
        await say("story")
        await until(lambda: after.heard > heard)
        await asyncio.sleep(0.3)
        report["interrupted"] = 0
        await say("stop")
        await until(lambda: len(report["said"]) == 4)
        await worker.cancel()
        await running


logger.remove()
logger.add(sys.stderr, level="WARNING")


async def run() -> None:
    """Whatever happens, it ends: a pipeline that is cancelled from outside may wait for itself."""
    try:
        await main(sys.argv[1], Path(sys.argv[2]))
    except Exception:
        traceback.print_exc()
        os._exit(1)
    print(json.dumps(report), flush=True)
    os._exit(0)


asyncio.run(run())
