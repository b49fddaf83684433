"""Text → segments: the text as a person would read it aloud, in parts short enough for one generation each.

`segment_text` takes a complete text, `StreamingSegmenter` one that is still being written.
"""

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
