"""Both tiers on Modal: what the scripts at the root do. Imports modal, and nothing heavy, at the top of its files."""
