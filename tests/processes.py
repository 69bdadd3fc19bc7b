"""Processes of a test that end with it, also where pytest itself is killed."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

_PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None) if sys.platform == "linux" else None


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """A process as of ``subprocess.Popen``; Linux kills it when the thread that started it ends.

    ``start_new_session`` and a ``finally`` do not help if no process is left to run the ``finally``.
    """
    return subprocess.Popen(command, preexec_fn=_end_with_parent, **options)  # noqa: PLW1509  # one system call, its library is loaded before


def _end_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
