"""What the inbox keeps of an envelope: encrypted under the operator's key, or nothing but references.

An envelope holds a person's data, a token and secrets. None of it is ever written in the clear.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Final

from bot_layer.fhir.json import Json
from bot_layer.sealing import Seal

_LONGEST_SECONDS: Final = 86_400.0


class Vault:
    """Envelopes by the id of their event: sealed where there is a key, else in this process's memory alone."""

    def __init__(self, key: str | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seal = Seal(key) if key else None
        self._memory: dict[str, tuple[float, Json]] = {}
        self._clock = clock
        self._lock = threading.Lock()

    def put(self, event_id: str, envelope: Json) -> str | None:
        """The sealed envelope to be stored, or None where it stays in memory."""
        if self._seal is not None:
            return self._seal.close(json.dumps(envelope).encode()).decode()
        with self._lock:
            self._memory.pop(event_id, None)
            self._memory[event_id] = (self._clock(), envelope)
            # The run may have ended before, or at another host, and nobody says so here. A token ends earlier.
            while self._clock() - next(iter(self._memory.values()))[0] >= _LONGEST_SECONDS:
                del self._memory[next(iter(self._memory))]
        return None

    def get(self, event_id: str, sealed: str | None) -> Json | None:
        """The envelope, or None where it is lost with the process that had it, or sealed under another key."""
        if sealed is None:
            with self._lock:
                return self._memory.get(event_id, (0.0, None))[1]
        opened = self._seal.open(sealed.encode()) if self._seal is not None else None
        return json.loads(opened) if opened is not None else None

    def forget(self, event_id: str) -> None:
        """Drop what memory holds of a finished event."""
        with self._lock:
            self._memory.pop(event_id, None)
