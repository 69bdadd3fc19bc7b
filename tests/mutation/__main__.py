"""``make mutants``: apply each mutant to a copy of the project, and report which laws or tests fail on it.

Exit status 1 if one survives without an explanation, or if its text no longer stands in the file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutation.mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
_COPIED = ("bot_layer", "bots", "tests", "medplum_sandbox", "operation_definitions", "fixtures")


def main() -> int:
    """Run every mutant, or those whose file or description holds the words given on the command line."""
    words = sys.argv[1:]
    chosen = [mutant for mutant in MUTANTS if all(word in f"{mutant.rules.path} {mutant.about}" for word in words)]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in _COPIED:
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        results = [(mutant, _result(copy, mutant)) for mutant in chosen]
    bad = [mutant for mutant, result in results if result in {"survived", "not found"} and not mutant.survives]
    killed = sum(result.startswith("killed") for _, result in results)
    sys.stdout.write(
        f"{len(results)} mutants: {killed} killed, {len(results) - killed - len(bad)} explained, {len(bad)} bad\n"
    )
    return 1 if bad else 0


def _result(copy: Path, mutant: Mutant) -> str:
    path = copy / mutant.rules.path
    whole = path.read_text(encoding="utf-8")
    _forget_compiled(path)
    if whole.count(mutant.old) != 1:
        result = "not found"
    else:
        path.write_text(whole.replace(mutant.old, mutant.new), encoding="utf-8")
        try:
            kinds = (("killed by laws", mutant.rules.laws), ("killed by tests", mutant.rules.tests))
            result = next((name for name, tests in kinds if tests and _fails(copy, tests)), "survived")
        finally:
            path.write_text(whole, encoding="utf-8")
            _forget_compiled(path)
    note = f": {mutant.survives}" if mutant.survives else ""
    sys.stdout.write(f"{result:16} {Path(mutant.rules.path).name:16} {mutant.about}{note}\n")
    sys.stdout.flush()
    return result


def _forget_compiled(path: Path) -> None:
    """A mutant of the same length and second would be taken for the file that was compiled before it."""
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        compiled.unlink()


def _fails(copy: Path, tests: tuple[str, ...]) -> bool:
    plugins = ("-p", "_hypothesis_pytestplugin", "-p", "pytest_timeout", "-p", "pytest_cov")
    command = [sys.executable, "-m", "pytest", "-x", "-q", *plugins, *tests]
    environ = {**os.environ, "PYTHONPATH": str(copy), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=copy, env=environ, capture_output=True, check=False)
    if done.returncode not in {0, 1, 2}:
        raise RuntimeError(done.stdout.decode()[-2000:] + done.stderr.decode()[-2000:])
    return done.returncode != 0


if __name__ == "__main__":
    sys.exit(main())
