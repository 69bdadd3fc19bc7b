"""The signature of a relay's envelopes: who sent one, and when.

``X-Bot-Signature: t=<unix seconds>,n=<nonce>,v1=<hex>`` where v1 is the HMAC-SHA256 of ``t.n.<bot>.<body>`` under the
key that the relay and the host share. The bot's name is signed, so that an envelope for one bot can't be sent to
another.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass

from bot_layer.errors import AuthError

WINDOW_SECONDS = 300
_FORM = re.compile(r"t=(\d{1,12}),n=([A-Za-z0-9_-]{8,64}),v1=([0-9a-f]{64})")


def sign(key: str, bot: str, body: bytes, *, at: int, nonce: str) -> str:
    """The header's value for a body."""
    return f"t={at},n={nonce},v1={_mac(key, bot, body, at, nonce)}"


@dataclass(frozen=True)
class Signature:
    """A signature header: when the call was signed (seconds since 1970), its nonce and its MAC."""

    at: int
    nonce: str
    mac: str


def read_signature(header: str, *, now: float) -> Signature:
    """Parse a signature header, without the body. AuthError if it is malformed or older than five minutes."""
    parts = _FORM.fullmatch(header)
    if parts is None:
        raise AuthError("The relay's call carries no signature.", code="unsigned")
    if abs(now - int(parts[1])) > WINDOW_SECONDS:
        raise AuthError(
            "The relay's call is older than five minutes, or the clocks differ by as much.", code="stale-signature"
        )
    return Signature(int(parts[1]), parts[2], parts[3])


def verify(key: str, header: str, bot: str, body: bytes, *, now: float) -> Signature:
    """The verified signature of a call; AuthError unless it is valid and from the last five minutes."""
    signature = read_signature(header, now=now)
    if not hmac.compare_digest(signature.mac, _mac(key, bot, body, signature.at, signature.nonce)):
        raise AuthError("The relay's call is signed with another key.", code="wrong-signature")
    return signature


def _mac(key: str, bot: str, body: bytes, at: int, nonce: str) -> str:
    return hmac.new(key.encode(), f"{at}.{nonce}.{bot}.".encode() + body, hashlib.sha256).hexdigest()
