"""A source of bulk data, as Practice Fusion is one: login, export, files, and reading by REST.

The token goes only to the host that it was issued for, or to one that a manifest names with ``requiresAccessToken``; a
redirect never carries it. Every wait goes through ``wait``, so that a test runs at once and SIGTERM ends it.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlencode, urljoin, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from bot_layer.clients.wire import Reply, Wire
from bot_layer.core import bulk_export, smart
from bot_layer.core.bulk_export import Complete, Export, ExportFile, Failed, Refused, Started, Wait
from bot_layer.core.json import Json
from bot_layer.core.source_identity import POINTED_TO, USUALLY_GRANTED
from bot_layer.core.sync_settings import SyncSettings
from bot_layer.errors import AuthError, BotError, ConfigError, PermanentError, TransientError

SERVICE: Final = smart.SERVICE
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_BUSY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_MOVED: Final = frozenset({301, 302, 303, 307, 308})
Log = Callable[[str, str], None]


class LinkExpired(BotError):
    """A file's link is no longer good: fetch the manifest again. Callers in this package catch it."""

    default_code = "link-expired"


@dataclass
class PracticeFusion:
    """One practice's server. Safe to share between threads."""

    settings: SyncSettings
    wait: Callable[[float], None] = field(default=time.sleep, repr=False)
    clock: Callable[[], float] = field(default=time.time, repr=False)
    unique: Callable[[], str] = field(default=lambda: uuid.uuid4().hex, repr=False)
    log: Log = field(default=lambda _component, _text: None, repr=False)
    tries: int = 6
    limits: bulk_export.WaitLimits = field(default_factory=bulk_export.WaitLimits)
    granted: tuple[str, ...] = ()
    discovery: smart.Discovery | None = None  # what an earlier run learnt; a token endpoint that is gone is looked for

    def __post_init__(self) -> None:
        self._wire = Wire(SERVICE)
        self._lock = threading.RLock()
        self._fresh_discovery = False
        self._token: smart.Token | None = None
        self.requests = 0

    # -- Login

    def discover(self) -> smart.Discovery:
        """The token endpoint, from the SMART configuration or else the CapabilityStatement."""
        with self._lock:
            if self.discovery is None:
                self.log("PFSyncWorker", "Discovering SMART endpoints...")
                self.discovery = self._discovered()
                self._fresh_discovery = True
                self.log("PFSyncWorker", f"Token endpoint: {_place(self.discovery.token_endpoint)}")
            return self.discovery

    def _discovered(self) -> smart.Discovery:
        configuration, capability = smart.discovery_urls(self.settings.source)
        readers = (
            (configuration, smart.read_smart_configuration, ".well-known/smart-configuration"),
            (capability, smart.read_capability_statement, "metadata"),
        )
        for url, read, path in readers:
            reply = self._repeated("GET", url, path=path, headers={"Accept": "application/json"})
            found = read(_object(reply.body)) if reply.status == 200 else None
            if found is not None:
                _require_https(found.token_endpoint)
                return found
        raise ConfigError(
            "The source names no token endpoint: check PF_FHIR_BASE_URL (it ends in the practice's id).",
            code="no-token-endpoint",
        )

    def negotiate(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The types that this client may read, and those that the source refused; the scopes are kept."""
        if self.settings.scopes:
            self.granted = self.settings.scopes
            return self.settings.types, ()
        wanted = self.settings.types
        advertised = self.discover().scopes
        # Rights to read what others point to are asked for only where they are offered: a refusal costs requests.
        offered = smart.granted_types(frozenset(advertised), POINTED_TO) if self.settings.hydrate else frozenset()
        likely = advertised or tuple(smart.scope(each, "rs") for each in USUALLY_GRANTED)
        state = smart.start_negotiation((*wanted, *sorted(offered - set(wanted))), likely)
        asked: tuple[str, ...] = ()
        while not state.settled:
            asked = state.scopes
            state = smart.answered(state, self._ask_token(asked))
        if asked != state.scopes:
            self._token = None  # the last one was for a part of the types
        accepted = tuple(each for each in wanted if each in state.accepted)
        if not accepted:
            raise AuthError("The source refused every scope that was asked for.", code="no-scope-granted")
        self.granted = state.scopes
        return accepted, tuple(each for each in wanted if each not in accepted)

    def token(self, *, stale: str = "") -> str:
        """A token that is good now. ``stale`` is one that the server has just refused."""
        with self._lock:
            if self._token is None or self._token.value == stale or not self._token.fresh(self.clock()):
                if not self.granted:
                    self.negotiate()
                if self._token is None or self._token.value == stale or not self._token.fresh(self.clock()):
                    self._renew()
            if self._token is None:
                raise AssertionError("a renewed token is there")
            return self._token.value

    def _renew(self) -> None:
        answer = self._ask_token(self.granted)
        if isinstance(answer, smart.ScopeRefused):
            # What was granted at the start is granted no more: find out what still is.
            self.granted = ()
            self.negotiate()
            answer = self._ask_token(self.granted)
        if isinstance(answer, smart.ScopeRefused):
            raise AuthError("The source refuses the scopes that it granted before.", code="scopes-withdrawn")

    def _ask_token(self, scopes: tuple[str, ...]) -> smart.Token | smart.ScopeRefused:
        try:
            return self._asked_token(scopes)
        except (PermanentError, AuthError):
            if self._fresh_discovery:
                raise
            self.discovery = None
            return self._asked_token(scopes)

    def _asked_token(self, scopes: tuple[str, ...]) -> smart.Token | smart.ScopeRefused:
        discovery = self.discover()
        method = smart.auth_method(discovery, has_key=bool(self.settings.private_key))
        self.log("PFSmartClient", "Requesting access token from Practice Fusion...")
        name = "private_key JWT" if method == "private_key_jwt" else "client_secret"
        self.log("PFSmartClient", f"Using {name} authentication")
        for attempt in range(1, self.tries + 1):
            # A new assertion for each try: its jti is used once.
            request = smart.token_request(
                method,
                scopes,
                client_id=self.settings.client_id,
                secret=self.settings.client_secret,
                assertion=self._assertion(discovery) if method == "private_key_jwt" else "",
            )
            try:
                answer = self._post_form(discovery.token_endpoint, request)
            except TransientError as fault:
                if attempt == self.tries:
                    raise
                self.wait(self._pause(attempt, fault.retry_after))
                continue
            if isinstance(answer, smart.Token):
                self._token = answer
                self.log("PFSmartClient", "Successfully obtained access token")
            return answer
        raise AssertionError("the last try returns or raises")

    def _post_form(self, url: str, request: smart.TokenRequest) -> smart.Token | smart.ScopeRefused:
        headers = request.headers | {"Content-Type": "application/x-www-form-urlencoded"}
        self.requests += 1
        reply = self._wire.send("POST", url, path="token", headers=headers, body=_form(request.form))
        now = self.clock()
        asked = bulk_export.read_retry_after(reply.headers.get("retry-after"), now=now)
        return smart.read_token(reply.status, reply.body, now=now, retry_after=asked)

    def _assertion(self, discovery: smart.Discovery) -> str:
        claims = smart.assertion_claims(
            self.settings.client_id, discovery.token_endpoint, now=self.clock(), unique=self.unique()
        )
        headers = smart.assertion_headers(self.settings.key_id, self.settings.key_url)
        algorithm = self.settings.algorithm or _algorithm(self.settings.private_key)
        return jwt.encode(claims, self.settings.private_key, algorithm=algorithm, headers=headers)

    # -- Export

    def kickoff(self, export: Export) -> Started | Refused:
        """Start an export. Where the server wants POST, or is busy with another one, this is seen to."""
        post = False
        for attempt in range(1, self.tries + 1):
            request = bulk_export.kickoff_request(self.settings.source, export, post=post)
            since = " (incremental)" if export.since else ""
            self.log("PFBulkExport", f"Initiating bulk export: {export.level} level{since}")
            body = json.dumps(request.body).encode() if request.body is not None else None
            reply = self._authorised(
                request.method, request.url, path=_export_path(export), headers=request.headers, body=body
            )
            answer = bulk_export.read_kickoff(
                reply.status, reply.headers, reply.body, now=self.clock(), attempt=attempt, limits=self.limits
            )
            if isinstance(answer, Started):
                url = urljoin(request.url, answer.status_url)
                _require_https(url)
                self.log("PFBulkExport", "Export initiated, status URL is kept")
                return Started(url)
            if isinstance(answer, Refused):
                if answer.post_only and not post:
                    post = True
                    continue
                return answer
            if attempt < self.tries:
                self.wait(answer.seconds)
        raise TransientError(
            "The source is busy with another export; try again later.",
            service=SERVICE,
            method="GET",
            path=_export_path(export),
            code="export-busy",
        )

    def status(self, url: str, *, attempt: int = 1) -> Wait | Complete | Failed:
        """How the export stands now. A plain 500 may be a bad moment: it counts when it is said three times."""
        for again in range(3):
            try:
                reply = self._authorised("GET", url, path="export status", headers={"Accept": "application/json"})
            except TransientError as fault:
                asked = self.limits.first if fault.retry_after is None else fault.retry_after
                return Wait(min(max(asked, self.limits.least), self.limits.most))
            if reply.status != 500 or again == 2:
                break
            self.wait(self._pause(again + 1, None))
        return bulk_export.read_status(
            reply.status, reply.headers, reply.body, now=self.clock(), attempt=attempt, limits=self.limits
        )

    def cancel(self, url: str) -> None:
        """DELETE the job, so that the source may forget it and take the next. One that is gone is gone."""
        try:
            self._authorised("DELETE", url, path="export status")
        except (TransientError, AuthError):
            self.log("PFBulkExport", "The export job could not be deleted; the source will expire it")

    # -- Files

    def chunks(self, file: ExportFile, *, requires_token: bool) -> Iterator[bytes]:
        """The bytes of a file, unpacked; a download that breaks is resumed, or begun again and skipped to its place."""
        progress, failures = _Progress(), 0
        while True:
            before = progress.done
            try:
                yield from self._from(file, progress, requires_token=requires_token)
            except TransientError as fault:
                failures = 1 if progress.done > before else failures + 1
                if failures >= self.tries:
                    raise
                self.wait(self._pause(failures, fault.retry_after))
            else:
                return

    def _from(self, file: ExportFile, progress: _Progress, *, requires_token: bool) -> Iterator[bytes]:
        headers = {"Accept": bulk_export.NDJSON_TYPE, "Accept-Encoding": "gzip"}
        offset = progress.done
        if offset and not progress.packed:
            # A range counts packed bytes, so that only the plain form can be resumed.
            headers |= {"Range": f"bytes={offset}-", "Accept-Encoding": "identity"}
        skip = offset
        with self._followed(file.url, headers, with_token=requires_token) as (reply, stream):
            if reply.status == 206 and reply.headers.get("content-range", "").startswith(f"bytes {offset}-"):
                skip = 0
            for chunk in _unpacked(stream, self._wire, progress, resumed=skip != offset):
                if skip >= len(chunk):
                    skip -= len(chunk)
                    continue
                kept = chunk[skip:] if skip else chunk
                skip = 0
                progress.done += len(kept)
                yield kept

    def _followed(self, url: str, headers: dict[str, str], *, with_token: bool) -> _Opened:
        return _Opened(self, urljoin(self.settings.source + "/", url), headers, with_token=with_token)

    # -- REST

    def read(self, resource_type: str, source_id: str) -> Json | None:
        """One resource, or None if the source has none (any more)."""
        url = f"{self.settings.source}/{resource_type}/{source_id}"
        reply = self._authorised("GET", url, path=f"{resource_type}/{{id}}", headers=_FHIR)
        if reply.status in (404, 410):
            return None
        if reply.status != 200:
            raise _refused(reply, f"{resource_type}/{{id}}")
        return _object(reply.body)

    def search(self, resource_type: str, query: str) -> Iterator[Json]:
        """Every match of a search, page by page, without a limit."""
        url = f"{self.settings.source}/{resource_type}?{query}"
        while url:
            reply = self._authorised("GET", url, path=resource_type, headers=_FHIR)
            if reply.status != 200:
                raise _refused(reply, resource_type)
            page = _object(reply.body)
            for entry in page.get("entry") or []:
                found = entry.get("resource")
                if isinstance(found, dict) and found.get("resourceType") == resource_type:
                    yield found
            following = [each.get("url") for each in page.get("link") or [] if each.get("relation") == "next"]
            url = urljoin(url, following[0]) if following and following[0] else ""

    def server_time(self) -> str:
        """The source's own time, a little earlier: a machine here may be ahead of it."""
        reply = self._repeated("GET", f"{self.settings.source}/metadata", path="metadata", headers=_FHIR)
        try:
            moment = parsedate_to_datetime(reply.headers.get("date", ""))
        except ValueError:
            return ""
        return (moment - timedelta(minutes=5)).isoformat()

    def group_members(self, group_id: str) -> tuple[str, ...] | None:
        """The ids of a Group's patients, or None where the source does not let it be read."""
        try:
            group = self.read("Group", group_id)
        except (PermanentError, AuthError):
            return None
        if group is None:
            return None
        members = (_member_id(each, self.settings.source) for each in group.get("member") or [])
        return tuple(dict.fromkeys(each for each in members if each))

    def content(self, url: str) -> tuple[str, Iterator[bytes]]:
        """An attachment's type and its bytes, with the token only if it stands on the source's host."""
        absolute = urljoin(self.settings.source + "/", url)
        own = _origin(absolute) == _origin(self.settings.source)
        opened = self._followed(absolute, {"Accept": "*/*", "Accept-Encoding": "gzip"}, with_token=own)
        reply, stream = opened.__enter__()

        def bytes_() -> Iterator[bytes]:
            try:
                if reply.headers.get("content-encoding", "") == "gzip":
                    yield from _unpacked(stream, self._wire, _Progress(), resumed=False)
                else:
                    yield from stream
            finally:
                opened.__exit__(None, None, None)

        return reply.headers.get("content-type", "application/octet-stream").partition(";")[0], bytes_()

    # -- Requests

    def _authorised(
        self, method: str, url: str, *, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> Reply:
        """An answer with our token; a 401 renews it, twice at most. Only the source's own host gets it."""
        if _origin(url) != _origin(self.settings.source):
            raise PermanentError(
                "The source names an address on another host for this; the token is not sent there.",
                service=SERVICE,
                method=method,
                path=path,
                code="foreign-host",
            )
        token = self.token()
        for attempt in range(3):
            reply = self._with(method, url, token, path=path, headers=headers, body=body)
            if reply.status != 401 or attempt == 2:
                break
            token = self.token(stale=token)
        return reply

    def _with(
        self, method: str, url: str, token: str, *, path: str, headers: dict[str, str] | None, body: bytes | None
    ) -> Reply:
        headers = (headers or {}) | {"Authorization": f"Bearer {token}"}
        if method != "GET" or path.endswith(("$export", "status")):
            # What these answers mean is for the caller to say; a kick-off that is repeated is a second job.
            self.requests += 1
            return self._wire.send(method, url, path=path, headers=headers, body=body)
        return self._repeated(method, url, path=path, headers=headers)

    def _repeated(self, method: str, url: str, *, path: str, headers: dict[str, str]) -> Reply:
        """A read, repeated while the source is busy or its answer is lost."""
        for attempt in range(1, self.tries + 1):
            self.requests += 1
            try:
                reply = self._wire.send(method, url, path=path, headers=headers)
            except TransientError:
                if attempt == self.tries:
                    raise
                self.wait(self._pause(attempt, None))
                continue
            if reply.status not in _BUSY or attempt == self.tries:
                return reply
            asked = bulk_export.read_retry_after(reply.headers.get("retry-after"), now=self.clock())
            self.wait(self._pause(attempt, asked))
        raise AssertionError("the last try returns or raises")

    def _pause(self, attempt: int, asked: float | None) -> float:
        return min(max(asked or 0.0, 0.5 * 2.0**attempt), self.limits.most)


_FHIR: Final = {"Accept": "application/fhir+json"}


@dataclass
class _Progress:
    """How many unpacked bytes of a file were handed on, and whether they came packed."""

    done: int = 0
    packed: bool = False


class _Opened:
    """An open download, after redirects and at most one new token."""

    def __init__(self, source: PracticeFusion, url: str, headers: dict[str, str], *, with_token: bool) -> None:
        self._source, self._url, self._headers, self._with_token = source, url, headers, with_token

    def __enter__(self) -> tuple[Reply, Iterator[bytes]]:
        url, with_token, stale, renewed = self._url, self._with_token, "", 0
        for _ in range(8):
            _require_https(url)
            token = self._source.token(stale=stale) if with_token else ""
            headers = self._headers | ({"Authorization": f"Bearer {token}"} if token else {})
            self._source.requests += 1
            self._open = self._source._wire.open("GET", url, path="export file", headers=headers, decode=False)
            reply, stream = self._open.__enter__()
            if reply.status in (200, 206):
                return reply, stream
            self._open.__exit__(None, None, None)
            if reply.status in _MOVED and reply.headers.get("location"):
                # The new place may belong to anybody (often a signed link to a store): it gets no token.
                url, with_token = urljoin(url, reply.headers["location"]), False
            elif reply.status == 401 and with_token and renewed < 2:
                stale, renewed = token, renewed + 1
            else:
                raise _unreadable(reply, self._source.clock())
        raise PermanentError("Too many redirects.", service=SERVICE, method="GET", path="export file")

    def __exit__(self, *details: object) -> None:
        self._open.__exit__(None, None, None)


def _unreadable(reply: Reply, now: float) -> BotError:
    if reply.status in _BUSY:
        return TransientError(
            f"A file was answered {reply.status}.",
            service=SERVICE,
            status=reply.status,
            method="GET",
            path="export file",
            retry_after=bulk_export.read_retry_after(reply.headers.get("retry-after"), now=now),
        )
    if reply.status in (401, 403, 404, 410):
        return LinkExpired(f"A file's link is no longer good ({reply.status}).")
    return _refused(reply, "export file")


def _refused(reply: Reply, path: str) -> PermanentError | AuthError | TransientError:
    if reply.status in (401, 403):
        return AuthError(f"The source refused GET {path} ({reply.status}).", code="source-rights-missing")
    kind = TransientError if reply.status in _BUSY else PermanentError
    return kind(
        f"The source answered {reply.status} for GET {path}.",
        service=SERVICE,
        status=reply.status,
        method="GET",
        path=path,
    )


def _unpacked(stream: Iterator[bytes], wire: Wire, progress: _Progress, *, resumed: bool) -> Iterator[bytes]:
    """The bytes behind gzip, told by its first two bytes: not every server names the encoding."""
    first = next(stream, b"")
    while 0 < len(first) < 2:
        more = next(stream, b"")
        if not more:
            break
        first += more
    if resumed or not first.startswith(b"\x1f\x8b"):
        yield from (chunk for chunk in (first,) if chunk)
        yield from stream
        return
    progress.packed = True
    unpacker = zlib.decompressobj(31)
    try:
        for chunk in _chained(first, stream):
            data = chunk
            while data:
                # A bounded piece at a time: a small file may unpack to a huge one.
                yield from _nonempty(unpacker.decompress(data, 1 << 20))
                data = unpacker.unconsumed_tail
                if unpacker.eof and unpacker.unused_data:
                    data, unpacker = unpacker.unused_data, zlib.decompressobj(31)
    except zlib.error as fault:
        raise wire.lost("GET", "export file", sent=True) from fault
    yield from _nonempty(unpacker.flush())
    if not unpacker.eof:
        raise wire.lost("GET", "export file", sent=True)


def _chained(first: bytes, stream: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from stream


def _nonempty(data: bytes) -> Iterator[bytes]:
    if data:
        yield data


def _algorithm(private_key: str) -> str:
    """RS384 for an RSA key, ES384 or ES256 for an elliptic one: what SMART asks servers to support."""
    try:
        key = load_pem_private_key(private_key.encode(), password=None)
    except (ValueError, TypeError) as fault:
        raise ConfigError("PF_PRIVATE_KEY is no PEM private key (PKCS8).", code="unreadable-key") from fault
    if isinstance(key, rsa.RSAPrivateKey):
        return "RS384"
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return "ES384" if key.curve.name == "secp384r1" else "ES256"
    raise ConfigError("PF_PRIVATE_KEY must be an RSA or an elliptic curve key.", code="unreadable-key")


def _member_id(member: Json, source: str) -> str:
    """The patient id that a Group's member names, or an empty text."""
    if member.get("inactive"):
        return ""
    reference = str((member.get("entity") or {}).get("reference") or "").removeprefix(f"{source}/")
    kind, _, patient = reference.partition("/")
    return patient.partition("/")[0] if kind == "Patient" else ""


def _export_path(export: Export) -> str:
    return bulk_export.export_path(export.level, "{id}")


def _require_https(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        return
    raise PermanentError(
        "The source names an address without https; nothing is sent there.", service=SERVICE, code="unsafe-address"
    )


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    default = {"https": 443, "http": 80}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or default


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/..."


def _form(fields: dict[str, str]) -> bytes:
    return urlencode(fields).encode()


def _object(body: bytes) -> Json:
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
