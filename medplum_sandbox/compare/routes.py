"""Requests beside the plain ones on resources: versions, Binaries, operations, logins, and project administration."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable

from medplum_sandbox.compare.requests import NOBODY, PROJECT, RESTRICTED, Request, mark, version_mark
from medplum_sandbox.compare.values import WORDS, WRONG, Values, broken
from medplum_sandbox.json import Json

_FORM = "application/x-www-form-urlencoded"
_ACCEPTS = ("*/*", "application/fhir+json", "application/json", "text/plain", "application/fhir+xml")
_PREFERS = ("return=minimal", "return=representation", "return=OperationOutcome", "handling=strict")
# The rights of the restricted login: everything, reading alone, some resources, some elements; nothing for other types.
RULES: list[Json] = [
    {"resourceType": "Patient"},
    {"resourceType": "Observation", "readonly": True},
    {"resourceType": "Task", "criteria": "Task?status=active"},
    {"resourceType": "Organization", "hiddenFields": ["name", "telecom"]},
    {"resourceType": "Basic", "readonlyFields": ["code"], "interaction": ["read", "search", "create", "update"]},
]


class Routes:
    """A source of such requests. ``existing`` draws (type, name) of a resource that both servers hold, or None."""

    def __init__(
        self,
        chance: random.Random,
        values: Values,
        existing: Callable[[], tuple[str, str] | None],
        new_name: Callable[[], str],
    ) -> None:
        self._chance = chance
        self._values = values
        self._existing = existing
        self._name = new_name

    def version(self) -> Request:
        """A read of a version, or a write that names one."""
        found = self._existing()
        if found is None:
            return Request("vread, not there", "GET", f"Patient/{NOBODY}/_history/{NOBODY}")
        kind, name = found
        version = self._chance.choice((version_mark(name), version_mark(name), NOBODY, "1", "abc"))
        if self._chance.random() < 0.4:
            return Request("vread", "GET", f"{kind}/{mark(name)}/_history/{version}")
        body = {**self._values.resource(kind), "id": mark(name)}
        written = self._chance.choice((f'W/"{version}"', f'W/"{version}"', f'"{version}"', version, f"W/{version}"))
        return Request("update, version", "PUT", f"{kind}/{mark(name)}", body, {"If-Match": written}, changes=name)

    def restricted(self) -> Request:
        """What a login may do whose AccessPolicy lets it write some types, read others, and some of them in part."""
        found = self._existing()
        draw = self._chance.random()
        kind = self._chance.choice(("Patient", "Observation", "Task", "Organization", "Basic", "Coverage"))
        if draw < 0.3:
            query = self._chance.choice(("", "_count=2&_sort=_lastUpdated", "_summary=count", "_total=accurate"))
            ordered = "_sort" in query
            path = f"{kind}?{query}" if query else kind
            return Request(f"restricted search of {kind}", "GET", path, ordered=ordered, login=RESTRICTED)
        if draw < 0.55 or found is None:
            body = self._values.resource(kind)
            return Request(f"restricted create of {kind}", "POST", kind, body, creates=self._name(), login=RESTRICTED)
        kind, name = found
        path = f"{kind}/{mark(name)}"
        if draw < 0.75:
            return Request("restricted read", "GET", path, login=RESTRICTED)
        if draw < 0.9:
            body = {**self._values.resource(kind), "id": mark(name)}
            return Request("restricted update", "PUT", path, body, changes=name, login=RESTRICTED)
        return Request("restricted delete", "DELETE", path, changes=name, deletes=True, login=RESTRICTED)

    def binary(self) -> Request:
        """A Binary made or read; its content is compared by the answer."""
        chance = self._chance
        if chance.random() < 0.4:
            path = chance.choice((f"Binary/{NOBODY}", "Binary/x", "Binary", f"Binary/{NOBODY}/_history", "Binary?x=y"))
            return Request("Binary, read", "GET", path, headers={"Accept": chance.choice(_ACCEPTS)})
        if chance.random() < 0.5:
            data = chance.choice((base64.b64encode(b"hello").decode(), "%", "", *WRONG))
            body = {"resourceType": "Binary", "contentType": chance.choice(("text/plain", "x", "", 5)), "data": data}
            return Request("Binary, JSON", "POST", "Binary", body)
        kind = chance.choice(("text/plain", "application/pdf", "application/xml", "x", "image/png; a=b"))
        path = chance.choice(("Binary", "Binary?_filename=a.txt", "Binary?_filename="))
        return Request("Binary, raw", "POST", path, chance.choice(WORDS), {"Content-Type": kind})

    def operation(self) -> Request:
        """One of the server's own operations."""
        chance = self._chance
        found = self._existing() or ("Patient", NOBODY)
        path = f"{found[0]}/{mark(found[1])}"
        resource, mistake = broken(chance, self._values.resource(found[0]))
        return chance.choice(
            (
                Request(f"$validate, {mistake}", "POST", f"{found[0]}/$validate", resource),
                Request("$validate", "POST", f"{found[0]}/$validate", self._values.resource(found[0])),
                Request("$everything, not there", "GET", f"Patient/{NOBODY}/$everything"),
                Request("unknown operation", "POST", f"{path}/$nothing", {"resourceType": "Parameters"}),
                Request("unknown operation", "GET", f"{found[0]}/$nothing"),
                Request("$execute, no bot", "POST", f"Bot/{NOBODY}/$execute", {}),
                Request(
                    "$execute, no bot", "POST", f"Bot/$execute{chance.choice(('', '?identifier=x|y', '?id=1'))}", {}
                ),
                Request("$deploy, no bot", "POST", f"Bot/{NOBODY}/$deploy", {"code": "x"}),
            )
        )

    def header(self) -> Request:
        """Headers that change an answer, or that a server refuses."""
        chance = self._chance
        found = self._existing() or ("Patient", NOBODY)
        path = f"{found[0]}/{mark(found[1])}"
        body = {"resourceType": "Basic", "code": {"text": chance.choice(WORDS)}}
        wrong = chance.choice(("Bearer x", "Bearer a.b.c", "Basic x", "Basic eDp5", "x", ""))
        return chance.choice(
            (
                Request("Accept", "GET", path, headers={"Accept": chance.choice(_ACCEPTS)}),
                Request("Prefer", "POST", "Basic", body, {"Prefer": chance.choice(_PREFERS)}, creates=self._name()),
                Request("Authorization, wrong", "GET", path, headers={"Authorization": wrong}),
                Request("X-Medplum", "GET", path, headers={"X-Medplum": "extended"}),
                Request("If-None-Match", "GET", path, headers={"If-None-Match": f'W/"{version_mark(found[1])}"'}),
                Request("Content-Type, odd", "POST", "Basic", body, {"Content-Type": chance.choice(_ACCEPTS)}),
            )
        )

    def token(self) -> Request:
        """A request for a token that is wrong in some way."""
        chance = self._chance
        grants = ("client_credentials", "authorization_code", "refresh_token", "foo", "")
        form = f"grant_type={chance.choice(grants)}"
        form += chance.choice(("", "&client_id=x", f"&client_id={NOBODY}", f"&client_id={NOBODY}&client_secret=y"))
        form += chance.choice(("", "", "&code=z", "&refresh_token=z", "&scope=openid", "&code=z&code_verifier=v"))
        kind = chance.choice((_FORM, _FORM, "application/json"))
        return Request("token, wrong", "POST", "/oauth2/token", form, {"Content-Type": kind})

    def admin(self) -> Request:
        """The project's administration, right and wrong."""
        chance = self._chance
        base = f"/admin/projects/{mark(PROJECT)}"
        secret = {"name": chance.choice(("A", "", "b c")), "valueString": chance.choice(("x", "", "y\nz"))}
        return chance.choice(
            (
                Request("secrets", "POST", f"{base}/secrets", chance.choice(([], [secret], {}, [{}], [{"name": "A"}]))),
                Request(
                    "admin bot, wrong", "POST", f"{base}/bot", chance.choice(({}, {"name": ""}, {"description": "x"}))
                ),
                Request("admin client, wrong", "POST", f"{base}/client", chance.choice(({}, {"name": ""}))),
                Request("admin member, none", "GET", f"{base}/members/{NOBODY}"),
                Request("admin member, none", "DELETE", f"{base}/members/{NOBODY}"),
                Request("admin, nowhere", "GET", f"{base}/foo"),
                Request("admin, restricted", "GET", base, login=RESTRICTED),
            )
        )

    def entry(self) -> Json:
        """An entry of a batch that changes or deletes a resource that is there."""
        found = self._existing()
        if found is None:
            return {"request": {"method": "DELETE", "url": f"Patient/{NOBODY}"}}
        kind, name = found
        url = f"{kind}/{mark(name)}"
        draw = self._chance.random()
        if draw < 0.3:
            return {"request": {"method": "DELETE", "url": url}}
        if draw < 0.5:
            patch = [{"op": "add", "path": "/language", "value": self._chance.choice(("en", "de", 5))}]
            return {"request": {"method": "PATCH", "url": url}, "resource": patch_binary(patch)}
        request = {"method": "PUT", "url": url}
        if draw < 0.7:
            request["ifMatch"] = self._chance.choice((f'W/"{version_mark(name)}"', f'W/"{NOBODY}"', "x"))
        return {"request": request, "resource": {**self._values.resource(kind), "id": mark(name)}}


def patch_binary(operations: list[Json]) -> Json:
    """A JSON Patch as an entry of a batch has it."""
    data = base64.b64encode(json.dumps(operations).encode()).decode()
    return {"resourceType": "Binary", "contentType": "application/json-patch+json", "data": data}
