"""A run needs as much memory for a large file as for a small one."""

from __future__ import annotations

import sys

import pytest

from benchmarks.pf_sync import _peak

pytestmark = pytest.mark.no_cover  # the process that counts is another


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's own peak (VmHWM)")
def test_the_peak_does_not_follow_the_size_of_a_file() -> None:
    """A whole run in a separate process, which streams one file of 3 MB and one of 30 MB from a source."""
    small, large = _peak(3), _peak(30)
    assert large["resources"] > 9 * small["resources"]
    assert large["peak"] < 1.1 * small["peak"]
    assert large["peak"] < 200
