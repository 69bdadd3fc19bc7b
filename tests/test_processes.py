"""No process of a test outlives a test run that was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.host.process import until

PARENT = (
    "import sys, time\n"
    "from tests import processes\n"
    "print(processes.start([sys.executable, '-c', 'import time; time.sleep(600)']).pid, flush=True)\n"
    "time.sleep(600)\n"
)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's own")
def test_a_process_ends_with_a_killed_test_run() -> None:
    """Otherwise each killed test run left hosts that ran forever."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert _runs(child)
        parent.send_signal(signal.SIGKILL)
    until(lambda: not _runs(child))


def _runs(pid: int) -> bool:
    """True while the process runs; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
