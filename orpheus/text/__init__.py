"""A request's text → the segments it is spoken in: what a person would read aloud, in parts of one breath each."""

from orpheus.text.segmenter import Segment, SegmentedText, SegmentSource, segment_text
from orpheus.text.sentences import length
from orpheus.text.streaming import Span, StreamingSegmenter

__all__ = [
    "Segment",
    "SegmentSource",
    "SegmentedText",
    "Span",
    "StreamingSegmenter",
    "length",
    "segment_text",
]
