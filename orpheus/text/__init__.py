"""A request's text → the pieces it is spoken in: what a person would read aloud, in parts of one breath each."""

from orpheus.text.pieces import Piece, Spoken, pieces

__all__ = ["Piece", "Spoken", "pieces"]
