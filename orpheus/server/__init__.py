"""Tier 2: text in, encoded speech out, over HTTP and WebSockets."""
