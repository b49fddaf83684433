"""OpenAI's own client, as its users run it; those of others are in test_others.py."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from openai import AsyncOpenAI

from orpheus.agent.think import ToolCallDelta
from tests.agent.conftest import Host
from tests.support.agent import silence
from tests.support.upstream import Upstream, whole


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
        assert "error" not in types
    await client.close()


async def say(connection: Any, host: Host, text: str) -> None:
    sound = host.script.speech.say(text) + silence(700)
    for start in range(0, len(sound), 4800):
        await connection.input_audio_buffer.append(
            audio=base64.b64encode(sound[start : start + 4800]).decode()
        )


@pytest.mark.anyio
async def test_the_openai_sdk_calls_a_function_and_is_interrupted(host: Host, upstream: Upstream) -> None:
    upstream.events = whole(20)  # 1.7 s a sentence
    host.script.thinker.answers = [
        [ToolCallDelta(0, "call_1", "get_weather", '{"city": "Rome"}')],
        ["It is sunny in Rome. ", "It was so yesterday. ", "It will be so tomorrow."],
        ["All right."],
    ]
    client = AsyncOpenAI(
        api_key="none", websocket_base_url=f"{host.url.replace('http', 'ws', 1)}/v1", base_url=host.url
    )
    tool = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}
    async with asyncio.timeout(30), client.realtime.connect(model="gpt-realtime") as connection:
        await connection.session.update(session={"type": "realtime", "tools": [tool]})
        await say(connection, host, "How is the weather?")
        interrupted, responses = False, []
        async for event in connection:
            match event.type:
                case "error":
                    raise AssertionError(event.error)
                case "response.function_call_arguments.done":
                    output = {"type": "function_call_output", "call_id": event.call_id, "output": "sunny"}
                    await connection.conversation.item.create(item=output)
                case "response.output_audio.delta" if not interrupted:
                    interrupted = True
                    await say(connection, host, "No wait, stop that.")
                case "response.done":
                    responses.append(event.response)
                    if len(responses) == 1:
                        await connection.response.create()
                    if len(responses) == 3:
                        break
    await client.close()
    assert [response.status for response in responses] == ["completed", "cancelled", "completed"]
    assert responses[0].output[0].name == "get_weather"
    assert responses[1].status_details.reason == "turn_detected"
    assert responses[2].output[0].content[0].transcript == "All right."
