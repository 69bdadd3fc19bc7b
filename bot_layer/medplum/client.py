"""The Medplum client, for bots and for bulk work, with failures named as in ``bot_layer.errors``.

pymedplum speaks the protocol and keeps the token. The httpx transport given to it turns busy and broken answers into
TransientError before anything is repeated, so that one place decides what may be tried again: reads, and writes guarded
by If-Match. A POST that creates is never repeated here. What pymedplum cannot send (a batch as bytes, content as a
stream) goes through ``open``, with the same token and transport. https://www.medplum.com/docs/api/fhir
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx
import jwt
from pymedplum import MedplumClient

from bot_layer.bot.event import Event
from bot_layer.errors import AuthError, ConfigError, InputError, PermanentError, TransientError
from bot_layer.fhir.bundle import NotASearchset, Searchset, read_searchset
from bot_layer.fhir.json import Json
from bot_layer.fhir.references import RESOURCE_TYPE, is_relative, localized
from bot_layer.http.addresses import query_of
from bot_layer.http.policy import DEFAULT_POLICY, RetryPolicy
from bot_layer.http.retry import compare_and_set, repeat
from bot_layer.http.transport import require_safe_url
from bot_layer.medplum.quota import WRITE_COST, Pace
from bot_layer.medplum.wire import SERVICE, Wire, named, refused, unreadable

# pymedplum warns of plain HTTP on loopback each time, on which require_safe_url has decided before, and of each failed
# login, which the errors report.
for _name in ("pymedplum.security", "pymedplum.auth"):
    logging.getLogger(_name).setLevel(logging.ERROR)
_REPEATABLE = frozenset({"GET", "HEAD", "PUT"})
FHIR_JSON: Final = "application/fhir+json"
_TOKEN: Final = re.compile(r"[!-~]+")  # what a header may carry
_RENEWED_BEFORE: Final = timedelta(seconds=30)  # as pymedplum does
_BULK_LARGEST: Final = 64 * 1024 * 1024
_BULK: Final = RetryPolicy(retries=39, backoff=0.05, longest_wait=60.0, connect=10.0, read=120.0)

_Result = TypeVar("_Result")
Change = Callable[[Json], Json]
Query = str | Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Medplum:
    """One login at one Medplum server. Resources go in and out as plain JSON objects. Threads may share it.

    ``is_bulk``: errors have the codes that the bulk sync documents.
    """

    client: MedplumClient = field(repr=False)
    http: httpx.Client = field(repr=False)
    patience: RetryPolicy = DEFAULT_POLICY
    wait: Callable[[float], None] = field(default=time.sleep, repr=False)
    is_local: bool = False
    is_bulk: bool = False

    def with_local_references(self) -> Medplum:
        """The same login, whose reads and searches answer with ``Type/id`` for every reference to this server."""
        return replace(self, is_local=True)

    def with_bulk_codes(self) -> Medplum:
        """The same login, whose errors have the codes that the bulk sync documents."""
        return replace(self, is_bulk=True)

    def in_bulk(self, pace: Pace) -> Medplum:
        """A client of the same login for many requests: paced by the quota, patient, and with larger answers."""
        known = self.client
        http = _paced(_BULK, known.base_url, pace=pace, largest=_BULK_LARGEST)
        secrets = {"client_id": known.client_id, "client_secret": known.client_secret}
        login = secrets if known.client_id else {"access_token": known.access_token}
        return Medplum(_client(known.base_url, http, **login), http, _BULK, pace.pause, is_bulk=True)

    # -- Login

    def token(self) -> str:
        """An access token that is good for half a minute at least; only ``open`` and a bot's event need it."""
        ends = self.client.token_expires_at
        if self.client.access_token is None or (ends is not None and ends - datetime.now(UTC) <= _RENEWED_BEFORE):
            self.get("auth/me")  # pymedplum renews it
        return self.client.access_token or ""

    @property
    def profile(self) -> str:
        """The reference of the profile that writes with this login, as the token names it; empty if it does not."""
        try:
            claims = jwt.decode(self.token(), options={"verify_signature": False})
        except jwt.InvalidTokenError:
            return ""
        return str(claims.get("profile") or "")

    # -- Resources

    def read(self, reference: str) -> Json:
        """The resource at ``Type/id``; InputError ``not-found`` where there is none."""
        resource_type, resource_id, path = _where(reference)

        def read() -> Json:
            return self._localized(self.client.read_resource(resource_type, resource_id))

        return self._call("GET", path, read, expected=resource_type)

    def find(self, reference: str) -> Json | None:
        """The resource at ``Type/id``; None if it does not exist or was deleted."""
        try:
            return self.read(reference)
        except InputError:
            return None
        except PermanentError as error:
            if error.status in {400, 410}:
                return None
            raise

    def search(self, resource_type: str, query: Query) -> list[Json]:
        """The resources of the first page of a search, without included ones of other types."""
        page = self._page(resource_type, query)
        return [resource for resource in page.resources if resource["resourceType"] == resource_type]

    def search_all(self, resource_type: str, query: Query) -> Iterator[Json]:
        """Every match of a search, page by page; of a link to the next page only the query is used."""
        page = self._page(resource_type, query)
        while True:
            yield from page.matches
            if page.next_url is None:
                return
            page = self._page(resource_type, query_of(page.next_url))

    def _page(self, resource_type: str, query: Query) -> Searchset:
        def page() -> Searchset:
            found = self.client.search_resources(resource_type, query if isinstance(query, str) else list(query))
            try:
                return read_searchset(self._localized(found), resource_type)
            except NotASearchset as fault:
                raise unreadable(f"Medplum {fault}; try again later.", "GET") from fault

        return self._call("GET", _type(resource_type), page)

    def _localized(self, found: Any) -> Json:
        answer: Json = localized(found, self.client.fhir_base_url) if self.is_local else found
        return answer

    def create(self, resource: Json) -> Json:
        """The stored resource. Never repeated: a lost answer is a TransientError with ``maybe_done``."""
        kind = _type(resource["resourceType"])
        return self._call("POST", kind, self.client.create_resource, resource, expected=kind)

    def create_once(self, resource: Json, query: str) -> Json:
        """The stored resource, or the one that the query finds already (If-None-Exist)."""
        kind, create = _type(resource["resourceType"]), self.client.create_resource_if_none_exist
        return self._call("POST", kind, create, resource, query, expected=kind, repeatable=True)

    def change(self, reference: str, change: Change, *, tries: int = 5) -> Json:
        """The resource after a pure ``change``, written with If-Match; nothing is written where nothing changes.

        On 412 it is read and changed again, so that no other edit is overwritten.
        """

        def write() -> Json:
            now = replace(self, is_local=False).read(reference)
            changed = change(now)
            return now if changed == now else self.update(changed)

        return compare_and_set(write, tries=tries, when=lambda fault: fault.status == 412)

    def update(self, resource: Json) -> Json:
        """The stored resource after a PUT with If-Match; a stale version is a TransientError of status 412."""
        resource_type, _, path = _where(_reference_of(resource))
        update = self.client.update_resource
        return self._call("PUT", path, update, resource, if_match="required", expected=resource_type)

    def restore(self, resource: Json) -> Json:
        """The stored resource after a PUT of an earlier version, which also restores a deleted one."""
        return self._call(
            "PUT", _where(_reference_of(resource))[2], self.client.update_resource, resource, if_match=False
        )

    def delete(self, reference: str) -> None:
        """Delete ``Type/id``; a resource that does not exist is not an error."""
        resource_type, resource_id, path = _where(reference)
        self._call("DELETE", path, self.client.delete_resource, resource_type, resource_id)

    # -- Whatever else

    def open(
        self,
        method: str,
        path: str,
        *,
        template: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        cost: int = WRITE_COST,
        stream: bool = True,
    ) -> httpx.Response:
        """An open answer of any status but 401 and 403; the caller closes it.

        The request is sent once, and a second time only where Medplum refused the token (401) and issued another one.

        A ``body`` that is no bytes is sent as a stream, and is read from its start each time. ``cost``: of the quota.
        Without ``stream`` the answer is read whole, within the limit, and is JSON if it says so.
        """
        for is_last in (False, True):
            sent = {"Authorization": f"Bearer {self.token()}", "X-Medplum": "extended", **(headers or {})}
            extensions = {"cost": cost, "stream": stream}
            url = f"{self.client.base_url}{path}"
            with named(method, template, is_bulk=self.is_bulk):
                request = self.http.build_request(method, url, content=body, headers=sent, extensions=extensions)
                response = self.http.send(request, stream=stream)
            if response.status_code != 401 or is_last:
                break
            response.close()
            self.get("auth/me")  # pymedplum renews the token
        if response.status_code in {401, 403}:
            response.close()
            with named(method, template, is_bulk=self.is_bulk):
                raise refused(response.status_code, method, template)
        return response

    def send(self, method: str, path: str, *, template: str, **options: Any) -> httpx.Response:
        """The whole answer, as ``open`` gives it."""
        return self.open(method, path, template=template, stream=False, **options)

    def batch(self, entries: Sequence[Json]) -> list[Json]:
        """The answers of a batch, one for each entry and in their order. Each has its own status: read them all."""
        bundle = {"resourceType": "Bundle", "type": "batch", "entry": list(entries)}
        return list(self._call("POST", "batch", self.client.execute_batch, bundle).get("entry", []))

    def ccda(self, patient_id: str) -> bytes:
        """The patient's data as a C-CDA document, made by Medplum when asked (``Patient/$ccda-export``)."""
        _where(f"Patient/{patient_id}")
        return str(self._call("GET", "Patient/{id}/$ccda-export", self.client.export_ccda, patient_id)).encode()

    def get(self, path: str) -> Json:
        """Whatever a GET of a path under the server's root answers (``auth/me``, ``admin/projects/{id}``)."""
        return self._call("GET", path.partition("/")[0], self.client.get, path)

    def post(self, path: str, body: Any) -> Json:
        """Whatever a POST to a path under the server's root answers. Never repeated."""
        return self._call("POST", path.partition("/")[0], self.client.post, path, body)

    def execute(self, bot_id: str, given: Json, headers: Mapping[str, str]) -> Json:
        """What ``Bot/$execute`` answers; the bot's event carries the headers. Never repeated."""
        execute = self.client.execute_operation
        return self._call("POST", "Bot", execute, "Bot", "execute", bot_id, given, headers=dict(headers))

    def project_secrets(self) -> Json:
        """The project's secrets by name, as an event carries them; none where this login may not read them."""
        project = self.get("auth/me").get("project") or {}
        try:
            found = self.get(f"admin/projects/{project.get('id')}").get("project") or {}
        except (AuthError, InputError):
            return {}
        return {each["name"]: each for each in found.get("secret") or () if each.get("name")}

    def repeat(
        self, call: Callable[[], _Result], *, when: Callable[[TransientError], bool], tries: int | None = None
    ) -> _Result:
        """What the call returns, repeated as the policy of this client says; ``tries`` limits it further."""
        retries = self.patience.retries
        policy = replace(self.patience, retries=retries if tries is None else min(tries - 1, retries))
        return repeat(call, policy, when=when, wait=self.wait)

    def _call(
        self,
        method: str,
        path: str,
        call: Callable[..., _Result],
        *given: Any,
        expected: str = "",
        repeatable: bool = False,
        **options: Any,
    ) -> _Result:
        """What the call returns: a resource of the ``expected`` type, if one is given; repeated where that is safe."""

        def once() -> _Result:
            with named(method, path, is_bulk=self.is_bulk):
                found = call(*given, **options)
                if expected:
                    _require_resource(found, expected, method)
                return found

        # Medplum answers 409 to two conditional writes at once: the second one succeeds later. 412 is an answer.
        def is_safe(error: TransientError) -> bool:
            return error.status != 412 and (repeatable or method in _REPEATABLE)

        return self.repeat(once, when=is_safe)


