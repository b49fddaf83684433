"""Writes docs/reference.md: the settings, the command lines and the metrics as they stand in the code.

`make docs` runs it, and a test compares the file with the code. The page does not depend on the machine, on the width
of a terminal, or on the environment.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal

import typer
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from orpheus import cli, embedded
from orpheus.agent.metrics import AgentMetrics
from orpheus.deploy import command
from orpheus.deploy.settings import Deployment
from orpheus.llama.engine import Engine
from orpheus.server.service import SpeechService
from orpheus.settings import Agent, Clients, Environment, Shared, Tier1, Tier2, load_settings, setting_name

KINDS = {
    str: "text",
    list[str]: "text",
    SecretStr: "secret text",
    Path: "path",
    bool: "`true`, `false`",
    int: "whole number",
    float: "number",
}
UNITS = {
    "s": "seconds",
    "mb": "MB",
    "chars": "characters",
    "tokens": "tokens",
}
ENDS = ("ge", "gt", "le")
HEADING = """# Reference

Made from the code by `make docs`. What is worth changing, and when, is in [Tune](tune.md).
"""


def reference() -> str:
    """The whole page, in Markdown."""
    return "\n".join([HEADING, *_settings(), *_commands(), *_metrics()])


def _settings() -> Iterator[str]:
    yield (
        "## Settings\n\nRead from the environment or from `.env`; options of the command line take precedence. "
        "`orpheus settings` prints\nthem with their values and where each comes from.\n"
    )
    groups: list[type[Environment]] = [Shared, Tier1, Tier2, Agent, Clients, Deployment]
    for group in groups:
        title, _, more = (inspect.getdoc(group) or "").partition("\n\n")
        yield f"### {title.rstrip('.')}\n"
        if more:
            yield f"{more}\n"
        yield from _table(
            ("setting", "default", "values", "meaning"),
            [
                (
                    f"`{setting_name(name)}`",
                    _default(info.default),
                    _values(name, info),
                    (info.description or "").removeprefix("Modal: "),
                )
                for name, info in group.model_fields.items()
            ],
        )


def _values(name: str, info: FieldInfo) -> str:
    """Which values are accepted, in the unit that the name ends in."""
    ends = {
        key: value
        for part in info.metadata
        for key in ENDS
        if (value := getattr(part, key, None)) is not None
    }
    return _span(_kind(info.annotation), UNITS.get(name.rsplit("_", 1)[-1]), **ends)


def _kind(annotation: Any) -> Any:
    """The type without None."""
    kinds = [kind for kind in typing.get_args(annotation) if kind is not NoneType]
    return kinds[0] if NoneType in typing.get_args(annotation) else annotation


def _span(
    kind: Any,
    unit: str | None = None,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
) -> str:
    if typing.get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(kind))
    words = KINDS[kind]
    if unit and kind in (int, float):
        words = "whole seconds" if kind is int and unit == "seconds" else unit
    if ge is not None:
        return f"{words}, {ge:g} to {le:.10g}" if le is not None else f"{words}, {ge:g} or more"
    if gt is not None:
        return f"{words}, above {gt:g}" + (f", at most {le:g}" if le is not None else "")
    return words


def _default(value: object) -> str:
    if value is None:
        return ""
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value}`"


def _commands() -> Iterator[str]:
    yield "## Command lines\n"
    orpheus: Any = typer.main.get_command(cli.app)
    for name, known in orpheus.commands.items():
        yield from _command(f"orpheus {name}", known)
        for below, nested in getattr(known, "commands", {}).items():
            yield from _command(f"orpheus {name} {below}", nested)
    yield from _command("python deploy_orpheus_modal.py", typer.main.get_command(command.app))


def _command(name: str, known: Any) -> Iterator[str]:
    shown = [option for option in known.params if not option.hidden and option.name != "help"]
    places = "".join(f" {option.name.upper()}" for option in shown if option.param_type_name == "argument")
    yield f"### `{name}{places}`\n\n{known.help}\n"
    kinds = typing.get_type_hints(known.callback)
    rows = [
        (
            f"`{option.opts[0] if option.param_type_name == 'option' else option.name.upper()}`",
            "" if kinds[option.name] is bool else _default(option.default),
            ""
            if kinds[option.name] is bool
            else _span(_kind(kinds[option.name]), ge=option.min, le=option.max),
            option.help or "",
        )
        for option in shown
    ]
    if rows:
        yield from _table(("option", "default", "values", "meaning"), rows)


def _metrics() -> Iterator[str]:
    yield "## Metrics\n\n`GET /metrics` of each tier, in Prometheus's text format.\n"
    settings = load_settings(model="embedded", codec="embedded", streams=1, gpu_layers=0)
    engine = Engine.load(embedded.MODEL, settings)
    yield from _metrics_of("Tier 1", engine.metrics.text(), {})
    engine.close()
    speech = SpeechService.over_http(settings).metrics
    yield from _metrics_of("Tier 2", speech.text(), speech.labels)
    registry = CollectorRegistry(auto_describe=False)
    agent = AgentMetrics(registry)
    yield from _metrics_of("The agent, with tier 2's", generate_latest(registry), agent.labels)


def _metrics_of(tier: str, text: bytes, labels: Mapping[str, Sequence[str]]) -> Iterator[str]:
    yield f"### {tier}\n"
    rows = []
    for family in text_string_to_metric_families(text.decode()):
        if family.name.endswith("_created"):  # the time a counter began, which the client library adds
            continue
        seen = {label for sample in family.samples for label in sample.labels} - {"le"}
        name = family.name + ("_total" if family.type == "counter" else "")
        told = ", ".join(f"`{label}`" for label in labels.get(family.name, sorted(seen)))
        rows.append((f"`{name}`", family.type, told, family.documentation))
    yield from _table(("metric", "type", "labels", "meaning"), rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (heads, ["---"] * len(heads), *rows):
        yield "| " + " | ".join(_cell(cell) for cell in row) + " |"
    yield ""


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
