"""``make live``: every scenario against the server of MEDPLUM_BASE_URL, and a table of what held."""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.live.scenarios import SCENARIOS
from tests.live.target import Refused, opened
from tests.live.world import Live, started


def trial(live: Live, names: list[str]) -> list[tuple[str, bool, str, float]]:
    """For each scenario: its name, whether it held, what was found, and the seconds it took."""
    rows = []
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


def main() -> int:
    """0 if everything held; 1 if something did not; 2 if nothing was tried."""
    names = [name for name in SCENARIOS if not sys.argv[1:] or any(word in name for word in sys.argv[1:])]
    try:
        with (
            tempfile.TemporaryDirectory(prefix="live-") as folder,
            opened() as target,
            started(target, Path(folder)) as live,
        ):
            rows = trial(live, names)
            failed = (Path(folder) / "faults.log").read_text() if (Path(folder) / "faults.log").exists() else ""
            what = f"Medplum {target.version}" + (" (the look-alike)" if target.look_alike else "")
    except Refused as refused:
        sys.stderr.write(f"{refused}\n")
        return 2
    table = Table("scenario", "held", "found", "seconds", title=what)
    for name, held, found, seconds in rows:
        table.add_row(name, "yes" if held else "NO", found, f"{seconds:.1f}")
    Console(width=140).print(table)
    if failed:
        sys.stderr.write(failed)
    return 0 if all(held for _, held, _, _ in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