def _require_resource(found: Any, resource_type: str, method: str) -> None:
    """Raise TransientError where the answer to a read or write is no stored resource of the type."""
    if (
        not isinstance(found, dict)
        or found.get("resourceType") != resource_type
        or not isinstance(found.get("id"), str)
        or not isinstance(found.get("meta", {}), dict)
    ):
        raise unreadable(f"Medplum did not answer with a {resource_type}; try again later.", method)


def connect(event: Event) -> Medplum:
    """Medplum as the bot that the event calls: its token, at the server that sent the event."""
    if not event.base_url or not event.access_token:
        raise InputError("The event has no baseUrl or accessToken: call the bot through Medplum.", code="no-login")
    if _TOKEN.fullmatch(event.access_token) is None:
        raise AuthError("The event's accessToken is no token of Medplum.", code="medplum-login-refused")
    require_safe_url(event.base_url, SERVICE)
    patience = RetryPolicy.from_settings(event.secrets)
    http = _http(patience, event.base_url)
    return Medplum(_client(event.base_url, http, access_token=event.access_token), http, patience)


def connect_client(
    base_url: str, client_id: str, client_secret: str, *, patience: RetryPolicy = DEFAULT_POLICY
) -> Medplum:
    """Medplum as a ClientApplication, for the command line and the hosts' own work."""
    require_safe_url(base_url, SERVICE)
    http = _http(patience, base_url)
    return Medplum(_client(base_url, http, client_id=client_id, client_secret=client_secret), http, patience)


