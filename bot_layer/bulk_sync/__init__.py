"""The Practice Fusion sync: what the bot and the command line both run."""
