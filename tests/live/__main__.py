"""``make live``: run every scenario against the server of MEDPLUM_BASE_URL, and print a table of the results."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.live.scenarios import SCENARIOS
from tests.live.target import Refused, Target, opened
from tests.live.world import Live, started

Row = tuple[str, bool, str, float]
FIGURES = ("latency", "bulk_speed", "killed_host")
# The server's own records of what happened; they stay where anything was done at all.
RECORDS = frozenset({"AuditEvent", "Login"})


def trial(live: Live, names: list[str]) -> list[Row]:
    """For each scenario: its name, whether it passed, what was found, and the seconds it took."""
    rows: list[Row] = []
    for name in names:
        began = time.monotonic()
        try:
            held, found = True, SCENARIOS[name](live)
        except Exception as fault:  # noqa: BLE001  # a scenario that fails is a row of the table
            held, found = False, f"{type(fault).__name__}: {fault}"
            (live.folder / "faults.log").open("a").write(f"{name}\n{traceback.format_exc()}\n")
        rows.append((name, held, found, time.monotonic() - began))
        sys.stderr.write(f"{'ok    ' if held else 'FAILED'} {name}: {found}\n")
    return rows


def nothing_left(target: Target) -> Row:
    """Whether every type has as many resources as before, apart from the server's records."""
    remains = ", ".join(f"{count:+} {kind}" for kind, count in sorted(target.left.items()))
    return "leaves nothing behind", target.left.keys() <= RECORDS, remains or "every type as before", 0.0


def figures(target: Target, console: Console) -> None:
    """Print how the project compares with a JavaScript bot and with other ways to write, and a host that is killed."""
    port = str(target.router_port or 8765)
    if target.look_alike is not None:
        target.look_alike.bot_host = f"127.0.0.1:{port}"
    os.environ.update(target.environment)
    os.environ.update({"BENCH_FISSION_PORT": port, "FISSION_PORT": port})
    for name in FIGURES:
        console.print(f"\n[bold]{name}[/bold], load average {os.getloadavg()[0]:.1f}")
        importlib.import_module(f"benchmarks.{name}").run(console)
        target.clear()


def main() -> int:
    """0 if everything passed; 1 if something did not; 2 if nothing was tried."""
    names = [name for name in SCENARIOS if not sys.argv[1:] or any(word in name for word in sys.argv[1:])]
    console = Console(width=140)
    try:
        with tempfile.TemporaryDirectory(prefix="live-") as folder, opened() as target:
            with started(target, Path(folder)) as live:
                rows = trial(live, names)
            faults = Path(folder) / "faults.log"
            failed = faults.read_text() if faults.exists() else ""
            if os.environ.get("FIGURES"):
                target.clear()
                figures(target, console)
    except Refused as refused:
        sys.stderr.write(f"{refused}\n")
        return 2
    rows.append(nothing_left(target))
    what = f"Medplum {target.version}" + (" (the look-alike)" if target.look_alike else "")
    table = Table("scenario", "held", "found", "seconds", title=what)
    for name, held, found, seconds in rows:
        table.add_row(name, "yes" if held else "NO", found, f"{seconds:.1f}")
    console.print(table)
    if failed:
        sys.stderr.write(failed)
    return 0 if all(held for _, held, _, _ in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
