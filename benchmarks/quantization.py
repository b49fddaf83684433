"""The embedded voice in smaller quantizations, made by llama.cpp itself: `python -m benchmarks.quantization [--quick]`.

For each: bytes, tokens per second of tier 1, word errors (Whisper base), DNSMOS where speechmos is installed, runaways,
and how well its logits agree with Q8_0's on the same tokens. Prints a table and, last, one JSON object; the picture is
results/quantization.png.

The source is Q8_0, which is what ships, so the others are requantized. Rows that no k-quant's block of 256 divides
(feed-forward, 704 wide) get what llama.cpp falls back to: the column "types" has the share of bytes of each type.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import warnings
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from benchmarks.speaking import SENTENCES, Spoken, speak_all
from orpheus import embedded, llamacpp
from orpheus.errors import EngineError
from orpheus.llama.backend import Context, ContextOptions, Model
from orpheus.llama.batches import BatchRow
from orpheus.llama.engine import Completion, Engine
from orpheus.llama.engine_config import EngineConfig
from orpheus.llama.prompt_tokens import prompt_ids
from orpheus.llamacpp import llama_cpp
from orpheus.ops.bench import rivals
from orpheus.ops.bench.show import save_picture
from orpheus.ops.child import wait_until_healthy
from orpheus.prompt import turn_text
from orpheus.sampling import Sampling
from orpheus.settings import load_settings
from orpheus.vocabulary import SLOTS
from training import whisper
from training.listen import LISTENER_HZ, for_listener, words
from training.speakers import SPEAKERS

QUANTIZATIONS = {
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q6_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K,
    "Q5_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_K_M,
    "Q4_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "Q3_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q3_K_M,
    "Q2_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q2_K,
}
A_VOICE, QUICK_A_VOICE = 6, 1  # sentences
STREAMS = (1, 8)
SECONDS = 4.0
COMPARED_TOKENS = 140  # of speech, a voice
MOS_SAMPLES = int(9.01 * LISTENER_HZ)  # DNSMOS' own window; shorter speech is repeated to fill it
PICTURE = Path(__file__).parent / "results" / "quantization.png"


@dataclass(frozen=True)
class Figures:
    """Of one quantization."""

    name: str
    megabytes: float
    types: dict[str, float]  # share of the bytes
    tokens_per_s: dict[int, float]  # by the number of streams
    tokens_per_cpu_s: dict[int, float]
    word_errors: float
    words: int  # that were to be understood
    mos: float | None
    runaways: int
    same_choice: float  # share of tokens whose likeliest code is Q8_0's
    divergence: (
        float  # mean Kullback-Leibler divergence from Q8_0's distribution of the slot's codes, in nats
    )


def quantize(source: Path, target: Path, kind: int) -> None:
    """Requantize a GGUF to a `llama_ftype`. EngineError if llama.cpp refuses."""
    llamacpp.start()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = kind, True
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), params):
        raise EngineError(f"llama.cpp could not quantize {source}: its log says why.")


def tensor_types(path: Path) -> dict[str, float]:
    """The share of the file's tensor bytes that each type has, the largest first."""
    from gguf import GGUFReader

    sizes: Counter[str] = Counter()
    for tensor in GGUFReader(path).tensors:
        sizes[tensor.tensor_type.name] += int(tensor.n_bytes)
    return {name: round(size / sizes.total(), 3) for name, size in sizes.most_common()}


def speech_tokens(source: Path) -> list[tuple[str, list[int]]]:
    """Prompt and token ids of a sentence by each voice, as the source says it."""
    engine = Engine.open(source, EngineConfig(streams=1, waiting=1, threads=1, context_tokens=1024))
    texts = SENTENCES.read_text(encoding="utf-8").splitlines()

    async def spoken() -> list[tuple[str, list[int]]]:
        made = []
        for number, speaker in enumerate(SPEAKERS):
            prompt = turn_text(speaker.name, texts[number])
            completion = Completion(engine.tokenize_prompt(prompt), COMPARED_TOKENS, Sampling(seed=number))
            numbers = [n async for chunk in engine.submit(completion) for n in chunk.numbers]
            made.append((prompt, [engine.vocabulary.id_of(n) for n in numbers]))
        return made

    try:
        return asyncio.run(spoken())
    finally:
        engine.close()


def distributions(path: Path, spoken: list[tuple[str, list[int]]]) -> NDArray[np.float64]:
    """(tokens, codes) log probabilities of the codes of each token's slot, given the tokens before it."""
    model = Model(path, gpu_layers=0)
    context = Context(model, ContextOptions(1, 1024, 512, 1, 1))
    rows = []
    for prompt, tokens in spoken:
        context.free(0)
        position, given = 0, tuple(prompt_ids(model, prompt))
        for number, token in enumerate(tokens):
            context.decode([BatchRow(0, position, given, needs_logits=True)])
            ids = model.vocabulary.code_ids[number % SLOTS]
            logits = context.logits(1)[0, ids.start : ids.stop].astype(np.float64)
            rows.append(logits - np.logaddexp.reduce(logits))
            position, given = position + len(given), (token,)
    context.close()
    model.close()
    return np.array(rows)


def agreement(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> tuple[float, float]:
    """The share of tokens with the same likeliest code, and the mean divergence of `ours` from `theirs`."""
    divergence = (np.exp(theirs) * (theirs - ours)).sum(axis=1)
    return float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean()), float(divergence.mean())


