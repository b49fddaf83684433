"""WebSocket protocols, one per file, over one utterance queue."""
