"""A collection of its own beside the bundled one: two small bots that the live scenarios call."""
