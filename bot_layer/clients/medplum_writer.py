"""Many resources into Medplum: looked up 100 at a time, created by POST, updated by PUT with If-Match, never twice.

The rules for each answer were measured on a Medplum server 5.0.10: a batch is HTTP 200 although entries were refused, a
conflict (409) and an ended quota (429) stand in single entries, and an answer may be lost after the write was done. So
each entry is read, and before anything is repeated its identifier is looked up again.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Literal, Protocol, TypeVar
from urllib.parse import urlencode

import orjson

from bot_layer.clients.wire import Reply, Wire
from bot_layer.core import pace
from bot_layer.core import upsert as rules
from bot_layer.core.json import Json
from bot_layer.core.references import Key
from bot_layer.core.source_identity import lookup_query, source_id_of, stored_as
from bot_layer.core.upsert import Entry, Found, Incoming, Write
from bot_layer.errors import AuthError, PermanentError, TransientError

SERVICE: Final = "Medplum"
LOOKUP_SIZE: Final = 100
_ROUNDS: Final = 40
_TELLING: Final = 50  # a batch of fewer entries says little about the speed
_FHIR_JSON: Final = "application/fhir+json"

_T = TypeVar("_T")
Action = Literal["created", "updated", "unchanged", "kept", "failed"]


class Login(Protocol):
    """Where the token comes from; ``profile`` is who the writes' author will be, if that is known."""

    profile: str

    def token(self, *, stale: str = "") -> str:
        """A token that is good now, and not the stale one."""


@dataclass
class GivenToken:
    """The token that Medplum gave to a bot for one call."""

    value: str = field(repr=False)
    profile: str = ""

    def token(self, *, stale: str = "") -> str:
        """The token; there is no other, so that a refused one ends the call."""
        if stale:
            raise AuthError("Medplum refused this bot's token.", code="medplum-login-refused")
        return self.value


@dataclass
class ClientLogin:
    """A ClientApplication's own token, renewed before it expires."""

    base_url: str
    client_id: str
    client_secret: str = field(repr=False)
    clock: Callable[[], float] = field(default=time.time, repr=False)
    profile: str = ""
    project: str = ""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._value, self._until = "", 0.0

    def token(self, *, stale: str = "") -> str:
        """The token that is good now."""
        with self._lock:
            if not self._value or self._value == stale or self.clock() >= self._until:
                self._renew()
            return self._value

    def _renew(self) -> None:
        form = {"grant_type": "client_credentials", "client_id": self.client_id, "client_secret": self.client_secret}
        body = urlencode(form).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        reply = Wire(SERVICE).send("POST", f"{self.base_url}/oauth2/token", path="token", headers=headers, body=body)
        answer = _object(reply.body)
        if reply.status != 200 or not answer.get("access_token"):
            if reply.status == 429 or reply.status >= 500:
                raise TransientError("Medplum's login is busy; try again later.", service=SERVICE, status=reply.status)
            raise AuthError(
                "Medplum refused the login: check MEDPLUM_CLIENT_ID and MEDPLUM_CLIENT_SECRET.",
                code="medplum-login-refused",
            )
        life = float(answer.get("expires_in") or 300)
        self._value, self._until = str(answer["access_token"]), self.clock() + life * 0.9
        self.profile = str((answer.get("profile") or {}).get("reference") or "")
        self.project = str((answer.get("project") or {}).get("reference") or "").removeprefix("Project/")


@dataclass(frozen=True)
class Outcome:
    """What became of one incoming resource. ``reason`` is the server's words: for the report, never for the log."""

    key: Key
    action: Action
    id: str = ""
    status: int = 0
    reason: str = field(default="", repr=False)
    incoming: Incoming | None = field(default=None, repr=False, compare=False)
    overwrote_edit: bool = False


