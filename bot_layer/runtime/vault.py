"""What the inbox keeps of an envelope: encrypted under the operator's key, or nothing but references.

An envelope holds a person's data, a token and secrets. None of it is ever written in the clear.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading

from cryptography.fernet import Fernet, InvalidToken

from bot_layer.core.json import Json


class Vault:
    """Envelopes by the id of their event: sealed where there is a key, else in this process's memory alone."""

    def __init__(self, key: str | None) -> None:
        self._cipher = Fernet(base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest())) if key else None
        self._memory: dict[str, Json] = {}
        self._lock = threading.Lock()

    def put(self, event_id: str, envelope: Json) -> str | None:
        """The sealed envelope to be stored, or None where it stays in memory."""
        if self._cipher is not None:
            return self._cipher.encrypt(json.dumps(envelope).encode()).decode()
        with self._lock:
            self._memory[event_id] = envelope
        return None

    def get(self, event_id: str, sealed: str | None) -> Json | None:
        """The envelope, or None where it is lost with the process that had it, or sealed under another key."""
        if sealed is None:
            with self._lock:
                return self._memory.get(event_id)
        if self._cipher is None:
            return None
        try:
            opened: Json = json.loads(self._cipher.decrypt(sealed.encode()))
        except InvalidToken:
            return None
        return opened

    def forget(self, event_id: str) -> None:
        """Drop what memory holds of a finished event."""
        with self._lock:
            self._memory.pop(event_id, None)
