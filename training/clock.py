"""The durations that every stage shares: samples, frames, latents. Constants only.

Imports nothing, so that stages without a teacher do not load one.
"""

TEACHER_HZ = 22050
UNIT_SAMPLES = 256  # the teacher's own frame, at its rate; phoneme lengths are whole numbers of it
RATE_HZ = 24000  # SNAC's, and of everything after the teacher
HOP_SAMPLES = 256  # of analysis: two a latent
LATENT_SAMPLES = 512  # SNAC's hop
LATENTS = 4  # in a frame of seven codes
FRAME_SAMPLES = LATENTS * LATENT_SAMPLES
