"""The agent's LLM in a Modal container: `vllm serve`, which llm_app.py and speech_to_speech.py define."""

from __future__ import annotations

import json
import logging
import time

import httpx

from orpheus import hub, logs
from orpheus.deploy.settings import LLM_CONTEXT_TOKENS, LLM_STREAMS, WEIGHTS, llm_port
from orpheus.deploy.supervised import SupervisedServer
from orpheus.deploy.weights import find_llm, in_volume
from orpheus.errors import NotReady
from orpheus.settings import Settings, load_settings

GPU_SHARE = 0.9  # of a GPU of its own
SHARED_GPU_SHARE = 0.5  # of one with tier 1 and the codec: 16 of 24 GB for 8B weights in 16 bits
FIRST_ANSWER_S = 120.0
# What a model's tool calls look like, by the beginning of its name; most others write them as Hermes does.
TOOL_PARSERS = {
    "llama-3": "llama3_json",
    "meta-llama-3": "llama3_json",
    "ministral": "mistral",
    "mistral": "mistral",
    "granite": "granite",
}

log = logging.getLogger(__name__)


class VllmProcess(SupervisedServer):
    """`vllm serve` on every address of the container."""

    def __init__(self, fetch: str, settings: Settings | None = None, gpu_share: float = GPU_SHARE) -> None:
        """`fetch` is the command that fetches its weights."""
        super().__init__("The LLM", settings or load_settings())
        self.url = f"http://127.0.0.1:{llm_port()}"
        self._fetch = fetch
        self._gpu_share = gpu_share

    def start(self, within_s: float) -> None:
        """Return once it has answered. Raises OrpheusError, with the child stopped, if it does not."""
        logs.configure(self._settings)
        with in_volume(self._fetch):
            find_llm(self._settings)
        model = str(self._settings.llm_model)
        # What it compiles as it starts is kept with the weights, which saves the next start a minute.
        environment = {"VLLM_CACHE_ROOT": f"{WEIGHTS}/vllm", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
        command = serve_command(model, llm_port(), self._gpu_share)
        took_s = self._run(command, self.url, within_s, lambda: _first_answer(self.url, model), environment)
        log.info("the LLM is up; its first answer took %.0f ms", took_s * 1000)


def serve_command(model: str, port: int, gpu_share: float) -> list[str]:
    """vLLM's command line for ORPHEUS_LLM_MODEL, which is also the name that it serves."""
    repository = hub.parse(model)
    assert repository
    name = repository.id.partition("/")[2].lower()
    parser = next((parser for start, parser in TOOL_PARSERS.items() if name.startswith(start)), "hermes")
    options = {
        "--served-model-name": model,
        "--host": "0.0.0.0",  # Modal's proxy comes from outside the container
        "--port": str(port),
        "--max-model-len": str(LLM_CONTEXT_TOKENS),
        "--max-num-seqs": str(LLM_STREAMS),
        "--gpu-memory-utilization": str(gpu_share),
        "--tool-call-parser": parser,
        # A listener waits for what is thought and does not hear it; templates without it ignore this.
        "--default-chat-template-kwargs": json.dumps({"enable_thinking": False}),
    }
    if repository.revision:
        options |= {"--revision": repository.revision, "--tokenizer-revision": repository.revision}
    words = [word for option in options.items() for word in option]
    return ["vllm", "serve", repository.id, "--enable-auto-tool-choice", *words]


def _first_answer(url: str, model: str) -> float:
    """The seconds that one token takes. NotReady quotes a refusal."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 1}
    began_s = time.perf_counter()
    try:
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=FIRST_ANSWER_S, trust_env=False)
    except httpx.HTTPError as error:
        raise NotReady(f"The LLM does not answer: {type(error).__name__}: {error}") from error
    if answer.status_code != 200:
        raise NotReady(f"The LLM answers {answer.status_code}: {answer.text[:300]}")
    return time.perf_counter() - began_s
