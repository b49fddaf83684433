"""The protocols that a conversation is held over, one per file."""
