"""SNAC codes → PCM, streamed: each latent is decoded once, all open streams together, with the offline decode's samples."""

from orpheus.codec.decoder import Decoder
from orpheus.codec.service import Codec, CodecStream
from orpheus.codec.stream import StreamState, decode_all

__all__ = ["Codec", "CodecStream", "Decoder", "StreamState", "decode_all"]
