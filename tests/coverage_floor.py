"""The floors of branch coverage, checked after the tests: pure rules 100 %, the rest 90 %. Run by ``make coverage``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PURE = re.compile(r"bot_layer/(fhir/|\w+/rules/|patient_registration/adt/)")
FLOORS = {"rules": 100.0, "rest": 90.0}


def main() -> int:
    """0 where each part reaches its floor; else 1, with the files that fall short."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        line = [sys.executable, "-m", "coverage", "json", "-q", "-o", str(report)]
        subprocess.run(line, check=True)
        files = json.loads(report.read_text(encoding="utf-8"))["files"]
    totals = {"rules": [0, 0], "rest": [0, 0]}
    for name, measured in files.items():
        part = "rules" if PURE.match(name) else "rest"
        summary = measured["summary"]
        totals[part][0] += summary["covered_lines"] + summary["covered_branches"]
        totals[part][1] += summary["num_statements"] + summary["num_branches"]
    # Nothing measured is nothing reached: a run that was cut short must not pass.
    reached = {part: 100.0 * done / all_ if all_ else 0.0 for part, (done, all_) in totals.items()}
    for part, share in reached.items():
        sys.stdout.write(f"branch coverage of {part}: {share:.2f} % (floor {FLOORS[part]:.0f} %)\n")
    for name, measured in sorted(files.items()):
        if PURE.match(name) and measured["summary"]["percent_covered"] < FLOORS["rules"]:
            lines = ", ".join(map(str, measured["missing_lines"][:12]))
            sys.stdout.write(f"  {name} {measured['summary']['percent_covered']:.0f} %: lines {lines}\n")
    return 0 if all(reached[part] >= floor for part, floor in FLOORS.items()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
