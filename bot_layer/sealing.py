"""Encryption of stored personal data with the operator's key (BOT_HOST_INBOX_KEY), if one is set."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any, Final

from cryptography.fernet import Fernet, InvalidToken

_SEALED: Final = b"gAAAA"  # every Fernet token begins so, and no JSON does: https://github.com/fernet/spec


class Seal:
    """Encrypts and decrypts with one key; without a key, everything stays unchanged."""

    def __init__(self, key: str | None) -> None:
        self._cipher = Fernet(base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest())) if key else None

    def close(self, data: bytes) -> bytes:
        """The data encrypted, or unchanged without a key."""
        return self._cipher.encrypt(data) if self._cipher is not None and data else data

    def open(self, data: bytes) -> bytes | None:
        """The original data, also if it was stored before there was a key; None if it has another key."""
        if not data.startswith(_SEALED):
            return data
        try:
            return self._cipher.decrypt(data) if self._cipher is not None else None
        except InvalidToken:
            return None

    def close_json(self, value: Any) -> str:
        """A value as encrypted JSON text."""
        return self.close(json.dumps(value).encode()).decode()

    def open_json(self, text: str) -> Any:
        """The value of encrypted JSON text; None if it has another key."""
        opened = self.open(text.encode())
        return None if opened is None else json.loads(opened)
