"""The Practice Fusion sync, used by the bot and the command line."""
