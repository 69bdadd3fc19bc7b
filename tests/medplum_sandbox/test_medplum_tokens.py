"""Access tokens of the look-alike: signed, with published keys like a real server's, so that clients can check them."""

from __future__ import annotations

from typing import Any

import jwt
import pytest

from bot_layer.fhir.json import Json
from medplum_sandbox.medplum import MedplumSandbox
from tests import loopback

# Read on a real 5.1.13.
CLAIMS = {"aud", "client_id", "login_id", "sub", "username", "scope", "profile", "jti", "iat", "nbf", "iss", "exp"}
KEY = {"kid", "alg", "kty", "use", "x", "y", "crv"}


def _keys(sandbox: MedplumSandbox) -> list[Json]:
    answer: Json = loopback.get(f"{sandbox.base_url}/.well-known/jwks.json").json()
    return list(answer["keys"])


def _read(token: str, keys: list[Json], issuer: str) -> Any:
    kid = jwt.get_unverified_header(token)["kid"]
    (key,) = [jwt.PyJWK(each) for each in keys if each["kid"] == kid]
    return jwt.decode(token, key, algorithms=["ES256"], issuer=issuer, audience=issuer)


def test_a_token_can_be_checked_with_the_published_keys() -> None:
    """ES256, with the claims of a real server, and nothing secret in the published key."""
    with MedplumSandbox() as sandbox:
        token, keys = sandbox.token_for(), _keys(sandbox)
        claims = _read(token, keys, f"{sandbox.base_url}/")
    assert set(claims) == CLAIMS
    assert claims["profile"] == f"ClientApplication/{sandbox.client_id}"
    assert [set(key) for key in keys] == [KEY]
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "kid": keys[0]["kid"], "typ": "JWT"}


@pytest.mark.parametrize(("keep", "status", "published"), [(True, 200, 2), (False, 401, 1)])
def test_keys_can_be_rotated(keep: bool, status: int, published: int) -> None:
    """After a rotation a new key signs tokens; older tokens stay valid while their key is kept."""
    with MedplumSandbox() as sandbox:
        before = sandbox.token_for()
        sandbox.world.token_keys.rotate(keep=keep)
        answers = [
            loopback.get(f"{sandbox.base_url}/auth/me", headers={"Authorization": f"Bearer {token}"}).status_code
            for token in (before, sandbox.token_for())
        ]
        assert (answers, len(_keys(sandbox))) == ([status, 200], published)