@dataclass
class MedplumWriter:
    """Medplum as a bulk sync uses it. Safe to share between threads."""

    base_url: str
    login: Login
    source: str
    share: float = 0.8
    workers: int = 8
    max_bytes: int = 900_000
    policy: rules.Policy = "source"
    wait: Callable[[float], None] = field(default=time.sleep, repr=False)
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    may_write: Callable[[], None] = field(default=lambda: None, repr=False)

    def __post_init__(self) -> None:
        self.base_url = self.base_url.rstrip("/")
        self._wire = Wire(SERVICE)
        self._quota = pace.Quota(self.share)
        self._lock = threading.Lock()
        self._askers = ThreadPoolExecutor(self.workers, thread_name_prefix="pf-ask")
        self._gate = _Gate(pace.Concurrency(self.workers), self.clock)
        self.requests = 0
        self.duplicates = 0

    # -- Single requests

    def send(
        self,
        method: str,
        path: str,
        *,
        template: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        cost: int = 1,
    ) -> Reply:
        """An answer, whatever its status, paced by the quota; a 401 renews the token once."""
        token = self.login.token()
        for _ in range(2):
            self._take(cost)
            sent = {"Authorization": f"Bearer {token}", "X-Medplum": "extended"} | dict(headers or {})
            self.requests += 1
            reply = self._wire.send(method, f"{self.base_url}/{path}", path=template, headers=sent, body=body)
            self._observe(reply)
            if reply.status != 401 or not isinstance(body, bytes | None):
                break
            token = self.login.token(stale=token)
        if reply.status in (401, 403):
            what = "login" if reply.status == 401 else "rights"
            raise AuthError(
                f"Medplum refused the {what} of this client for {method} {template}.", code=f"medplum-{what}-refused"
            )
        return reply

    def repeat(self, method: str, path: str, *, template: str, body: bytes | None = None, cost: int = 1) -> Reply:
        """The answer to something that may be asked twice, asked until the server is not busy."""
        headers = {"Content-Type": _FHIR_JSON} if body is not None else {}
        for attempt in range(_ROUNDS):
            try:
                reply = self.send(method, path, template=template, body=body, headers=headers, cost=cost)
            except TransientError:
                self._push_back(attempt)
                continue
            if reply.status == 429:
                self._wait_for_quota(reply)
            elif reply.status >= 500 or reply.status == 409:
                self._push_back(attempt)
            else:
                return reply
        raise TransientError("Medplum stayed busy.", service=SERVICE, method=method, path=template)

    def search(self, resource_type: str, query: str) -> Iterator[Json]:
        """Every match of a search, page by page."""
        path = f"fhir/R4/{resource_type}?{query}"
        while path:
            reply = self.repeat("GET", path, template=resource_type, cost=pace.SEARCH_COST)
            if reply.status != 200:
                raise PermanentError(
                    f"Medplum refused a search of {resource_type} with status {reply.status}.",
                    service=SERVICE,
                    status=reply.status,
                    method="GET",
                    path=resource_type,
                )
            page = _object(reply.body)
            for each in page.get("entry") or []:
                if isinstance(each.get("resource"), dict):
                    yield each["resource"]
            following = [each["url"] for each in page.get("link") or [] if each.get("relation") == "next"]
            path = "fhir/R4/" + following[0].partition("/fhir/R4/")[2] if following else ""

    # -- Look-up

    def look_up(self, keys: Iterable[Key]) -> dict[Key, Found]:
        """What Medplum holds for these keys: one search for 100 of a type."""
        return self.start_look_up(keys)()

    def start_look_up(self, keys: Iterable[Key]) -> Callable[[], dict[Key, Found]]:
        """The same, asked now and read later: several types, and other questions, are on their way at once."""
        by_type: dict[str, list[str]] = {}
        for key in dict.fromkeys(keys):
            by_type.setdefault(key.type, []).append(key.id)
        asked = [
            self._askers.submit(self._look_up, kind, some)
            for kind, ids in by_type.items()
            for some in _chunked(ids, LOOKUP_SIZE)
        ]

        def read() -> dict[Key, Found]:
            # All come to rest before the first failure is raised: nothing asks on when the lease is given back.
            wait_for(asked)
            return {key: there for each in asked for key, there in each.result().items()}

        return read

    def has_none(self, resource_type: str) -> bool:
        """True where Medplum holds nothing at all of a type, whoever brought it."""
        return next(iter(self.search(resource_type, "_count=1&_fields=id")), None) is None

    def _look_up(self, kind: str, ids: list[str]) -> dict[Key, Found]:
        wanted, found = set(ids), dict[Key, Found]()
        for resource in self.search(stored_as(kind), f"{lookup_query(kind, ids)}&_count=1000"):
            source_id = source_id_of(resource, kind)
            if source_id is None or source_id not in wanted:
                continue
            key = Key(kind, source_id)
            meta = resource.get("meta") or {}
            author = str((meta.get("author") or {}).get("reference") or "")
            edited = bool(author and self.login.profile and author != self.login.profile)
            there = Found(str(resource["id"]), str(meta.get("versionId") or ""), resource, edited)
            if key in found:
                # Duplicates that somebody else made: always the same one is kept up to date.
                self.duplicates += 1
                there = min(there, found[key], key=lambda each: each.id)
            found[key] = there
        return found

    # -- Upsert

    def upsert(self, incoming: Sequence[Incoming], found: Mapping[Key, Found] | None = None) -> list[Outcome]:
        """What became of each resource: exactly one outcome for every one; no two may have the same key."""
        work = _Work({each.key: each for each in incoming})
        for attempt in range(_ROUNDS):
            if not work.open:
                break
            if found is None or attempt:
                found = self.look_up(work.open)
            plan = rules.plan(found, work.open.values(), source=self.source, policy=self.policy)
            work.settle(plan)
            entries = [
                rules.entry(each, orjson.dumps, guarded=each.incoming.key in work.sent)
                for each in (*plan.creates, *plan.updates)
            ]
            self._write(work, entries, pace.WRITE_COST, attempt)
        return work.ended()

    def upsert_conditionally(self, incoming: Sequence[Incoming]) -> list[Outcome]:
        """The same with batches of conditional PUTs, as the integration's description prints it."""
        work = _Work({each.key: each for each in incoming})
        for attempt in range(_ROUNDS):
            if not work.open:
                break
            writes = [Write(each, rules.tagged(each.resource, each.unresolved)) for each in work.open.values()]
            entries = [rules.conditional_entry(each, orjson.dumps) for each in writes]
            self._write(work, entries, pace.CONDITIONAL_COST, attempt)
        return work.ended()

    def _write(self, work: _Work, entries: Sequence[Entry], cost: int, attempt: int) -> None:
        for batch in rules.batches(entries, max_bytes=self.max_bytes):
            for entry, verdict in self._batch(batch, cost=cost):
                work.note(entry, verdict)
        if work.open and attempt:
            self._push_back(attempt)

    def change(self, keys: Iterable[Key], change: Callable[[Key, Found], Json | None]) -> dict[Key, Found]:
        """Edit what is there with If-Match; None leaves it. What comes back is each resource as it was last read."""
        left, seen = list(dict.fromkeys(keys)), dict[Key, Found]()
        for attempt in range(_ROUNDS):
            found = self.look_up(left)
            seen |= found
            entries = []
            for key, there in found.items():
                wanted = change(key, there)
                if wanted is not None:
                    write = Write(Incoming(key, wanted), wanted, there.id, there.version)
                    entries.append(rules.entry(write, orjson.dumps))
            left = []
            for batch in rules.batches(entries, max_bytes=self.max_bytes):
                left += [entry.key for entry, verdict in self._batch(batch) if verdict.kind == "again"]
            if not left:
                break
            self._push_back(attempt)
        return seen

    # -- Deleting

    def delete(self, ids: Sequence[tuple[str, str]]) -> list[bool]:
        """Delete by (type, Medplum id); True for each that is gone now. Deleting twice is deleting once."""
        done: dict[tuple[str, str], bool] = {}
        left = list(dict.fromkeys(ids))
        for attempt in range(_ROUNDS):
            again: list[tuple[str, str]] = []
            for some in _chunked(left, 100):
                entries = [Entry(Key(*each), b'{"request":%b}' % orjson.dumps(_deletion(each))) for each in some]
                for entry, verdict in self._batch(entries):
                    each = (entry.key.type, entry.key.id)
                    if verdict.kind == "again" and verdict.status not in (404, 410):
                        again.append(each)
                    else:
                        done[each] = verdict.kind == "done" or verdict.status in (404, 410)
            left = again
            if not left:
                break
            self._push_back(attempt)
        return [done.get(each, False) for each in ids]

    # -- Content

    def store_content(self, content_type: str, pieces: Iterable[bytes], *, owner: str = "", tries: int = 8) -> str:
        """The id of a new Binary that holds these bytes. A lost answer may leave one behind that nothing names."""
        for attempt in range(tries):
            try:
                return self._store_content(content_type, iter(pieces), owner)
            except TransientError:
                if attempt == tries - 1 or pieces is iter(pieces):
                    raise
                self._push_back(attempt)
        raise AssertionError("the last try returns or raises")

    def _store_content(self, content_type: str, chunks: Iterator[bytes], owner: str) -> str:
        headers = {"Content-Type": content_type} | ({"X-Security-Context": owner} if owner else {})
        self.may_write()
        reply = self.send(
            "POST", "fhir/R4/Binary", template="Binary", body=chunks, headers=headers, cost=pace.WRITE_COST
        )
        made = _object(reply.body)
        if reply.status != 201 or not made.get("id"):
            kind = TransientError if reply.status in (409, 429) or reply.status >= 500 else PermanentError
            raise kind(
                f"Medplum answered {reply.status} for an attachment.",
                service=SERVICE,
                status=reply.status,
                method="POST",
                path="Binary",
            )
        return str(made["id"])

    # -- Batches

    def _batch(self, batch: list[Entry], *, cost: int = pace.WRITE_COST) -> list[tuple[Entry, _Verdict]]:
        body = rules.bundle(batch)
        with self._gate.turn(len(batch)) as turn:
            self.may_write()
            try:
                reply = self.send(
                    "POST",
                    "fhir/R4",
                    template="batch",
                    body=body,
                    headers={"Content-Type": _FHIR_JSON},
                    cost=cost * len(batch),
                )
            except TransientError as fault:
                turn.pushed_back()
                return [(each, _Verdict("again", maybe_done=fault.maybe_done)) for each in batch]
            verdicts = self._read_batch(reply, batch)
            if any(verdict.kind == "again" for _, verdict in verdicts):
                turn.pushed_back()
        limited = reply.status == 429 or any(verdict.status == 429 for _, verdict in verdicts)
        if limited:
            self._wait_for_quota(reply)
        if not verdicts:
            # Too large, or spoilt by one entry: halves tell which.
            middle = len(batch) // 2
            return self._batch(batch[:middle], cost=cost) + self._batch(batch[middle:], cost=cost)
        return verdicts

    def _read_batch(self, reply: Reply, batch: list[Entry]) -> list[tuple[Entry, _Verdict]]:
        """The verdict on each entry, or nothing where the whole was refused and may be halved."""
        if reply.status == 429:
            return [(each, _Verdict("again", 429)) for each in batch]
        if reply.status >= 500 or reply.status in (408, 409, 425):
            return [(each, _Verdict("again", reply.status, maybe_done=True)) for each in batch]
        entries = _object(reply.body).get("entry")
        if reply.status != 200:
            if len(batch) > 1:
                return []
            return [(batch[0], _Verdict("refused", reply.status, words=_words(_object(reply.body))))]
        if not isinstance(entries, list) or len(entries) != len(batch):
            return [(each, _Verdict("again", maybe_done=True)) for each in batch]
        return [(each, _verdict(each, answer)) for each, answer in zip(batch, entries, strict=True)]

    # -- Pace

    def _take(self, cost: int) -> None:
        while True:
            with self._lock:
                pause = self._quota.pause(cost, self.clock())
                if not pause:
                    self._quota = self._quota.spent(cost, self.clock())
                    return
            self.wait(min(pause, 60.0))

    def _observe(self, reply: Reply) -> None:
        seen = pace.read_rate_limit(reply.headers.get("ratelimit", ""))
        if seen:
            with self._lock:
                self._quota = self._quota.observed(*seen, self.clock())

    def _wait_for_quota(self, reply: Reply) -> None:
        seen = pace.read_rate_limit(reply.headers.get("ratelimit", ""))
        asked = reply.headers.get("retry-after", "")
        seconds = float(asked) if asked.isdecimal() else float(seen[1]) if seen else _until_points(reply.body)
        self.wait(min(max(seconds, 0.05), 60.0))

    def _push_back(self, attempt: int) -> None:
        self.wait(min(0.05 * 2.0 ** min(attempt, 10), 10.0))


