"""What was found: tables, and a picture of what a human waits for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.agent.trials import Crowd, Interruption, Try, Turn, waits_ms, words_misheard
from orpheus.agent.turns import PAUSE_MS
from orpheus.ops.bench.listening import quantile

# Of what begins once PAUSE_MS have been quiet, each after the one before, while it is not yet certain that the human is
# done; what is made by then leaves at the end of the turn.
STAGES = {
    "stt_ms": "transcript",
    "llm_first_token_ms": "first token of the LLM",
    "first_clause_ms": "first clause",
    "first_audio_ms": "first audio",
}


def p50_p95(values: Iterable[float]) -> tuple[float, float]:
    found = list(values)
    return quantile(found, 0.5), quantile(found, 0.95)


def stage_figures(turns: Sequence[Turn]) -> dict[str, list[float]]:
    """Milliseconds of each turn: the quiet that ended it, each stage, and the whole as the agent saw it."""
    names = ("vad_ms", *STAGES, "end_to_audio_ms")
    return {name: [ms for turn in turns if (ms := turn.stages.get(name)) is not None] for name in names}


def print_turns(kind: str, turns: Sequence[Turn]) -> dict[str, float]:
    print(f"\n{f'{kind}, {len(turns)} questions':42s}     p50     p95")
    figures = {"end_to_audio_ms": ("last sample sent to first audio received", waits_ms(turns))}
    stages = stage_figures(turns)
    figures["vad_ms"] = ("quiet until the turn was over", stages["vad_ms"])
    figures |= {name: (f"  {text}", stages[name]) for name, text in STAGES.items()}
    result: dict[str, float] = {}
    for name, (text, values_ms) in figures.items():
        result |= _row(text, values_ms, f"{name}_{{}}_{kind}")
    cut = sum(len(turn.heard) > 1 for turn in turns)
    early = sum(ms < 0 for ms in waits_ms(turns))
    unanswered = len(turns) - len(waits_ms(turns))
    print(f"  cut in two {cut}, answered before the end {early}, not answered {unanswered}")
    return {**result, f"cut_in_two_{kind}": cut, f"unanswered_{kind}": unanswered}


def _row(text: str, values_ms: Sequence[float], name: str) -> dict[str, float]:
    """Print p50 and p95, and return them by `name`, in which {} stands for these words."""
    if not values_ms:
        return {}
    shares = {"p50": quantile(list(values_ms), 0.5), "p95": quantile(list(values_ms), 0.95)}
    print(f"  {text:40s}{shares['p50']:8.0f}{shares['p95']:8.0f} ms")
    return {name.format(share): value for share, value in shares.items()}


def print_transcripts(kind: str, turns: Sequence[Turn]) -> float:
    """What was misheard, and the share of words."""
    share = words_misheard(turns)
    print(f"\n{kind}: {share:.1%} of the words wrong")
    for turn in turns:
        if words_misheard([turn]):
            print(f"  {turn.sound.speaker}: {turn.sound.text!r} was heard as {' '.join(turn.heard)!r}")
    return share


def print_interruptions(found: Sequence[Interruption]) -> dict[str, float]:
    print(f"\n{f'interruptions, {len(found)}':42s}     p50     p95")
    silent_ms = [one.silent_s * 1000 for one in found if one.silent_s is not None]
    detected_ms = [(one.silent_s - one.detected_s) * 1000 for one in found if one.silent_s is not None]
    result = _row("first sample of speech to silence", silent_ms, "barge_in_ms_{}")
    result |= _row("speech detected to silence", detected_ms, "barge_in_from_detection_ms_{}")
    missed = len(found) - len(silent_ms)
    late = sum(one.late_bytes for one in found)
    print(f"  missed {missed}, bytes of the old answer after silence {late}")
    for one in found:
        if one.silent_s is None:
            print(f"    {one.sound.speaker}: {one.sound.text!r}{', over its echo' if one.echo else ''}")
    return {**result, "interruptions_missed": missed, "late_bytes": late}


def print_tries(tries: Sequence[Try]) -> dict[str, float]:
    print("\nwhat is no turn                     tries   false")
    result: dict[str, float] = {"false_turns": sum(one.is_false for one in tries), "tries": len(tries)}
    for kind in dict.fromkeys(one.kind for one in tries):
        some = [one for one in tries if one.kind == kind]
        false = result[f"false_turns_{kind.replace(' ', '_')}"] = sum(one.is_false for one in some)
        print(f"  {kind:32s}{len(some):7d}{false:8.0f}")
    for one in tries:
        if one.is_false:
            what = f"{one.sound.text!r} by {one.sound.speaker}" if one.sound else "echo"
            print(f"    {one.kind}: {what}: {one.turns} turns, heard {' '.join(one.heard)!r}")
    return result


def print_crowds(crowds: Sequence[Crowd]) -> dict[str, float]:
    print("\nconversations   turns   first audio p50   holes   broken off")
    for one in crowds:
        print(
            f"{one.people:13d}{len(one.turns):8d}{one.wait_ms:15.0f} ms{one.underruns:8d}{len(one.broken_off):13d}"
        )
        for why in sorted(set(one.broken_off)):
            print(f"    {why}")
    most = max((one.people for one in crowds if one.holds(crowds[0])), default=0)
    print(f"  at most {most}, waiting at most twice as long as one, without a hole")
    return {
        "conversations_at_once": most,
        **{f"crowd_ms_p50_{one.people}": one.wait_ms for one in crowds if one.turns},
    }


def print_costs(costs: dict[str, float]) -> dict[str, float]:
    print("\nprocessor time of a stage alone, p50 of the questions")
    for stage, ms in costs.items():
        print(f"  {stage:40s}{ms:8.0f} ms")
    return {f"{stage.replace(',', '').replace(' ', '_')}_cpu_ms": ms for stage, ms in costs.items()}


def draw(pyplot: Any, kinds: dict[str, list[Turn]], crowds: Sequence[Crowd]) -> Any:
    """The median turn of each kind as a timeline, and the wait by how many talk."""
    colours = ("#a0aec0", "#2b6cb0", "#38a169", "#d69e2e", "#c53030")
    figure, (lanes, curve) = pyplot.subplots(
        1, 2, figsize=(13, 4.2), layout="constrained", width_ratios=(3, 1)
    )
    labels = []
    kinds = {kind: turns for kind, turns in kinds.items() if waits_ms(turns)}
    crowds = [one for one in crowds if waits_ms(one.turns)]
    for row, (kind, turns) in enumerate(kinds.items()):
        stages = stage_figures(turns)
        at_ms = 0.0
        widths_ms = [PAUSE_MS, *(quantile(stages[name], 0.5) if stages[name] else 0.0 for name in STAGES)]
        for width_ms, text, colour in zip(widths_ms, ("a pause", *STAGES.values()), colours, strict=True):
            lanes.barh(-row, width_ms, 0.5, at_ms, color=colour, label=text if row == 0 else None)
            lanes.text(at_ms + width_ms / 2, -row, f"{width_ms:.0f}", ha="center", va="center", fontsize=8)
            at_ms += width_ms
        p50, p95 = p50_p95(waits_ms(turns))
        over_ms = quantile(stages["vad_ms"], 0.5) if stages["vad_ms"] else 0.0
        lanes.plot([over_ms] * 2, [-row - 0.4, -row + 0.4], "k:", label="turn over" if row == 0 else None)
        lanes.plot([p50, p95], [-row - 0.33] * 2, "k-", linewidth=1)
        lanes.plot(p50, -row - 0.33, "ko", label="first audio received, p50 to p95" if row == 0 else None)
        labels.append(f"{kind}\n{p50:.0f} ms")
    lanes.set(
        yticks=[-row for row in range(len(labels))],
        yticklabels=labels,
        xlabel="ms since the last sample of speech (medians)",
        title="What a human waits for",
        xlim=(0, None),
        ylim=(-len(labels) + 0.4, 0.6),
    )
    figure.legend(fontsize=8, loc="outside lower center", ncols=7)
    curve.plot([one.people for one in crowds], [one.wait_ms for one in crowds], "o-", color=colours[1])
    curve.set(
        xlabel="conversations at once",
        ylabel="ms to first audio, p50",
        xticks=[one.people for one in crowds],
        ylim=(0, None),
        title="Together",
    )
    return figure
