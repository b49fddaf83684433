"""Prometheus metrics of the agent, in tier 2's registry, named `orpheus_agent_…`."""

from __future__ import annotations

from dataclasses import asdict

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from orpheus.agent.events import Timings

_STAGE_S = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10)


class AgentMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        # By metric: a scrape shows labels only once they have been used.
        self.labels = {
            "orpheus_agent_turns": ("outcome",),
            "orpheus_agent_failures": ("stage",),
            "orpheus_agent_stage_seconds": ("stage",),
        }
        self.conversations = Gauge(
            "orpheus_agent_conversations", "Conversations in progress", registry=registry
        )
        self.turns = Counter(
            "orpheus_agent_turns",
            "Turns of the human by outcome: said, failed, or dropped as noise, backchannel or echo",
            ["outcome"],
            registry=registry,
        )
        self.interruptions = Counter(
            "orpheus_agent_interruptions", "Answers that the human cut off", registry=registry
        )
        self.failures = Counter(
            "orpheus_agent_failures", "Failures by stage: stt, llm, tts", ["stage"], registry=registry
        )
        self._stages = Histogram(
            "orpheus_agent_stage_seconds",
            "Time from the end of speech to the first audio, and in each stage before it",
            ["stage"],
            buckets=_STAGE_S,
            registry=registry,
        )

    def add(self, timings: Timings) -> None:
        """The stages of one response."""
        for name, took_ms in asdict(timings).items():
            if took_ms is not None:
                self._stages.labels(name.removesuffix("_ms")).observe(took_ms / 1000)