@dataclass
class _Work:
    """Where one upsert stands: what is still open, and what was sent without an answer."""

    open: dict[Key, Incoming]
    sent: dict[Key, Action] = field(default_factory=dict)
    overwrote: set[Key] = field(default_factory=set)
    outcomes: list[Outcome] = field(default_factory=list)

    def settle(self, plan: rules.Plan) -> None:
        """Close what needs no write. An answer that was lost after the write shows here: what we sent is there."""
        self.overwrote |= {each.incoming.key for each in plan.updates if each.overwrites_edit}
        for each, there in plan.unchanged:
            self._close(each.key, self.sent.get(each.key, "unchanged"), there.id)
        for each, there in plan.kept:
            self._close(each.key, "kept", there.id)
        for stranger in plan.foreign:
            self._close(stranger.key, "failed", reason="This identifier belongs to a resource of another source.")

    def note(self, entry: Entry, verdict: _Verdict) -> None:
        """Close an entry, or keep it open and remember what may have been done."""
        if verdict.kind == "done":
            action: Action = "created" if verdict.status == 201 else "updated"
            self._close(entry.key, self.sent.get(entry.key, action), verdict.id, status=verdict.status)
        elif verdict.kind == "refused":
            self._close(entry.key, "failed", status=verdict.status, reason=verdict.words)
        elif verdict.maybe_done:
            update = entry.write is not None and entry.write.id
            self.sent.setdefault(entry.key, "updated" if update else "created")

    def ended(self) -> list[Outcome]:
        """Every outcome; what is still open has failed."""
        for key in list(self.open):
            self._close(key, "failed", reason="Medplum stayed busy.")
        return self.outcomes

    def _close(self, key: Key, action: Action, resource_id: str = "", *, status: int = 0, reason: str = "") -> None:
        incoming, overwrote = self.open.pop(key), key in self.overwrote
        self.outcomes.append(Outcome(key, action, resource_id, status, reason, incoming, overwrote))


