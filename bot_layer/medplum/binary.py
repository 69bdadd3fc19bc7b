"""A document's bytes from Medplum, as they come: nothing is held whole in memory.

https://hl7.org/fhir/R4/binary.html#rest: asked for anything but FHIR, the server answers with the bytes themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import httpx

from bot_layer import spans
from bot_layer.errors import AuthError, InputError, PermanentError, TransientError
from bot_layer.fhir.references import is_id
from bot_layer.http.body import paced
from bot_layer.http.policy import BUSY, RetryPolicy
from bot_layer.medplum.client import Medplum


@dataclass(frozen=True)
class Bytes:
    """An open document. Close it, also where the chunks were not read to their end."""

    content_type: str | None
    length: int | None
    _response: httpx.Response = field(repr=False)
    _clock: Callable[[], float] = field(default=time.monotonic, repr=False)

    def chunks(self) -> Iterator[bytes]:
        """The bytes in pieces as they come; one that breaks or only trickles is a TransientError."""
        try:
            yield from paced(self._response.iter_bytes(), clock=self._clock)
        except (httpx.TransportError, TimeoutError) as fault:
            raise _lost(None) from fault

    def close(self) -> None:
        """Gives the connection back."""
        self._response.close()


def open_binary(server: Medplum, binary_id: str) -> Bytes:
    """The document of a Binary; InputError ``not-found`` where there is none."""
    if not is_id(binary_id):
        raise InputError("Medplum has no Binary under such an id.", code="not-found")
    response = _get(server, binary_id)
    if response.status_code == 401:
        # The token ended: any call through the client gets a new one.
        response.close()
        server.get("auth/me")
        response = _get(server, binary_id)
    if response.status_code == 200:
        length = response.headers.get("Content-Length", "")
        # A compressed answer's length is not the document's.
        known = length.isdigit() and "Content-Encoding" not in response.headers
        return Bytes(response.headers.get("Content-Type"), int(length) if known else None, response)
    response.close()
    if response.status_code in {404, 410}:
        raise InputError("Medplum has no Binary/{id}, or this client may not read it.", code="not-found")
    if response.status_code in {401, 403}:
        raise AuthError("Medplum refused the rights of this client for GET Binary/{id}.", code="medplum-rights-missing")
    if response.status_code in BUSY:
        raise _lost(response.status_code)
    raise PermanentError(
        "Medplum refused GET Binary/{id}.",
        service="Medplum",
        status=response.status_code,
        method="GET",
        path="Binary/{id}",
        code="refused-by-medplum",
    )


def _get(server: Medplum, binary_id: str) -> httpx.Response:
    if server.client.access_token is None:
        server.get("auth/me")
    headers = {
        "Authorization": f"Bearer {server.client.access_token}",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
    }
    http = _http(server.patience)
    url = f"{server.client.fhir_base_url}Binary/{binary_id}"
    with spans.request("Medplum", "GET", url) as span:
        request = http.build_request("GET", url, headers={**headers, **span.headers})
        try:
            response = http.send(request, stream=True)
        except httpx.TransportError as fault:
            raise _lost(None) from fault
        span.annotate(status=response.status_code)
        return response


@lru_cache(maxsize=8)
def _http(patience: RetryPolicy) -> httpx.Client:
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=16, keepalive_expiry=4.0)
    return httpx.Client(timeout=httpx.Timeout(patience.read, connect=patience.connect), limits=limits)


def _lost(status: int | None) -> TransientError:
    return TransientError(
        "Medplum was too busy, or its answer was lost; try again later.",
        service="Medplum",
        status=status,
        method="GET",
        path="Binary/{id}",
        code="medplum-unavailable",
    )