def connect_environment(environ: Mapping[str, str], *, working: float = 0.0) -> Medplum:
    """Medplum as ``MEDPLUM_BASE_URL``, ``MEDPLUM_CLIENT_ID`` and ``MEDPLUM_CLIENT_SECRET`` say.

    ``working`` is how many seconds longer an answer may take, because a bot works for it.
    """
    names = ("MEDPLUM_BASE_URL", "MEDPLUM_CLIENT_ID", "MEDPLUM_CLIENT_SECRET")
    missing = [name for name in names if not environ.get(name)]
    if missing:
        raise ConfigError(f"Set {', '.join(missing)}.", missing=missing)
    base_url, client_id, client_secret = (environ[name] for name in names)
    patience = RetryPolicy.from_settings(environ)
    return connect_client(base_url, client_id, client_secret, patience=replace(patience, read=patience.read + working))


def _where(reference: str) -> tuple[str, str, str]:
    """The type and id of ``Type/id``, and their template for errors."""
    if not is_relative(reference):
        # Another server's address, a contained resource, or an invalid text stored as a reference.
        raise InputError("Medplum has no resource with such a reference.", code="not-found")
    resource_type, _, resource_id = reference.partition("/")
    return resource_type, resource_id, f"{resource_type}/{{id}}"


def _reference_of(resource: Json) -> str:
    return f"{resource.get('resourceType')}/{resource.get('id')}"


