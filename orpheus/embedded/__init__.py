"""The embedded voice: weights small enough to ship, so that everything runs without a GPU or a download."""

from pathlib import Path

MODEL = Path(__file__).parent / "model.gguf"
CODEC = Path(__file__).parent / "snac"
VOCABULARY = 14_601  # tokens of MODEL: what tells it from others where only its size is known
