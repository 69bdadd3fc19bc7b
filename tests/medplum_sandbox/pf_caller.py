"""A plain client for the tests of the bulk data source: it does what the test asks and nothing else."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import jwt
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bot_layer.fhir.json import Json
from medplum_sandbox.practice_fusion import EXPORTABLE, PracticeFusionSandbox

KICKOFF = {"Accept": "application/fhir+json", "Prefer": "respond-async"}
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass
class Clock:
    """A clock that advances when the test says so."""

    time: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.time


@dataclass
class Caller:
    """The client's side: a key made for this test, a token, and short methods for requests."""

    box: PracticeFusionSandbox
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP384R1()))
    token: str = ""
    _numbers: Any = field(default_factory=itertools.count)

    def register(self, kid: str = "key-1") -> None:
        public = self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.box.register_public_key(public.decode(), kid, "ES384")

    def assertion(self, *, kid: str | None = "key-1", key: Any = None, alg: str = "ES384", **changes: Any) -> str:
        claims = {
            "iss": self.box.client_id,
            "sub": self.box.client_id,
            "aud": self.box.token_url,
            "exp": self.box.clock() + 240,
            "jti": f"jti-{next(self._numbers)}",
            **changes,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, key or self.key, algorithm=alg, headers={"kid": kid} if kid else None)

    def ask_token(self, scope: str, **assertion: Any) -> requests.Response:
        form = {
            "grant_type": "client_credentials",
            "scope": scope,
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": self.assertion(**assertion),
        }
        return requests.post(self.box.token_url, data=form, timeout=240)

    def log_in(self, types: tuple[str, ...] = EXPORTABLE) -> None:
        if not self.box.desk.keys:
            self.register()
        self.box.authorize_app()
        answer = self.ask_token(scopes(types))
        assert answer.status_code == 200, answer.text
        self.token = answer.json()["access_token"]

    def get(self, url: str, **headers: str) -> requests.Response:
        url = url if url.startswith("http") else f"{self.box.base_url}/{url}"
        headers = {"Authorization": f"Bearer {self.token}", **{k.replace("_", "-"): v for k, v in headers.items()}}
        return requests.get(url, headers=headers, timeout=240, allow_redirects=False)

    def kick_off(self, path: str = "", *, body: Json | None = None, prefer: str = "respond-async") -> requests.Response:
        path = path or f"Group/{self.box.group_id}/$export"
        headers = {"Authorization": f"Bearer {self.token}", **KICKOFF, "Prefer": prefer}
        url = f"{self.box.base_url}/{path}"
        method = "GET" if body is None else "POST"
        return requests.request(method, url, json=body, headers=headers, timeout=240)

    def job(self, path: str = "", **options: Any) -> str:
        answer = self.kick_off(path, **options)
        assert answer.status_code == 202, answer.text
        return answer.headers["Content-Location"]

    def manifest(self, path: str = "", **options: Any) -> Json:
        """The manifest of a new export, after as many polls as it takes."""
        address = self.job(path, **options)
        while (answer := self.get(address)).status_code == 202:
            pass
        assert answer.status_code == 200, answer.text
        body: Json = answer.json()
        return body

    def delete(self, url: str) -> requests.Response:
        return requests.delete(url, headers={"Authorization": f"Bearer {self.token}"}, timeout=240)


def scopes(types: tuple[str, ...], access: str = "rs") -> str:
    return " ".join(f"system/{kind}.{access}" for kind in types)
