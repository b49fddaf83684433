"""SNAC codes → PCM, streamed: each latent decoded once, all open streams together, equal to the offline decode."""

from orpheus.codec.decoder import Decoder
from orpheus.codec.service import Codec, CodecStream
from orpheus.codec.stream import StreamState, decode_all

__all__ = ["Codec", "CodecStream", "Decoder", "StreamState", "decode_all"]
