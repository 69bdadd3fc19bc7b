"""The commands of ``medplum-bots``: one module each, with a typer ``app`` that the command line mounts."""
