"""Real clients, as their users run them."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.agent.conftest import Host
from tests.support.agent import silence


@pytest.mark.anyio
async def test_the_openai_sdk_holds_a_conversation_by_voice_and_by_text(host: Host) -> None:
    client = AsyncOpenAI(
        api_key="none",
        base_url=f"{host.url}/v1",
        websocket_base_url=f"{host.url.replace('http', 'ws', 1)}/v1",
    )
    types: list[str] = []
    transcript, audio = "", b""

    async def until_done(connection: Any) -> Any:
        nonlocal transcript, audio
        async for event in connection:
            types.append(event.type)
            assert type(event).__name__ != "BaseModel"
            if event.type == "response.output_audio_transcript.delta":
                transcript += event.delta
            if event.type == "response.output_audio.delta":
                audio += base64.b64decode(event.delta)
            if event.type == "response.done":
                return event.response

    async with asyncio.timeout(30), client.realtime.connect(model="gpt-realtime") as connection:
        await connection.session.update(
            session={"type": "realtime", "audio": {"output": {"voice": "marin"}}, "instructions": "Be kind."}
        )
        sound = host.script.speech.say("How are you?") + silence(700)
        for start in range(0, len(sound), 4800):
            encoded = base64.b64encode(sound[start : start + 4800]).decode()
            await connection.input_audio_buffer.append(audio=encoded)
        response = await until_done(connection)
        assert response.status == "completed"
        assert transcript == "Hello there, my friend."
        assert len(audio) > 10_000
        assert "session.updated" in types
        await connection.conversation.item.create(
            item={
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "And in writing?"}],
            }
        )
        await connection.response.create(response={"output_modalities": ["text"]})
        response = await until_done(connection)
        assert response.output[0].content[0].text == "Hello there, my friend."
    await client.close()


@pytest.mark.slow
@pytest.mark.anyio
async def test_openai_agents_which_takes_every_event_strictly_holds_a_conversation(host: Host) -> None:
    realtime = pytest.importorskip("agents.realtime", reason="openai-agents is not installed")
    from agents import function_tool

    called: list[str] = []

    @function_tool
    def get_weather(city: str) -> str:
        """The weather in a city."""
        called.append(city)
        return "sunny"

    from orpheus.agent.think import ToolCallDelta

    host.script.thinker.answers = [
        [ToolCallDelta(0, "call_1", "get_weather", '{"city": "Rome"}')],
        ["It is sunny in Rome."],
    ]
    agent = realtime.RealtimeAgent(name="Test", instructions="Be kind.", tools=[get_weather])
    runner = realtime.RealtimeRunner(agent)
    config = {"url": f"{host.url.replace('http', 'ws', 1)}/v1/realtime", "api_key": "none"}
    errors, audio, history = [], 0, ""
    session = await runner.run(model_config=config)
    async with asyncio.timeout(40), session:
        sound = host.script.speech.say("How is the weather?") + silence(700)
        for start in range(0, len(sound), 4800):
            await session.send_audio(sound[start : start + 4800])
        async for event in session:
            if event.type == "error":
                errors.append(event.error)
            elif event.type == "audio":
                audio += len(event.audio.data)
            elif event.type == "audio_end":
                break
        history = str(session._history)
    assert errors == []
    assert called == ["Rome"]
    assert audio > 10_000
    assert "How is the weather?" in history
