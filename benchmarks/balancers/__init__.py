"""nginx and Envoy, as deploy/ configures them, in front of several tier 1s and tier 2s."""
