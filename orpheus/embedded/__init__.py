"""The embedded voice: small real weights, so that everything runs with no GPU and no download."""

from pathlib import Path

MODEL = Path(__file__).parent / "model.gguf"
CODEC = Path(__file__).parent / "snac"
