"""``make bench``: every benchmark, or those named on the command line."""

from __future__ import annotations

import importlib
import pkgutil
import sys

from rich.console import Console

import benchmarks


def main(names: list[str]) -> None:
    """Run the named benchmarks, or all, one after another."""
    console = Console()
    found = sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__) if module.name != "__main__")
    for name in [name for name in found if not names or name in names]:
        console.rule(f"[bold]{name}", align="left")
        importlib.import_module(f"benchmarks.{name}").run(console)


if __name__ == "__main__":
    main(sys.argv[1:])
