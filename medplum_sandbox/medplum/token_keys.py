"""The keys that sign access tokens: ES256, published as a JSON Web Key Set, replaced when a test asks for it.

https://www.medplum.com/docs/api/oauth/jwks
"""

from __future__ import annotations

import json
import threading
import uuid
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from medplum_sandbox.json import Json

ALGORITHM = "ES256"


@dataclass(frozen=True)
class _Key:
    kid: str = field(default_factory=lambda: str(uuid.uuid4()))
    private: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def public(self) -> Json:
        fields = json.loads(ECAlgorithm.to_jwk(self.private.public_key()))
        return {"kid": self.kid, "alg": ALGORITHM, "kty": "EC", "use": "sig"} | {
            name: fields[name] for name in ("x", "y", "crv")
        }


class TokenKeys:
    """The signing key in use, and the older ones whose tokens are still accepted."""

    def __init__(self) -> None:
        self._keys = [_Key()]
        self._lock = threading.Lock()

    def rotate(self, *, keep: bool = True) -> None:
        """Sign with a new key; with ``keep`` the tokens of the older keys stay valid."""
        with self._lock:
            self._keys = [_Key(), *(self._keys if keep else ())]

    def sign(self, claims: Json) -> str:
        """A token with these claims."""
        key = self._keys[0]
        return jwt.encode(claims, key.private, algorithm=ALGORITHM, headers={"kid": key.kid})

    def claims(self, token: str) -> Json:
        """The claims of a token that one of the keys signed; jwt.InvalidTokenError where none did.

        Its times are not checked: the world's clock decides, not the machine's.
        """
        kid = jwt.get_unverified_header(token).get("kid")
        found = [key for key in self._keys if key.kid == kid]
        if not found:
            raise jwt.InvalidTokenError("unknown key")
        options: Any = {"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_aud": False}
        return jwt.decode(token, found[0].private.public_key(), algorithms=[ALGORITHM], options=options)

    def key_set(self) -> Json:
        """``GET /.well-known/jwks.json``."""
        return {"keys": [key.public() for key in self._keys]}
