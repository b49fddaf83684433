"""What a fleet of both tiers needs for so many conversations at once, and how soon it answers: a simulation."""
