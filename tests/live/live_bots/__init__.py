"""A separate collection in addition to the bundled one: two small bots that the live scenarios call."""
