"""What the author of a bot imports: declaration, event, handler, collection."""
