"""A request's text → the pieces it is spoken in: what a person would read aloud, in parts of one breath each."""

from orpheus.text.live import LiveText, Span
from orpheus.text.pieces import Piece, Script, Spoken, pieces
from orpheus.text.sentences import length

__all__ = ["LiveText", "Piece", "Script", "Span", "Spoken", "length", "pieces"]
