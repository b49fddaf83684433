"""What a person runs: serve, say, relay, doctor, bench."""
