"""WebSocket protocols, one file each, over one engine."""
