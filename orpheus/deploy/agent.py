"""The agent in a Modal container, which speech_to_speech.py defines: tier 2 in its process, and what hears and thinks.

With ORPHEUS_SINGLE tier 1 and the LLM are child processes of the same container.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orpheus.agent import stages
from orpheus.deploy import speech
from orpheus.deploy.llama import LlamaProcess
from orpheus.deploy.settings import API_KEYS, AUTH_SECRET, LLM_APP, LLM_SERVER, Deployment
from orpheus.deploy.supervised import SupervisedServer
from orpheus.deploy.vllm import SHARED_GPU_SHARE, VllmProcess
from orpheus.errors import SetupError
from orpheus.settings import Settings, load_settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from orpheus.agent.agent import Agent
    from orpheus.agent.conversation import Ports
    from orpheus.agent.remote_llm import RemoteThinker
    from orpheus.agent.thoughts import Message, Thought
    from orpheus.server.service import SpeechService

FETCH = "modal run -m orpheus.deploy.speech_to_speech::fetch_weights"
DEPLOY_LLM = "modal deploy -m orpheus.deploy.llm_app"


@dataclass(frozen=True)
class Answer:
    """Speech in answer to speech."""

    wav: bytes
    stages: list[str]  # a line each: what was heard, thought and spoken, and how long that took


class AgentContainer:
    """What one container runs, from its start to its end."""

    def __init__(self, deployment: Deployment) -> None:
        self._single = deployment.single
        self._children: list[SupervisedServer] = []
        self._service: SpeechService | None = None
        self._agent: Agent | None = None

    def start(self, within_s: float) -> FastAPI:
        """The application. Raises SetupError, WeightsError, or what a server fails with, and then leaves none behind."""
        settings = load_settings()
        if not settings.api_keys:
            raise SetupError(
                f"The Secret {AUTH_SECRET} has an empty {API_KEYS}, and anybody could use the agent: store a key in it."
            )
        if self._single:
            settings = self._start_servers(settings, within_s)
        return speech.build(settings, FETCH, self._extend)

    def _start_servers(self, settings: Settings, within_s: float) -> Settings:
        """Tier 1, and unless it is elsewhere the LLM, one after the other: each measures what memory the GPU has left.

        Returns the settings with their addresses.
        """
        deadline_s = time.monotonic() + within_s
        addresses = {"llama_endpoint": f"http://127.0.0.1:{settings.llama_port}"}
        tier1 = LlamaProcess(settings)
        self._children.append(tier1)
        try:
            tier1.start(deadline_s - time.monotonic())
            if not settings.llm_url:
                llm = VllmProcess(FETCH, settings, SHARED_GPU_SHARE)
                addresses["llm_url"] = llm.url
                self._children.append(llm)
                llm.start(deadline_s - time.monotonic())
        except BaseException:
            self.stop()
            raise
        return settings.model_copy(update=addresses)

    def _extend(self, app: FastAPI, service: SpeechService) -> None:
        from orpheus.agent.app import install

        self._service = service
        self._agent = install(app, service, service.settings, load_ports)

    async def answer(self, recording: bytes, fields: dict[str, Any]) -> Answer:
        """A recording in any container of PyAV's answered as WAV. `fields` are those of speech, and of the recording.

        With a seed the same recording gets the same answer. Raises OrpheusError.
        """
        from orpheus.agent.speech_to_speech import Exchange, read_request

        assert self._service
        assert self._agent
        ports = await self._agent.loaded()
        request = read_request({**fields, "response_format": "wav", "stream": False})
        exchange = Exchange(self._service, ports.recognizer, ports.thinker, request)
        await exchange.hear(recording)
        async with aclosing(exchange.speak()) as chunks:
            wav = b"".join([chunk async for chunk in chunks])
        assert exchange.thought_in_s is not None
        assert exchange.spoke_in_s is not None
        assert exchange.first_audio_s is not None
        return Answer(
            wav,
            [
                stages.heard(exchange.transcript, exchange.heard_in_s),
                stages.answered(exchange.answer.strip(), exchange.thought_in_s),
                stages.spoke(exchange.spoke_in_s, exchange.first_audio_s),
            ],
        )

    def stop(self) -> None:
        """Let running streams end, for ORPHEUS_DRAIN_S at most."""
        for child in reversed(self._children):
            child.stop()


def load_ports(settings: Settings) -> Ports:
    """As the agent's own, but the LLM is found by its name on Modal unless ORPHEUS_LLM_URL is set."""
    from orpheus.agent.agent import load_ports as load
    from orpheus.agent.conversation import Ports
    from orpheus.agent.hear import load_recognizer
    from orpheus.agent.vad import VoiceActivity

    if settings.llm_url:
        return load(settings)
    return Ports(VoiceActivity.load(), load_recognizer(settings), ModalThinker(settings))


class ModalThinker:
    """The LLM by its name on Modal. It is looked up when first needed, and again until it is found."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._remote: RemoteThinker | None = None

    async def answer(self, messages: Sequence[Message], **options: Any) -> AsyncGenerator[Thought]:
        """As `Thinker.answer`."""
        remote = await self._found()
        async with aclosing(remote.answer(messages, **options)) as thoughts:
            async for thought in thoughts:
                yield thought

    async def warm_up(self, messages: Sequence[Message]) -> None:
        await (await self._found()).warm_up(messages)

    async def aclose(self) -> None:
        if self._remote is not None:
            await self._remote.aclose()

    async def _found(self) -> RemoteThinker:
        from orpheus.agent.remote_llm import RemoteThinker

        if self._remote is None:
            url = await speech.find_server(LLM_APP, LLM_SERVER, "The LLM", DEPLOY_LLM, "ORPHEUS_LLM_URL")
            # Again: two conversations may have waited for it.
            self._remote = self._remote or RemoteThinker(self._settings.model_copy(update={"llm_url": url}))
        return self._remote
