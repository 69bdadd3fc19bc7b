"""The sequence of random requests of one seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from medplum_sandbox.compare.requests import NOBODY, Request, mark
from medplum_sandbox.compare.routes import Routes, patch_binary
from medplum_sandbox.compare.searches import Searches
from medplum_sandbox.compare.values import WRONG, Values, broken
from medplum_sandbox.json import Json
from medplum_sandbox.medplum.definitions.tables import fhir_types

FHIR = "application/fhir+json"
# Types that clients use most; each other type of the registry gets a turn too.
USUAL = (
    *(
        "Patient",
        "Patient",
        "Observation",
        "Observation",
        "Encounter",
        "Condition",
        "DocumentReference",
        "Organization",
    ),
    *("Location", "Basic", "Task", "ServiceRequest", "Coverage", "Appointment", "AllergyIntolerance", "Questionnaire"),
    *("MedicationRequest", "Procedure", "DiagnosticReport", "CareTeam", "Group", "Schedule", "Slot", "Communication"),
)
# FHIR's types that the server treats in its own way, or that a fresh project already holds.
_LEFT_OUT = frozenset(
    (
        *("AuditEvent", "Binary", "Bundle", "OperationOutcome", "Parameters", "Practitioner"),
        *("CapabilityStatement", "CodeSystem", "CompartmentDefinition", "ConceptMap", "ImplementationGuide"),
        *("OperationDefinition", "SearchParameter", "StructureDefinition", "Subscription", "SubscriptionStatus"),
        "ValueSet",
    )
)


class Generator:
    """Requests one after the other. ``known`` is kept by the session: the names of what both servers hold, by type."""

    def __init__(self, seed: int, known: dict[str, list[str]]) -> None:
        self._seed = seed
        self._chance = random.Random(seed)  # noqa: S311  # the same seed must give the same requests; nothing is secret
        self._known = known
        self._values = Values(self._chance, known)
        self._searches = Searches(self._chance, known)
        self._routes = Routes(self._chance, self._values, self._existing, self._name)
        self._count = 0
        self._others = [name for name in fhir_types() if name not in _LEFT_OUT]
        self._makers: tuple[tuple[int, Callable[[], Request]], ...] = (
            (22, self._create),
            (14, self._create_broken),
            (34, self._search),
            (5, self._read),
            (6, self._update),
            (5, self._patch),
            (3, self._delete),
            (3, self._history),
            (6, self._conditional),
            (8, self._batch),
            (4, self._odd),
            (4, self._routes.version),
            (5, self._routes.restricted),
            (3, self._routes.binary),
            (3, self._routes.operation),
            (2, self._routes.header),
            (1, self._routes.token),
            (1, self._routes.admin),
        )

    def next(self) -> Request:
        """The next request."""
        (maker,) = self._chance.choices([m for _, m in self._makers], [weight for weight, _ in self._makers])
        return maker()

    def _type(self) -> str:
        return self._chance.choice(USUAL if self._chance.random() < 0.7 else self._others)

    def _name(self) -> str:
        self._count += 1
        return f"s{self._seed}r{self._count}"

    def _existing(self) -> tuple[str, str] | None:
        kinds = [kind for kind, names in self._known.items() if names]
        if not kinds:
            return None
        kind = self._chance.choice(kinds)
        return kind, self._chance.choice(self._known[kind])

    def _create(self) -> Request:
        kind = self._type()
        return Request("create", "POST", kind, self._values.resource(kind), creates=self._name())

    def _create_broken(self) -> Request:
        kind = self._type()
        body, mistake = broken(self._chance, self._values.resource(kind))
        return Request(f"create, {mistake}", "POST", kind, body, creates=self._name())

    def _search(self) -> Request:
        kind = self._type()
        query, tried, ordered = self._searches.query(kind)
        if self._chance.random() < 0.05:
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            return Request(f"search by POST {tried}", "POST", f"{kind}/_search", query, headers, ordered=ordered)
        return Request(f"search {tried}", "GET", f"{kind}?{query}" if query else kind, ordered=ordered)

    def _read(self) -> Request:
        found = self._existing()
        odd = (f"Patient/{NOBODY}", "Patient/abc", "Foo/1", "Foo", f"Patient/{NOBODY}/_history/{NOBODY}")
        if found is None or self._chance.random() < 0.3:
            return Request("read, not there", "GET", self._chance.choice(odd))
        kind, name = found
        if self._chance.random() < 0.2:
            return Request("read, other type", "GET", f"{self._type()}/{mark(name)}")
        return Request("read", "GET", f"{kind}/{mark(name)}")

    def _update(self) -> Request:
        found = self._existing()
        if found is None or self._chance.random() < 0.15:
            identifier = self._chance.choice((NOBODY, "abc", ""))
            body = {**self._values.resource("Patient"), "id": identifier}
            return Request("update, not there", "PUT", f"Patient/{identifier or 'x'}", body)
        kind, name = found
        body = {**self._values.resource(kind), "id": mark(name)}
        tried, headers = "update", {}
        draw = self._chance.random()
        if draw < 0.2:
            body, mistake = broken(self._chance, body)
            tried = f"update, {mistake}"
        elif draw < 0.3:
            tried, body = "update, other id", {**body, "id": NOBODY}
        elif draw < 0.4:
            tried, headers = "update, If-Match", {"If-Match": self._chance.choice((f'W/"{NOBODY}"', '"x"', "x", "*"))}
        return Request(tried, "PUT", f"{kind}/{mark(name)}", body, headers, changes=name)

    def _patch(self) -> Request:
        found = self._existing()
        operations = [self._operation() for _ in range(self._chance.choice((1, 1, 2)))]
        headers = {"Content-Type": "application/json-patch+json"}
        if found is None:
            return Request("patch, not there", "PATCH", f"Patient/{NOBODY}", operations, headers)
        kind, name = found
        body: Any = operations
        if self._chance.random() < 0.1:
            body = self._chance.choice(({}, [], [{}], [1], [{"op": "foo", "path": "/x"}], "x"))
        tried = f"patch {operations[0]['op']}" if body is operations else "patch, wrong body"
        return Request(tried, "PATCH", f"{kind}/{mark(name)}", body, headers, changes=name)

    def _operation(self) -> Json:
        chance = self._chance
        path = chance.choice(
            (
                *("/language", "/identifier", "/identifier/0", "/identifier/-", "/identifier/0/value", "/status"),
                *("/foo", "/meta/tag", "/code/text", "/identifier/9", "", "/"),
            )
        )
        value: Any = chance.choice(
            ("en", [self._values.of_type("Identifier")], self._values.of_type("Identifier"), *WRONG)
        )
        verb = chance.choice(("add", "replace", "remove", "test", "copy", "move"))
        if verb in ("copy", "move"):
            return {"op": verb, "from": "/identifier/0", "path": path}
        return {"op": verb, "path": path, **({} if verb == "remove" else {"value": value})}

    def _delete(self) -> Request:
        found = self._existing()
        if found is None or self._chance.random() < 0.3:
            return Request(
                "delete, not there", "DELETE", self._chance.choice((f"Patient/{NOBODY}", "Patient/x", "Foo/1"))
            )
        return Request("delete", "DELETE", f"{found[0]}/{mark(found[1])}", changes=found[1], deletes=True)

    def _history(self) -> Request:
        found = self._existing()
        if found is None:
            return Request("history, not there", "GET", f"Patient/{NOBODY}/_history")
        query = self._chance.choice(("", "", "?_count=1", "?_offset=1", "?_count=x", "?_count=0"))
        return Request("history", "GET", f"{found[0]}/{mark(found[1])}/_history{query}")

    def _conditional(self) -> Request:
        kind = self._type()
        condition = self._searches.condition(kind)
        resource = self._values.resource(kind)
        match self._chance.randrange(4):
            case 0:
                headers = {"If-None-Exist": condition}
                return Request("conditional create", "POST", kind, resource, headers, creates=self._name())
            case 1:
                return Request("conditional update", "PUT", f"{kind}?{condition}", resource, creates=self._name())
            case 2:
                operations = [self._operation()]
                headers = {"Content-Type": "application/json-patch+json"}
                return Request("conditional patch", "PATCH", f"{kind}?{condition}", operations, headers)
        return Request("conditional delete", "DELETE", f"{kind}?{condition}", deletes=True)

    def _batch(self) -> Request:
        entries: list[Json] = []
        names: list[str | None] = []
        for _ in range(self._chance.choice((1, 2, 3, 5))):
            entry, name = self._entry(len(entries))
            entries.append(entry)
            names.append(name)
        kind = "transaction" if self._chance.random() < 0.3 else "batch"
        body = {"resourceType": "Bundle", "type": kind, "entry": entries}
        return Request(f"{kind}", "POST", "", body, creates_entries=tuple(names))

    def _entry(self, number: int) -> tuple[Json, str | None]:
        chance, kind = self._chance, self._type()
        draw = chance.random()
        if draw < 0.45:
            resource = self._values.resource(kind)
            if chance.random() < 0.2:
                resource, _ = broken(chance, resource)
            entry: Json = {"request": {"method": "POST", "url": kind}, "resource": resource}
            if chance.random() < 0.3:
                entry["fullUrl"] = f"urn:uuid:00000000-0000-4000-8000-00000000000{number}"
            if chance.random() < 0.15:
                entry["request"]["ifNoneExist"] = self._searches.condition(kind)
            return entry, self._name()
        found = self._existing()
        if draw < 0.52:
            return self._routes.entry(), None
        if draw < 0.62:
            resource = self._values.resource(kind)
            return {
                "request": {"method": "PUT", "url": f"{kind}?{self._searches.condition(kind)}"},
                "resource": resource,
            }, self._name()
        if draw < 0.8 or found is None:
            query, _, _ = self._searches.query(kind)
            return {"request": {"method": "GET", "url": f"{kind}?{query}&_sort=_lastUpdated"}}, None
        if draw < 0.9:
            return {"request": {"method": "GET", "url": f"{found[0]}/{mark(found[1])}"}}, None
        odd: tuple[Json, ...] = (
            {"request": {"method": "FOO", "url": "Patient"}},
            {"request": {"method": "GET"}},
            {"request": {"url": "Patient"}},
            {"resource": {"resourceType": "Patient"}},
            {"request": {"method": "POST", "url": "Observation"}, "resource": {"resourceType": "Patient"}},
            {"request": {"method": "PUT", "url": "Patient/abc"}, "resource": {"resourceType": "Patient", "id": "abc"}},
            {"request": {"method": "GET", "url": "Foo/1"}},
            {"request": {"method": "DELETE", "url": f"Patient/{NOBODY}"}},
            {"request": {"method": "PATCH", "url": f"Patient/{NOBODY}"}, "resource": patch_binary([self._operation()])},
        )
        return chance.choice(odd), None

    def _odd(self) -> Request:
        chance = self._chance
        text = {"Content-Type": FHIR}
        return chance.choice(
            (
                Request("body, no JSON", "POST", "Patient", "{", text),
                Request("body, empty", "POST", "Patient", "", text),
                Request("body, list", "POST", "Patient", "[]", text),
                Request("body, text", "POST", "Patient", "x", {"Content-Type": "text/plain"}),
                Request("body, other type", "POST", "Patient", {"resourceType": "Basic", "code": {"text": "x"}}),
                Request("body, no type", "POST", "Patient", {"name": [{"family": "x"}]}),
                Request("unknown type", "POST", "Foo", {"resourceType": "Foo"}),
                Request("unknown type", "GET", "Foo?x=y"),
                Request("unknown operation", "POST", "Patient/$foo", {}),
                Request("unknown operation", "GET", f"Patient/{NOBODY}/$foo"),
                Request("bundle, wrong", "POST", "", {"resourceType": "Bundle", "type": "batch"}),
                Request("bundle, wrong", "POST", "", {"resourceType": "Bundle", "type": "foo", "entry": []}),
                Request("bundle, wrong", "POST", "", {"resourceType": "Patient"}),
                Request("no such path", "GET", f"Patient/{NOBODY}/foo"),
                Request("no such path", "DELETE", "Patient"),
            )
        )