def _type(name: str) -> str:
    if not RESOURCE_TYPE.fullmatch(name):
        raise InputError("Medplum has no such resource type.", code="not-found")
    return name


def _client(base_url: str, http: httpx.Client, **login: str | None) -> MedplumClient:
    return MedplumClient(base_url, http_client=http, allow_insecure_http=True, **login)  # type: ignore[arg-type]  # texts


@lru_cache(maxsize=8)
def _http(policy: RetryPolicy, base_url: str) -> httpx.Client:
    return _paced(policy, base_url)


def _paced(policy: RetryPolicy, base_url: str, **options: Any) -> httpx.Client:
    timeout = httpx.Timeout(policy.read, connect=policy.connect)
    # A client that took the proxy from the environment by itself would go round our transport.
    transport = Wire(_connections(_proxy(base_url)), **options)
    return httpx.Client(transport=transport, timeout=timeout, follow_redirects=False, trust_env=False)


def _proxy(base_url: str) -> str | None:
    """The proxy of the environment for this server (HTTPS_PROXY, NO_PROXY and their siblings)."""
    parts, proxies = urlsplit(base_url), getproxies()
    return None if proxy_bypass(parts.hostname or "") else proxies.get(parts.scheme) or proxies.get("all")


@lru_cache(maxsize=4)
def _connections(proxy: str | None) -> httpx.HTTPTransport:
    """One pool of connections for all calls of a process."""
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=32, keepalive_expiry=4.0)
    return httpx.HTTPTransport(limits=limits, proxy=proxy)
