"""What the inbox stores of an envelope: the envelope encrypted with the operator's key, or only references.

An envelope contains personal data, a token and secrets. None of it is ever stored unencrypted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from bot_layer.fhir.json import Json
from bot_layer.sealing import Seal

_LONGEST_SECONDS: Final = 86_400.0


class Vault:
    """Envelopes by the id of their event: encrypted if there is a key, else only in this process's memory."""

    def __init__(self, key: str | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seal = Seal(key) if key else None
        self._memory: dict[str, tuple[float, Json]] = {}
        self._clock = clock
        self._lock = threading.Lock()

    def put(self, event_id: str, envelope: Json) -> str | None:
        """The encrypted envelope to store, or None if it stays in memory."""
        if self._seal is not None:
            return self._seal.close_json(envelope)
        with self._lock:
            self._memory.pop(event_id, None)
            self._memory[event_id] = (self._clock(), envelope)
            # The run may have ended before or on another host, without notice to this one. A token expires earlier.
            while self._clock() - next(iter(self._memory.values()))[0] >= _LONGEST_SECONDS:
                del self._memory[next(iter(self._memory))]
        return None

    def get(self, event_id: str, sealed: str | None) -> Json | None:
        """The envelope, or None if it was lost with its process, or encrypted with another key."""
        if sealed is None:
            with self._lock:
                return self._memory.get(event_id, (0.0, None))[1]
        return self._seal.open_json(sealed) if self._seal is not None else None

    def forget(self, event_id: str) -> None:
        """Remove a finished event from memory."""
        with self._lock:
            self._memory.pop(event_id, None)
