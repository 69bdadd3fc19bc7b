"""Health Gorilla's side of a federated query: token, DocumentReference search, document fetch, each checked."""

from __future__ import annotations

import base64
import hashlib
import secrets
from typing import Any
from urllib.parse import urljoin

import requests

from medplum_sandbox.json import Json

TIMEOUT = 30.0
MOST_PAGES = 100


class NetworkError(Exception):
    """The responder did not answer as the documents say."""


class FederatedCaller:
    """Calls a clinic's server as Health Gorilla does: one token, reused until it is refused, for query and fetch."""

    def __init__(
        self,
        token_url: str,
        base_url: str,
        client_id: str,
        client_secret: str,
        aud: str,
        *,
        scope: str = "system/DocumentReference.read",
    ) -> None:
        self._token_url = token_url
        self._base_url = base_url.rstrip("/")
        self._form = {
            "grant_type": "client_credentials",
            "client_id": client_id,
            "client_secret": client_secret,
            "aud": aud,
            "scope": scope,
        }
        self._session = requests.Session()
        self._token: str | None = None

    def token(self) -> str:
        """A bearer token; checks that the answer is as documented."""
        answer = self._session.post(self._token_url, data=self._form, timeout=TIMEOUT)
        _expect(answer.status_code == 200, f"The token request was answered with {answer.status_code}.")
        _expect(
            "no-store" in answer.headers.get("Cache-Control", ""), "A token must come with Cache-Control: no-store."
        )
        body = answer.json()
        _expect(body.get("token_type") == "Bearer", "The token_type is not Bearer.")
        _expect(isinstance(body.get("expires_in"), int), "expires_in is missing.")
        _expect(bool(body.get("access_token")), "access_token is missing.")
        self._token = body["access_token"]
        return self._token

    def query(self, patient_id: str) -> list[Json]:
        """All DocumentReferences of the patient, by the id that was registered; pages are followed."""
        url, found = f"{self._base_url}/DocumentReference", list[Json]()
        params: dict[str, str] | None = {"patient": patient_id}
        for _ in range(MOST_PAGES):
            bundle = self._bundle(url, params)
            found += [entry["resource"] for entry in bundle.get("entry", [])]
            following = [link["url"] for link in bundle.get("link", []) if link["relation"] == "next"]
            if not following:
                _expect(bundle["total"] == len(found), "total is not the number of documents.")
                return found
            url, params = urljoin(url, following[0]), None
        raise NetworkError("The pages do not end.")

    def fetch(self, document_reference: Json) -> bytes:
        """The document itself; its size, hash and content type are those that the DocumentReference promised."""
        attachment = document_reference["content"][0]["attachment"]
        answer = self._get(attachment["url"], None)
        _expect(answer.status_code == 200, f"The document was answered with {answer.status_code}.")
        kind = answer.headers.get("Content-Type", "").partition(";")[0]
        _expect(kind == attachment["contentType"], "The content type is not the promised one.")
        _expect(len(answer.content) == attachment["size"], "The size is not the promised one.")
        # FHIR R4 fixes SHA-1 for Attachment.hash: https://hl7.org/fhir/R4/datatypes.html#Attachment
        digest = base64.b64encode(hashlib.sha1(answer.content, usedforsecurity=False).digest()).decode()
        _expect(secrets.compare_digest(digest, attachment["hash"]), "The hash is not the promised one.")
        return answer.content

    def _bundle(self, url: str, params: dict[str, str] | None) -> Json:
        answer = self._get(url, params)
        _expect(answer.status_code == 200, f"The query was answered with {answer.status_code}.")
        bundle: Any = answer.json()
        _expect(bundle.get("resourceType") == "Bundle" and bundle.get("type") == "searchset", "Not a searchset.")
        _expect(isinstance(bundle.get("total"), int), "Bundle.total is missing.")
        return dict(bundle)

    def _get(self, url: str, params: dict[str, str] | None) -> requests.Response:
        answer = self._get_with(self._token or self.token(), url, params)
        return self._get_with(self.token(), url, params) if answer.status_code == 401 else answer

    def _get_with(self, token: str, url: str, params: dict[str, str] | None) -> requests.Response:
        headers = {"Authorization": f"Bearer {token}"}
        return self._session.get(url, params=params, headers=headers, timeout=TIMEOUT)


def _expect(holds: bool, words: str) -> None:
    if not holds:
        raise NetworkError(words)
