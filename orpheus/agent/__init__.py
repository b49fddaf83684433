"""A voice agent on top of the pair: audio in → turns → transcript → language model → the pair → audio out.

A client of tier 2 in its own process. One small file a stage, in the order of data: audio, vad, turns, hear, think.
"""
