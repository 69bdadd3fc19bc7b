"""Two servers in step: each request goes to both, and what only one of them did is undone."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import httpx

from medplum_sandbox.compare.requests import MARK, PROJECT, RESTRICTED, Request
from medplum_sandbox.json import Json

_NAMED = re.compile(rf"{MARK}(\w+){MARK}")


@dataclass(frozen=True)
class Login:
    """A server and the client that administers a project there."""

    base_url: str
    client_id: str
    client_secret: str


@dataclass(frozen=True)
class Answer:
    """What one server answered; ``body`` is parsed where it is JSON."""

    status: int
    body: Any
    headers: dict[str, str]


class Server:
    """One of the two servers, with the ids that it gave to the named resources."""

    def __init__(self, login: Login, *, timeout: float = 60.0) -> None:
        self.base_url = login.base_url.rstrip("/")
        self._login = login
        self.ids: dict[str, str] = {}  # name: id
        self.http = httpx.Client(timeout=timeout)
        self._restricted = ""
        self._authorize()

    def _authorize(self) -> None:
        token = self._token(self._login.client_id, self._login.client_secret)
        self.http.headers["Authorization"] = f"Bearer {token['access_token']}"
        self.profile: str = token["profile"]["reference"]
        self.project: str = token["project"]["reference"].partition("/")[2]
        self.ids[PROJECT] = self.project

    def _token(self, client_id: str, client_secret: str) -> Json:
        form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": client_secret}
        # Without the login that the session may have: a server refuses a token request that carries one.
        answer = httpx.post(f"{self.base_url}/oauth2/token", data=form, timeout=self.http.timeout)
        found: Json = answer.raise_for_status().json()
        return found

    def restrict(self, rules: list[Json]) -> None:
        """Make the login that an AccessPolicy with these rules restricts."""
        policy = self._made(
            "fhir/R4/AccessPolicy", {"resourceType": "AccessPolicy", "name": RESTRICTED, "resource": rules}
        )
        body = {"name": RESTRICTED, "accessPolicy": {"reference": f"AccessPolicy/{policy['id']}"}}
        client = self._made(f"admin/projects/{self.project}/client", body)
        self._restricted = f"Bearer {self._token(client['id'], client['secret'])['access_token']}"
        self.ids |= {"restricted_client": client["id"], "restricted_policy": policy["id"]}

    def _made(self, path: str, body: Json) -> Json:
        found: Json = self.http.post(f"{self.base_url}/{path}", json=body).raise_for_status().json()
        return found

    def send(self, request: Request) -> Answer:
        """The answer to a request, its names replaced by this server's ids."""
        content = request.body if isinstance(request.body, str) else json.dumps(request.body)
        headers = {"Content-Type": "application/fhir+json"} if request.body is not None else {}
        if request.login:
            headers["Authorization"] = self._restricted
        return self.call(
            request.method,
            self.filled(request.path),
            content=None if request.body is None else self.filled(content),
            headers={name: self.filled(value) for name, value in {**headers, **request.headers}.items()},
        )

    def call(
        self, method: str, path: str, *, content: str | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """The answer to an HTTP request below the FHIR API, or below the server for a path with a slash."""
        found = self.http.request(
            method,
            self.base_url + (path if path.startswith("/") else f"/fhir/R4/{path}".rstrip("/")),
            content=content,
            headers=[(name.encode(), value.encode()) for name, value in (headers or {}).items()],
        )
        try:
            body = found.json() if found.content else ""
        except ValueError:
            body = found.text
        return Answer(found.status_code, body, {name.lower(): value for name, value in found.headers.items()})

    def filled(self, text: str) -> str:
        """The text with this server's ids in place of names."""
        return _NAMED.sub(lambda match: self.ids.get(match[1], match[1]), text)

    def delete(self, reference: str) -> None:
        """Removes what only this server has."""
        self.call("DELETE", reference)


@dataclass
class Pair:
    """Both servers, and the names of what both hold."""

    one: Server
    other: Server
    known: dict[str, list[str]] = field(default_factory=dict)

    def send(self, request: Request) -> tuple[Answer, Answer]:
        """Both answers; afterwards the servers are in step again."""
        answers = self.one.send(request), self.other.send(request)
        self._keep_in_step(request, answers)
        return answers

    def _keep_in_step(self, request: Request, answers: tuple[Answer, Answer]) -> None:
        if request.creates_entries:
            self._bind_entries(request.creates_entries, answers)
        elif request.creates:
            self._bind(request.creates, [_made(answer) for answer in answers])
            self._note_versions(request.creates, answers)
        elif request.changes and (request.deletes or _differ(answers)):
            self._forget(request.changes)
        elif request.deletes or request.method == "PATCH":
            self._check_known()
        elif request.changes:
            self._note_versions(request.changes, answers)

    def _note_versions(self, name: str, answers: tuple[Answer, Answer]) -> None:
        for server, answer in zip(self._servers(), answers, strict=True):
            if isinstance(answer.body, dict) and "meta" in answer.body and answer.body["id"] == server.ids.get(name):
                server.ids[f"{name}_version"] = answer.body["meta"]["versionId"]

    def _bind(self, name: str, made: list[str | None]) -> None:
        """Remembers a resource that both made; a resource of one server alone is deleted."""
        known = [self._name_of(server, reference) for server, reference in zip(self._servers(), made, strict=True)]
        if made[0] and made[1] and known == [None, None]:
            kind = made[0].partition("/")[0]
            for server, reference in zip(self._servers(), made, strict=True):
                assert reference is not None
                server.ids[name] = reference.partition("/")[2]
            self.known.setdefault(kind, []).append(name)
            return
        for server, reference, bound in zip(self._servers(), made, known, strict=True):
            if reference and bound is None:
                server.delete(reference)
        for bound in {bound for bound in known if bound} if known[0] != known[1] else ():
            self._forget(bound)

    def _bind_entries(self, names: tuple[str | None, ...], answers: tuple[Answer, Answer]) -> None:
        lists = [_entries(answer) for answer in answers]
        for number, name in enumerate(names):
            made = [_entry_made(entries[number]) if number < len(entries) else None for entries in lists]
            if name:
                self._bind(name, made)
        self._check_known()

    def _check_known(self) -> None:
        """Forgets what only one server still has, after a request that named no resource."""
        for kind, names in list(self.known.items()):
            here = [self._present(server, kind, names) for server in self._servers()]
            for name in names.copy():
                if not all(name in found for found in here):
                    self._forget(name)

    def _present(self, server: Server, kind: str, names: list[str]) -> set[str]:
        found: set[str] = set()
        for start in range(0, len(names), 50):
            part = names[start : start + 50]
            ids = {server.ids[name]: name for name in part}
            answer = server.call("GET", f"{kind}?_count=1000&_fields=id&_id={','.join(ids)}")
            found |= {ids[e["resource"]["id"]] for e in answer.body.get("entry", ())}
        return found

    def _forget(self, name: str) -> None:
        """Deletes a resource on both servers: from here on they may hold different versions of it."""
        kind = next((kind for kind, names in self.known.items() if name in names), None)
        if kind is None:
            return
        self.known[kind].remove(name)
        for server in self._servers():
            server.delete(f"{kind}/{server.ids[name]}")

    def _name_of(self, server: Server, reference: str | None) -> str | None:
        identifier = (reference or "").partition("/")[2]
        return next((name for name, known in server.ids.items() if known == identifier), None)

    def _servers(self) -> tuple[Server, Server]:
        return self.one, self.other


def _made(answer: Answer) -> str | None:
    """The reference of the resource that an answer shows, or that its Location names."""
    if answer.status not in (200, 201):
        return None
    if isinstance(answer.body, dict) and "id" in answer.body:
        return f"{answer.body['resourceType']}/{answer.body['id']}"
    location = answer.headers.get("location", "").partition("/fhir/R4/")[2].split("/")
    return "/".join(location[:2]) if len(location) > 1 else None


def _entries(answer: Answer) -> list[Json]:
    return list(answer.body.get("entry", ())) if isinstance(answer.body, dict) else []


def _entry_made(entry: Json) -> str | None:
    if entry.get("response", {}).get("status") not in ("200", "201"):
        return None
    found = entry.get("resource", {})
    return f"{found['resourceType']}/{found['id']}" if "id" in found else None


def _differ(answers: tuple[Answer, Answer]) -> bool:
    return answers[0].status != answers[1].status
