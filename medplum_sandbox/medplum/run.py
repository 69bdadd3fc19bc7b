"""One call of a bot, whatever made it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from medplum_sandbox.json import Json
from medplum_sandbox.medplum.trace import Trace


@dataclass(frozen=True)
class Run:
    """One call of a bot. A cron run has no ``requester``, no ``headers``, and shows no trace."""

    project: str
    bot: Json
    run_as: Json
    input: Any
    content_type: str | None
    trace: Trace = field(default_factory=Trace)
    requester: Json | None = None
    headers: dict[str, str] | None = None
    about: Json | None = None  # the resource whose change started the run, and the Subscription that waited for it
    subscription: Json | None = None

    @property
    def bot_reference(self) -> Json:
        """The Bot as a reference shows it."""
        reference = f"Bot/{self.bot['id']}"
        return {"reference": reference, "display": self.bot.get("name", reference)}