def speed(path: Path) -> tuple[dict[int, float], dict[int, float]]:
    """Tokens per second, and per second of processor time, by the number of streams."""
    per_s, per_cpu_s = {}, {}
    for streams in STREAMS:
        with rivals.tier_1(path, ORPHEUS_STREAMS=str(streams), ORPHEUS_CONTEXT_TOKENS="512") as server:
            wait_until_healthy([server], rivals.START_S)
            load = rivals.measure(server, rivals.BODY, streams, SECONDS, all_within_s=SECONDS)
        per_s[streams] = round(load.tokens_per_s, 1)
        per_cpu_s[streams] = round(load.tokens / load.cpu_s, 1) if load.cpu_s else 0.0
    return per_s, per_cpu_s


def listened(spoken: dict[tuple[int, int], Spoken], texts: list[str]) -> tuple[float, int, float | None]:
    """The word error rate of all sentences together, of how many words, and the mean DNSMOS."""
    wanted, heard, quality = [], [], []
    mos = _dnsmos()
    for (_, number), one in sorted(spoken.items()):
        wanted.append(words(texts[number]))
        heard.append("" if one.samples is None else whisper.hear(one.samples))
        if mos and one.samples is not None:
            plain = for_listener(one.samples) / np.float32(32767)
            quality.append(mos.run(np.resize(plain, MOS_SAMPLES), LISTENER_HZ)["ovrl_mos"])
    count = sum(len(sentence.split()) for sentence in wanted)
    return float(jiwer.wer(wanted, heard)), count, float(np.mean(quality)) if quality else None


def _dnsmos() -> Any:
    warnings.simplefilter("ignore")  # it imports packages that have moved on
    try:
        from speechmos import dnsmos
    except ImportError:
        return None
    return dnsmos


def measure(folder: Path, texts: list[str]) -> list[Figures]:
    spoken_by_source = speech_tokens(embedded.MODEL)
    theirs = distributions(embedded.MODEL, spoken_by_source)
    found = []
    for name, kind in track(QUANTIZATIONS.items(), "measuring"):
        path = embedded.MODEL
        if name != "Q8_0":
            path = folder / f"{name}.gguf"
            quantize(embedded.MODEL, path, kind)
        per_s, per_cpu_s = speed(path)
        spoken = asyncio.run(speak_all(load_settings(model=str(path), codec="embedded", gpu_layers=0), texts))
        heard = listened(spoken, texts)
        same, divergence = agreement(distributions(path, spoken_by_source), theirs)
        runaways = sum(one.ran_away for one in spoken.values())
        size = path.stat().st_size / 1e6
        found.append(
            Figures(name, size, tensor_types(path), per_s, per_cpu_s, *heard, runaways, same, divergence)
        )
    return found


def table(figures: list[Figures]) -> str:
    lines = [
        "| | MB | tokens/s, 1 stream | 8 streams | per CPU s, 1 stream | 8 streams | WER | DNSMOS | runaways "
        "| same likeliest code | divergence, nats | types |",
        "| --- " * 12 + "|",
    ]
    for each in figures:
        types = ", ".join(f"{name} {share:.0%}" for name, share in each.types.items() if share >= 0.01)
        speeds = " | ".join(
            f"{each_speed[streams]:,.0f}"
            for each_speed in (each.tokens_per_s, each.tokens_per_cpu_s)
            for streams in STREAMS
        )
        mos = "-" if each.mos is None else f"{each.mos:.2f}"
        lines.append(
            f"| {each.name} | {each.megabytes:.1f} | {speeds} | {each.word_errors:.3f} | {mos} | {each.runaways} "
            f"| {each.same_choice:.1%} | {each.divergence:.4f} | {types} |"
        )
    return "\n".join(lines)


def draw(pyplot: Any, figures: list[Figures]) -> Any:
    """Size against what it costs: word errors, and divergence of the logits."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), sharex=True)
    rates = np.array([each.word_errors for each in figures])
    spread = np.sqrt(
        rates * (1 - rates) / np.array([each.words for each in figures])
    )  # if words were independent
    for axes, values, bars, label in (
        (left, rates, spread, "word error rate (Whisper base), ± standard error"),
        (
            right,
            np.array([each.divergence for each in figures]),
            None,
            "divergence of the logits from Q8_0, nats",
        ),
    ):
        sizes = [each.megabytes for each in figures]
        axes.errorbar(sizes, values, bars, fmt="o-", color="#33658a", ecolor="#99aabb", capsize=3)
        for each, size, value in zip(figures, sizes, values, strict=True):
            axes.annotate(each.name, (size, value), textcoords="offset points", xytext=(4, 8), fontsize=9)
        axes.set_xlabel("MB")
        axes.set_title(label, fontsize=10)
        axes.set_ylim(0, 1.25 * values.max())
        axes.margins(x=0.12)
        axes.grid(alpha=0.3)
    figure.suptitle("The embedded voice, requantized by llama.cpp")
    figure.tight_layout()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quantization", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_A_VOICE} sentence a voice instead of {A_VOICE}"
    )
    chosen = parser.parse_args()
    count = QUICK_A_VOICE if chosen.quick else A_VOICE
    texts = SENTENCES.read_text(encoding="utf-8").splitlines()[:count]
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), texts)
    save_picture(PICTURE, lambda pyplot: draw(pyplot, figures))
    print(f"{count * len(SPEAKERS)} sentences\n\n{table(figures)}\n")
    print(json.dumps({each.name: asdict(each) for each in figures}))


if __name__ == "__main__":
    main()
