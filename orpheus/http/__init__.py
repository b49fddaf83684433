"""What the servers of both tiers share: responses, limits on a body, a draining process, waiting out a cold start."""