@dataclass(frozen=True)
class _Verdict:
    kind: Literal["done", "again", "refused"]
    status: int = 0
    id: str = ""
    maybe_done: bool = False
    words: str = field(default="", repr=False)


def _verdict(entry: Entry, answer: Json) -> _Verdict:
    response = answer.get("response") or {}
    text = str(response.get("status") or "")[:3]
    status = int(text) if text.isdecimal() else 0
    resource_id = str((answer.get("resource") or {}).get("id") or "")
    if not resource_id:
        resource_id = str(response.get("location") or "").partition("/")[2].partition("/")[0]
    if status in (200, 201, 204):
        guarded = entry.write is not None and not entry.write.id and status == 200 and b'"ifNoneExist"' in entry.body
        # If-None-Exist found one: whether it is what we want to write, the look-up tells.
        return _Verdict("again", status, maybe_done=True) if guarded else _Verdict("done", status, resource_id)
    if status in (404, 410, 409, 412, 429):
        # Somebody was faster, or it is gone: look again, then decide anew. Nothing was written.
        return _Verdict("again", status)
    if status >= 500 or not status:
        return _Verdict("again", status, maybe_done=True)
    return _Verdict("refused", status, words=_words(response.get("outcome") or {}))


class _Gate:
    """Lets as many batches through at once as the concurrency allows at that moment."""

    def __init__(self, concurrency: pace.Concurrency, clock: Callable[[], float]) -> None:
        self._state = concurrency
        self._clock = clock
        self._free = threading.Condition()
        self._inside = 0

    @contextmanager
    def turn(self, size: int) -> Iterator[_Turn]:
        with self._free:
            self._free.wait_for(lambda: self._inside < self._state.limit)
            self._inside += 1
        turn, started = _Turn(), self._clock()
        try:
            yield turn
        finally:
            with self._free:
                elapsed = max(self._clock() - started, 1e-6)
                if turn.slower:
                    self._state = self._state.pushed_back()
                elif size >= _TELLING:
                    self._state = self._state.finished(size / elapsed * self._inside)
                self._inside -= 1
                self._free.notify_all()


class _Turn:
    slower = False

    def pushed_back(self) -> None:
        self.slower = True


def _deletion(each: tuple[str, str]) -> Json:
    return {"method": "DELETE", "url": f"{each[0]}/{each[1]}"}


def _words(outcome: Json) -> str:
    """The server's own words on a refusal, and where it saw the fault."""
    said = []
    for issue in outcome.get("issue") or []:
        where = ", ".join(issue.get("expression") or [])
        text = str((issue.get("details") or {}).get("text") or issue.get("diagnostics") or issue.get("code") or "")
        said.append(f"{text} ({where})" if where else text)
    return "; ".join(said)[:500]


def _until_points(body: bytes) -> float:
    """Seconds until the quota is filled again, from the OperationOutcome of a 429."""
    for issue in _object(body).get("issue") or []:
        try:
            return float(json.loads(issue.get("diagnostics") or "{}").get("_msBeforeNext", 1000)) / 1000
        except (ValueError, AttributeError):
            continue
    return 1.0


def _chunked(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _object(body: bytes) -> Json:
    try:
        document = orjson.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
