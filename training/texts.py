"""Debian's wordnet-base and fortunes, and our templates → texts.jsonl, one sentence to speak per line.

The order is shuffled once with the seed, so any prefix is a balanced set.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from training.files import write_atomically
from training.templates import Templates

SEED = 20261121
TEST_SENTENCES = 400  # the first of the shuffled natural sentences; never trained on
LONGEST_CHARACTERS = 160
PACKAGES = ("wordnet-base", "fortunes", "fortunes-min")

# What the teacher says for a tag: a voice that cannot laugh can still say so.
SPOKEN_TAGS = {
    "<laugh>": "ha ha ha ha!",
    "<chuckle>": "heh heh heh.",
    "<giggle>": "hee hee hee!",
    "<sigh>": "hahhh...",
    "<groan>": "uhhh...",
}
_PLAIN = re.compile(r"[A-Za-z0-9 ,.;:?!'\"$%&()<>-]+")
_NATURAL_FIRST = re.compile(r"[A-Za-z\"]")


def fetch(folder: Path) -> None:
    """Unpack the Debian packages under `folder`, through apt's ordinary client."""
    if (folder / "usr/share/wordnet/data.noun").exists() and (folder / "usr/share/games/fortunes").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", *PACKAGES], cwd=folder, check=True)
    for package in sorted(folder.glob("*.deb")):
        subprocess.run(["dpkg", "-x", str(package), str(folder)], check=True)


def clean(text: str) -> str | None:
    """A sentence with a capital and an end mark, or None if it is no plain English prose."""
    text = re.sub(r"\s+", " ", text.replace("`", "'").replace("--", ", ").replace(" ,", ",")).strip(" ;,:-")
    text = re.sub(r"\([^)]*\)", "", text).replace("  ", " ").strip()
    if (
        not 2 <= len(text) <= LONGEST_CHARACTERS
        or not _PLAIN.fullmatch(text)
        or not _NATURAL_FIRST.match(text)
    ):
        return None
    if text.count('"') % 2 or "." in text[:-1].replace("Mr.", "").replace("Dr.", "").replace("...", ""):
        return None
    if sum(letter.isupper() for letter in text) > max(3, len(text) // 6) and len(text) > 12:
        return None
    text = text[0].upper() + text[1:]
    return text if text[-1] in '.?!"' else text + "."


def wordnet(folder: Path) -> Iterator[tuple[str, str]]:
    """(kind, text) for each gloss and each example."""
    for part in ("adj", "adv", "noun", "verb"):
        for line in (folder / f"usr/share/wordnet/data.{part}").read_text(errors="replace").splitlines():
            if line.startswith(" ") or " | " not in line:
                continue
            gloss = line.split(" | ", 1)[1]
            for example in re.findall(r'"([^"]+)"', gloss):
                yield "example", example
            yield "gloss", re.split(r'[;"]', gloss)[0]


def words(folder: Path) -> Iterator[tuple[str, str]]:
    """(kind, text) for lists of one to four dictionary words, which teach spelling better than prose does."""
    lemmas = []
    for part in ("adj", "adv", "noun", "verb"):
        for line in (folder / f"usr/share/wordnet/index.{part}").read_text().splitlines():
            lemma = line.split(" ", 1)[0].replace("_", " ")
            if lemma and re.fullmatch(r"[a-z' -]{3,24}", lemma):
                lemmas.append(lemma)
    draw = Random(SEED)
    draw.shuffle(lemmas)
    while lemmas:
        count = draw.randint(1, 4)
        yield "words", ", ".join(lemmas[:count])
        lemmas = lemmas[count:]


def fortunes(folder: Path) -> Iterator[tuple[str, str]]:
    """(kind, text) for the sentences of the fortune cookies."""
    for file in sorted((folder / "usr/share/games/fortunes").iterdir()):
        if file.suffix or not file.is_file() or file.name in ("ascii-art", "perl", "translate-me", "zippy"):
            continue
        for cookie in file.read_text(errors="replace").split("\n%\n"):
            for sentence in re.split(r"(?<=[.?!])\s+", cookie.split("--")[0].replace("\t", " ")):
                yield "fortune", sentence


def templated(count: int) -> Iterator[tuple[str, str]]:
    """(kind, text) for `count` sentences from the templates."""
    templates = Templates(SEED)
    for _ in range(count):
        yield "template", templates.sentence()


def spoken(text: str) -> str:
    """What the teacher is given: the text with its tags as sounds."""
    for tag, sound in SPOKEN_TAGS.items():
        text = text.replace(tag, sound)
    return text


def make(out: Path, sources: Path | None, limit: int) -> Path:
    """Write `out`/texts.jsonl of up to `limit` sentences; without `sources` the templates alone."""
    target = out / "texts.jsonl"
    if target.exists():
        return target
    draw = Random(SEED)
    pools: dict[str, list[str]] = {}
    streams = [templated(limit if sources is None else max(1000, limit // 4))]
    if sources is not None:
        fetch(sources)
        streams += [wordnet(sources), words(sources), fortunes(sources)]
    seen: set[str] = set()
    for stream in streams:
        for kind, raw in stream:
            text = raw if kind == "template" else clean(raw)
            if text and text.lower() not in seen:
                seen.add(text.lower())
                pools.setdefault(kind, []).append(text)
    # Prose teaches most and is what people listen to; lists of words and glosses widen the spelling.
    shares = {"example": 0.37, "template": 0.22, "gloss": 0.2, "words": 0.09, "fortune": 0.12}
    lines = []
    for kind, texts in sorted(pools.items()):
        draw.shuffle(texts)
        keep = limit if len(pools) == 1 else round(limit * shares[kind])
        lines += [(kind, text) for text in texts[:keep]]
    draw.shuffle(lines)
    natural = [line for line in lines if line[0] in ("example", "fortune")] or lines
    test = set(natural[: min(TEST_SENTENCES, len(lines) // 10)])
    ordered = [line for line in lines if line in test] + [line for line in lines if line not in test]
    write_atomically(
        target,
        "".join(
            json.dumps(
                {
                    "id": number,
                    "kind": kind,
                    "test": (kind, text) in test,
                    "rate": draw.choice((0, 1, 1, 2)),
                    "text": text,
                    "spoken": spoken(text),
                }
            )
            + "\n"
            for number, (kind, text) in enumerate(ordered)
        ).encode(),
    )
    return target


def read(out: Path) -> list[dict[str, Any]]:
    """The lines of texts.jsonl."""
    return [json.loads(line) for line in (out / "texts.jsonl").read_text().splitlines()]
