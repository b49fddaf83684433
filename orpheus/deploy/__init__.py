"""Deployment of both tiers to Modal. Its modules import nothing heavy: the deploying machine has no torch."""
