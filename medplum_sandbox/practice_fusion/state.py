"""The state of one bulk data source: its data, its export jobs, its client, and what time it is there."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from medplum_sandbox.faults import Faults
from medplum_sandbox.json import Json
from medplum_sandbox.practice_fusion.jobs import Job
from medplum_sandbox.practice_fusion.manifests import Links
from medplum_sandbox.practice_fusion.source import Source
from medplum_sandbox.practice_fusion.switches import Switches
from medplum_sandbox.practice_fusion.tokens import TokenDesk


class State:
    """What the HTTP surface answers from. The addresses and ``links`` are set once the ports are known."""

    base_url: str
    token_url: str
    links: Links
    source: Source

    def __init__(
        self, *, switches: Switches | None, faults: Faults | None, clock: Callable[[], float] = time.time
    ) -> None:
        self.switches = switches or Switches.exact()
        self.faults = faults or Faults()
        self.clock = clock
        self.jobs: dict[str, Job] = {}
        self.edit_manifest: Callable[[Json], Json] = lambda body: body
        self.desk = TokenDesk(self.switches, clock)
        self._last_export = datetime.fromtimestamp(0, UTC)

    def serve(self, source: Source) -> None:
        """Serves another practice's data in place of the present one; jobs are dropped, tokens and keys stay.

        Starting a server takes longer than an export: a test with many sources reuses one look-alike.
        """
        source.rebase(self.base_url)
        self.source = source
        self.jobs.clear()

    def now(self) -> datetime:
        """The source's time in full milliseconds, always later than the last transactionTime.

        A change at this moment is therefore in the next export with ``_since``, however fast a test runs.
        """
        moment = datetime.fromtimestamp(self.clock(), UTC)
        moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
        return max(moment, self._last_export + timedelta(milliseconds=1))

    def http_date(self) -> str:
        """The source's time as the header Date has it: in whole seconds."""
        return format_datetime(datetime.fromtimestamp(self.clock(), UTC), usegmt=True)

    def begin_export(self) -> datetime:
        """The transactionTime of an export that starts now."""
        self._last_export = self.now()
        return self._last_export

    def wait_header(self) -> str | None:
        """The value of Retry-After as this source writes it."""
        now = self.clock()
        return {
            "none": None,
            "seconds": "1",
            "date": format_datetime(datetime.fromtimestamp(now + 1, UTC), usegmt=True),
            "epoch": str(int(now) + 1),
            "hours": "18000",
        }[self.switches.retry_after]
