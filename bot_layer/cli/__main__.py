"""``python -m bot_layer.cli``: the command line without its console script."""

from bot_layer.cli.main import main

if __name__ == "__main__":
    main()
