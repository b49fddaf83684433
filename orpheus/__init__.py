"""Orpheus: text in, speech out, while the text is still arriving."""

__version__ = "0.1.0"
