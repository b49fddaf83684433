from __future__ import annotations

import base64
import json
import re
import sys
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from orpheus.deploy import smoke
from orpheus.deploy.errors import SmokeFailed
from tests.support.live import served
from tests.support.upstream import Upstream, event, frame_text

FULL = {"error": {"message": "No room for another request"}}
DONE = {"type": "speech.audio.done"}


def events(*objects: dict[str, object]) -> Response:
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in objects)
    return Response(text, media_type="text/event-stream")


def audio(seconds: float, loudness: int) -> dict[str, object]:
    samples = loudness.to_bytes(2, "little", signed=True) * int(24_000 * seconds)
    return {"type": "speech.audio.delta", "audio": base64.b64encode(samples).decode()}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (events(audio(1, 0), DONE), "silence"),
        (events(audio(0.1, 9000), DONE), r"0\.10 s"),
        (events(DONE), "silence"),
        (events(audio(1, 9000), {"type": "error", **FULL}), "in the middle: No room"),
        (Response("missing credentials for proxy authorization", 401), "ORPHEUS_PROXY_KEY"),
        (JSONResponse(FULL, 429), "429.*No room"),
        (Response("data: {\n\n"), "does not speak"),
    ],
)
def test_a_response_without_speech_is_a_failure_that_says_why(
    answer: Response, says: str, tmp_path: Path
) -> None:
    async def speech(request: Request) -> Response:
        return answer

    out = tmp_path / "out.wav"
    app = Starlette(routes=[Route("/v1/audio/speech", speech, methods=["POST"])])
    with served(app) as url, pytest.raises(SmokeFailed, match=says):
        smoke.try_speech(url, out=str(out))
    assert not out.exists()


