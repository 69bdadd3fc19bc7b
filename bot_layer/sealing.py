"""Personal data at rest, encrypted under the operator's key (BOT_HOST_INBOX_KEY) where one is set."""

from __future__ import annotations

import base64
import hashlib
from typing import Final

from cryptography.fernet import Fernet, InvalidToken

_SEALED: Final = b"gAAAA"  # every Fernet token begins so, and no JSON does: https://github.com/fernet/spec


class Seal:
    """Encrypts and decrypts under one key; without a key everything stays as it is."""

    def __init__(self, key: str | None) -> None:
        self._cipher = Fernet(base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest())) if key else None

    def close(self, data: bytes) -> bytes:
        """The data encrypted, or as it is where there is no key."""
        return self._cipher.encrypt(data) if self._cipher is not None and data else data

    def open(self, data: bytes) -> bytes | None:
        """The data as it was, also where it was stored before there was a key; None where this key does not fit."""
        if not data.startswith(_SEALED):
            return data
        try:
            return self._cipher.decrypt(data) if self._cipher is not None else None
        except InvalidToken:
            return None
