"""Tier 1: prompts in, audio tokens out, many streams through one llama.cpp context."""