def test_one_frame_of_the_deployed_model_needs_neither_torch_nor_llama_cpp(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make deploy` installs neither."""
    for name in ("torch", "llama_cpp"):
        monkeypatch.setitem(sys.modules, name, None)
    upstream = Upstream()
    upstream.events = [event(frame_text()), event(reason="stop")]
    with served(upstream.app) as url:
        smoke.try_llama(url)
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()[1:]] == [
        "start",
        "cold",
        "warm",
    ]
    assert "tara: " in upstream.requests[0]["prompt"]


def test_a_cold_start_is_told_by_stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Modal's proxy answers first, then the server that still loads, then the loaded one."""
    monkeypatch.setattr(smoke, "POLL_S", 0.05)
    answers = [
        *[Response("modal-http: no container", 503)] * 4,
        *[JSONResponse({"status": "unavailable"}, 503)] * 4,
        JSONResponse({"status": "ok", "load_s": 0.25}),
    ]

    async def health(request: Request) -> Response:
        return answers.pop(0)

    with served(Starlette(routes=[Route("/health", health)])) as url:
        said = smoke._start(f"{url}/health")
    first_s, ready_s = (float(number) for number in re.findall(r"after ([\d.]+) s", said))
    assert 0.15 <= first_s < ready_s
    assert said.endswith(", 0.2 s of it to load the model")


def test_a_slow_start_is_followed_through_its_redirects_with_the_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"modal-key": "wk-1", "modal-secret": "ws-1", "x-api-key": "k1"}
    for name, value in zip(("PROXY_KEY", "PROXY_SECRET", "API_KEYS"), keys.values(), strict=True):
        monkeypatch.setenv(f"ORPHEUS_{name}", value)

    async def speech(request: Request) -> Response:
        return RedirectResponse("/result", 303)

    async def result(request: Request) -> Response:
        assert keys.items() <= dict(request.headers).items()
        return events(audio(1, 9000), DONE)

    app = Starlette(routes=[Route("/v1/audio/speech", speech, methods=["POST"]), Route("/result", result)])
    with served(app) as url:
        smoke.try_speech(url, out=str(tmp_path / "out.wav"))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_server_takes_no_keys_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("ORPHEUS_PROXY_KEY", "wk-1")
    monkeypatch.setenv("ORPHEUS_PROXY_SECRET", "ws-1")
    seen: list[str] = []

    async def stranger(request: Request) -> Response:
        seen.append(str(request.headers))
        return events(audio(1, 9000), DONE)

    async def speech(request: Request) -> Response:
        return RedirectResponse(f"{elsewhere}/v1/audio/speech", status)

    paths = {"path": "/v1/audio/speech", "methods": ["GET", "POST"]}
    with (
        served(Starlette(routes=[Route(endpoint=stranger, **paths)])) as elsewhere,  # type: ignore[arg-type]
        served(Starlette(routes=[Route(endpoint=speech, **paths)])) as url,  # type: ignore[arg-type]
        pytest.raises(SmokeFailed, match=str(status)),
    ):
        smoke.try_speech(url, out=str(tmp_path / "out.wav"))
    assert seen == []


TIMINGS = {"stt_ms": 120.0, "llm_first_token_ms": 90.0, "first_audio_ms": 210.0, "end_to_audio_ms": 930.0}


def turn(*events: dict[str, object], refuses: bool = False) -> Starlette:
    """An agent that speaks, and answers the first message of a conversation with these events."""

    async def speech(request: Request) -> Response:
        return events_of_speech()

    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        if refuses:
            await socket.close(1008, "This API key is not valid.")
            return
        heard = await socket.receive_json()
        assert heard["type"] == "input_audio_buffer.append"
        for one in events:
            await socket.send_json(one)
        while True:
            await socket.receive()

    return Starlette(
        routes=[Route("/v1/audio/speech", speech, methods=["POST"]), WebSocketRoute("/v1/realtime", talk)]
    )


def events_of_speech() -> Response:
    return events(audio(1, 9000), DONE)


def delta(loudness: int) -> dict[str, object]:
    sound = audio(1, loudness)["audio"]
    return {"type": "response.output_audio.delta", "delta": sound}


def done(status: str = "completed", **more: object) -> dict[str, object]:
    output = [{"content": [{"type": "output_audio", "transcript": "Paris."}]}]
    response = {"status": status, "status_details": None, "output": output, "orpheus": TIMINGS, **more}
    return {"type": "response.done", "response": response}


HEARD = {
    "type": "conversation.item.input_audio_transcription.completed",
    "transcript": "What is the capital?",
}


def test_a_turn_is_told_by_stage(capsys: pytest.CaptureFixture[str]) -> None:
    """Also one whose question was taken for two: the first answer is then taken back."""
    app = turn({"type": "session.created"}, done("cancelled"), HEARD, delta(9000), done())
    with served(app) as url:
        smoke.try_agent(url)
    assert capsys.readouterr().out.splitlines()[-3:] == [
        '[ASR] transcribed in 0.12 s: "What is the capital?"',
        '[LLM] first token after 0.09 s: "Paris."',
        "[TTS] first audio after 0.21 s, 0.93 s after the end of speech",
    ]


@pytest.mark.parametrize(
    ("app", "says"),
    [
        (turn(HEARD, done()), "silence"),
        (turn(HEARD, delta(0), done()), "silence"),
        (turn({"type": "error", "error": {"message": "The LLM is away."}}), "in the middle: The LLM is away"),
        (turn(done("failed", status_details={"type": "failed"})), "did not answer: .*failed"),
        (turn({"type": "response.done"}), "holds no conversation: KeyError"),
        (turn(refuses=True), "holds no conversation: .*This API key is not valid"),
    ],
)
def test_a_turn_that_fails_says_why(app: Starlette, says: str) -> None:
    with served(app) as url, pytest.raises(SmokeFailed, match=says):
        smoke.try_agent(url)


def test_an_answer_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke, "TURN_S", 0.3)
    with served(turn(HEARD)) as url, pytest.raises(SmokeFailed, match="TimeoutError"):
        smoke.try_agent(url)
