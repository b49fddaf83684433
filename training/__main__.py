"""Runs the stages in order, each resuming where it stopped: `python -m training --help`.

Stages run one at a time and communicate only through files, so each can also be run by itself.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from orpheus import embedded
from training import codec, gguf_file, language, preference, samples
from training.coder import Recovery, Size
from training.llama import Shape

SEED = 20261121
CODES = 2048  # a slot: each doubling takes a sixteenth off the coder's error and adds 1.8 million parameters
STAGES = (
    "texts",
    "speech",
    "features",
    "codes",
    "shifted",
    "codec",
    "language",
    "preference",
    "gguf",
    "listen",
)
APART = ("recover",)  # of no use to the whole: it gives a finished voice the coder that the others begin with


@dataclass(frozen=True)
class Recipe:
    """Everything a size decides."""

    sentences: int
    corpora: bool  # Debian's texts beside the templates
    coder: Size
    recovery: Recovery
    shifted_shards: int
    codec: codec.CodecPlan
    language: language.LanguagePlan
    preference: preference.PreferencePlan
    packing: str = "F16"  # of the GGUF's matrices
    listened: int = 12  # sentences a voice


FULL = Recipe(
    sentences=48000,
    corpora=True,
    coder=Size(codes=CODES),
    recovery=Recovery(),
    shifted_shards=80,
    codec=codec.CodecPlan(codes=CODES),
    language=language.LanguagePlan(Shape(codes=CODES)),
    preference=preference.PreferencePlan(),
)
SMOKE = Recipe(
    sentences=12,
    corpora=False,
    coder=Size(codes=64, width=32, dim=8, steps=40, batch=4, latents=32, shards=1),
    recovery=Recovery(sentences=4, meaning_steps=5, choosing_steps=5, batch=4, latents=16),
    shifted_shards=1,
    codec=codec.CodecPlan(codes=64, width=128, steps=4, batch=2, frames=2, compiled=False),
    language=language.LanguagePlan(
        Shape(codes=64, layers=2, width=64, heads=1, key_heads=1, inner=96, guided=(1,), phone_layer=0),
        steps=10,
        batch_tokens=1500,
        warm_steps=2,
    ),
    preference=preference.PreferencePlan(rounds=1, sentences=2, tries=2),
)


def run(stage: str, recipe: Recipe, out: Path) -> None:
    """Run one stage to its end. Stages that need the teacher or the listener load them only here."""
    if stage == "texts":
        from training import texts

        texts.make(out, out / "sources" if recipe.corpora else None, recipe.sentences)
    elif stage == "speech":
        from training import speech

        speech.make(out)
    elif stage == "features":
        from training import features

        features.make(out)
    elif stage == "codes":
        from training import codes

        codes.make(out, recipe.coder, SEED)
    elif stage == "recover":
        from training import recover

        recover.make(out, recipe.coder, recipe.recovery, SEED)
    elif stage == "shifted":
        from training import shifted

        shifted.make(out, recipe.shifted_shards)
    elif stage == "codec":
        codec.train(out, codec.utterances(out, recipe.codec.codes), recipe.codec, SEED)
    elif stage == "language":
        language.train(out, samples.read(out / "codes"), recipe.language, SEED)
    elif stage == "preference":
        preference.train(out, recipe.preference, SEED)
    elif stage == "gguf":
        preferred = out / "preferred.pt"
        learned = preferred if preferred.exists() else out / "language.pt"
        gguf_file.write(language.load(learned), out / "model.gguf", recipe.packing)
    elif stage == "listen":
        from training import report

        report.make(out, recipe.listened)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("full", "smoke"), default="full")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for everything made (full: about 10 GB)"
    )
    parser.add_argument(
        "--stage",
        choices=(*STAGES, *APART),
        action="append",
        help="only this stage; may be repeated. recover: the coder of a finished voice, from features",
    )
    parser.add_argument(
        "--from-embedded", action="store_true", help="codec and language model go on from the embedded voice"
    )
    parser.add_argument("--threads", type=int, default=0, help="torch's CPU threads; 0: its own choice")
    parser.add_argument(
        "--minutes", type=float, default=0, help="fit the schedule of a learning stage in this time"
    )
    parser.add_argument("--steps", type=int, help="of a learning stage's whole schedule")
    parser.add_argument(
        "--adversarial", type=float, help="discriminators join after this share of the codec's schedule"
    )
    parser.add_argument("--width", type=int, help="of the language model; a multiple of 64")
    parser.add_argument("--layers", type=int, help="of the language model")
    parser.add_argument("--batch-tokens", type=int, help="tokens a step of the language model")
    parser.add_argument("--batch", type=int, help="crops per step of the codec")
    parser.add_argument(
        "--stop-after", type=float, default=0, help="minutes after which a learning stage saves and ends"
    )
    parser.add_argument("--packing", choices=("F16", "Q8_0"), default="F16", help="of the GGUF")
    parser.add_argument("--listened", type=int, default=12, help="sentences a voice to be judged by")
    chosen = parser.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    recipe = SMOKE if chosen.size == "smoke" else FULL
    told, heard = recipe.language, recipe.codec
    told = replace(
        told,
        steps=chosen.steps or told.steps,
        minutes=chosen.minutes,
        stop_minutes=chosen.stop_after,
        batch_tokens=chosen.batch_tokens or told.batch_tokens,
    )
    if chosen.from_embedded:
        if chosen.width or chosen.layers:
            parser.error("--from-embedded has the embedded voice's width and layers")
        told, heard = language.going_on(told, embedded.MODEL), codec.going_on(heard, embedded.CODEC)
    if chosen.width:
        inner = round(chosen.width * 2.75 / 32) * 32
        shape = replace(told.shape, width=chosen.width, heads=chosen.width // 64, inner=inner)
        shape = replace(shape, key_heads=shape.heads // 2 if shape.heads % 2 == 0 else shape.heads)
        told = replace(told, shape=shape)
    if chosen.layers:
        told = replace(told, shape=replace(told.shape, layers=chosen.layers))
    heard = replace(
        heard,
        steps=chosen.steps or heard.steps,
        minutes=chosen.minutes,
        stop_minutes=chosen.stop_after,
        batch=chosen.batch or heard.batch,
    )
    if chosen.adversarial is not None:
        heard = replace(heard, adversarial_from=chosen.adversarial)
    recipe = replace(recipe, language=told, codec=heard, packing=chosen.packing, listened=chosen.listened)
    for stage in chosen.stage or STAGES:
        print(f"== {stage}", flush=True)
        run(stage, recipe, chosen.out)


if __name__ == "__main__":
    main()
