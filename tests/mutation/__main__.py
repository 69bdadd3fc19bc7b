"""``make mutants``: apply each mutant to a copy of the project, and report which laws or tests fail on it.

The exit status is 1 if one survives without an explanation, or if its text is no longer in the file.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import hypothesis.strategies  # noqa: F401  # loaded once, for all forks
import pytest

from tests.mutation.mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
os.environ |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "MUTANTS": "1"}
_COPIED = ("bot_layer", "bots", "tests", "medplum_sandbox", "operation_definitions", "fixtures")


def main() -> int:
    """Run every mutant, or those whose file or description contains the words given on the command line."""
    words = sys.argv[1:]
    chosen = [mutant for mutant in MUTANTS if all(word in f"{mutant.rules.path} {mutant.about}" for word in words)]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in _COPIED:
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        asked = {tests for mutant in chosen for tests in (mutant.rules.laws, mutant.rules.tests) if tests}
        broken = sorted(", ".join(tests) for tests in asked if _fails(copy, tests))
        if broken:
            sys.exit("These fail without a mutant, and would kill every one:\n" + "\n".join(broken))
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
    """Delete the compiled file: Python would reuse it for a text of the same length, written in the same second."""
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        compiled.unlink()


def _fails(copy: Path, tests: tuple[str, ...]) -> bool:
    """Whether a test fails on the copy, in a fork of this process, which has loaded pytest and Hypothesis once."""
    child = os.fork()
    if child == 0:
        status = 3
        try:
            status = _run(copy, tests)
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in {0, 1, 2}:
        raise RuntimeError(f"pytest ended with {status} on {', '.join(tests)}.")
    return status != 0


def _run(copy: Path, tests: tuple[str, ...]) -> int:
    for name in [name for name in sys.modules if name.partition(".")[0] in _COPIED]:
        del sys.modules[name]
    os.chdir(copy)
    sys.path[:] = [str(copy), *(each for each in sys.path if each not in {"", str(ROOT)})]
    plugins = ("-p", "_hypothesis_pytestplugin", "-p", "pytest_timeout", "-p", "pytest_cov")
    with Path(os.devnull).open("w", encoding="utf-8") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        return int(pytest.main(["-x", "-q", *plugins, *tests]))


if __name__ == "__main__":
    sys.exit(main())
