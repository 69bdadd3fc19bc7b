"""Health Gorilla user accounts as PractitionerRole: built for a create or an update, and read back.

One PractitionerRole with the person as contained Practitioner makes an account; clinical users carry an NPI and a
practitioner role, the others only an administrative role (Health Gorilla, "Create a Clinical User" and
"PractitionerRole Create").
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bot_layer.fhir import identifiers
from bot_layer.fhir.json import Json, as_object, codings
from bot_layer.health_gorilla.rules import settings as hg

CONTAINED_ID = "pr"
PROVIDER = {"system": hg.ADMINISTRATIVE_ROLE, "code": "provider", "display": "Provider"}
CLINICAL_CODES = (PROVIDER, {"system": hg.PRACTITIONER_ROLE, "code": "doctor", "display": "Doctor"})
_ID = re.compile(r"[A-Za-z0-9\-]{1,64}")


@dataclass(frozen=True)
class Account:
    """What an account is made of. ``name`` is the directory's for clinicians, word for word.

    ``organization`` is given for another tenant than the login's own; ``codes`` are the codings of
    PractitionerRole.code.
    """

    name: Json = field(repr=False)
    identifiers: Sequence[Json] = field(repr=False)
    login: str = field(repr=False)
    codes: Sequence[Json] = CLINICAL_CODES
    clinical: bool = True
    organization: str | None = None
    locations: Sequence[str] = ()
    email: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    security_role: Json | None = None
    invite: bool = False
    notify: bool = False


def build(account: Account) -> Json:
    """The PractitionerRole that creates the account."""
    # VERIFIED stops the invitation, NO_SUBSCRIPTIONS the notifications.
    tags = [*([] if account.invite else ["VERIFIED"]), *([] if account.notify else ["NO_SUBSCRIPTIONS"])]
    tagged = {"tag": [{"system": hg.SYSTEM, "code": code} for code in tags]} if tags else {}
    role: Json = {
        "resourceType": "PractitionerRole",
        "meta": {"profile": [hg.USER_PROFILE], **tagged},
        "active": True,
        "practitioner": {"reference": f"#{CONTAINED_ID}"},
        "code": [{"coding": list(account.codes)}],
        "contained": [_person(account)],
    }
    if account.organization:
        role["organization"] = {"reference": account.organization}
    if account.locations:
        role["location"] = [{"reference": reference} for reference in account.locations]
    if account.security_role:
        role["extension"] = [{"url": hg.SECURITY_ROLE_EXTENSION, "valueCodeableConcept": account.security_role}]
    return role


def with_person(role: Json, person: Json) -> Json:
    """The PractitionerRole with the person as its contained Practitioner, wherever the person came from."""
    contained = {
        **{key: value for key, value in person.items() if key != "text"},
        "id": CONTAINED_ID,
        "meta": {"profile": list(person.get("meta", {}).get("profile") or hg.PRACTITIONER_PROFILES)},
    }
    others = [resource for resource in role.get("contained", ()) if resource.get("resourceType") != "Practitioner"]
    meta = role.get("meta", {})
    kept = {key: meta[key] for key in ("versionId", "profile", "tag") if key in meta}
    return {
        **role,
        "meta": {**kept, "profile": kept.get("profile") or [hg.USER_PROFILE]},
        "practitioner": {"reference": f"#{CONTAINED_ID}"},
        "contained": [contained, *others],
    }


def person_of(role: Json, included: Iterable[Json] = ()) -> Json | None:
    """The Practitioner of a PractitionerRole: contained in it, or among the included resources; else None."""
    reference = person_reference(role)
    for resource in role.get("contained", ()):
        if resource.get("resourceType") == "Practitioner" and reference in {f"#{resource.get('id')}", ""}:
            return dict(resource)
    wanted = reference.rpartition("/")[2]
    return next((dict(found) for found in included if wanted and found.get("id") == wanted), None)


def person_reference(role: Json) -> str:
    """The reference of the PractitionerRole's practitioner, without a version; empty where there is none."""
    reference = role.get("practitioner", {}).get("reference") or ""
    return str(reference).partition("/_history/")[0]


def person_id(role: Json, person: Json | None) -> str | None:
    """The Health Gorilla id of the role's person: its own identifier, else the id in the role's reference."""
    known = identifiers.values_of((person or {}).get("identifier", []), hg.SYSTEM)
    if known:
        return known[0]
    reference = person_reference(role)
    found = "" if reference.startswith("#") else reference.rpartition("/")[2]
    return found if _ID.fullmatch(found) else None


def login_of(person: Json | None) -> str | None:
    """The login in the hg-practitioner-login extension, in either of its spellings."""
    for extension in (person or {}).get("extension", ()):
        if extension.get("url") in hg.LOGIN_EXTENSIONS and extension.get("valueString"):
            return str(extension["valueString"])
    return None


def with_login(person: Json, login: str | None) -> Json:
    """The person with this login, unless it has one or there is none to give."""
    if not login or login_of(person):
        return person
    return {**person, "extension": [*person.get("extension", []), {"url": hg.LOGIN_EXTENSION, "valueString": login}]}


def emails_of(person: Json | None) -> list[str]:
    """The e-mail addresses in use, by rank, then in their order."""
    points = (person or {}).get("telecom", ())
    used = [point for point in points if point.get("system") == "email" and point.get("use") != "old"]
    used.sort(key=lambda point: point.get("rank", 1_000_000))
    emails = (str(point.get("value") or "").strip() for point in used)
    return list(dict.fromkeys(email for email in emails if "@" in email))


def with_email(role: Json, email: str) -> Json:
    """The PractitionerRole with this e-mail address added to its contained Practitioner."""
    point = {"system": "email", "value": email, "use": "work"}
    contained = [
        {**found, "telecom": [*found.get("telecom", []), point]} if found["resourceType"] == "Practitioner" else found
        for found in role["contained"]
    ]
    return {**role, "contained": contained}


def locations_of(role: Json) -> frozenset[str]:
    """The ids of the practice locations, whatever the form of their references."""
    return frozenset(hg.bare_id(str(location.get("reference") or "")) for location in role.get("location", ()))


def with_locations(role: Json, locations: Sequence[str]) -> Json:
    """The PractitionerRole with this list of locations in place of its own; itself where they are the same."""
    if locations_of(role) == {hg.bare_id(reference) for reference in locations}:
        return role
    kept = {key: value for key, value in role.items() if key != "location"}
    return {**kept, "location": [{"reference": reference} for reference in locations]} if locations else kept


def code_of(concepts: object, system: str) -> str | None:
    """The first code of a system among CodeableConcepts."""
    found = (coding.get("code") for coding in codings(concepts) if coding.get("system") == system)
    return next((str(code) for code in found if code), None)


def without_password(resource: Any) -> Any:
    """A copy without any password extension, at any depth: for previews."""
    if isinstance(resource, dict):
        return {key: without_password(value) for key, value in resource.items()}
    if isinstance(resource, list):
        urls = ((item, str(as_object(item).get("url", ""))) for item in resource)
        return [without_password(item) for item, url in urls if not url.endswith("hg-practitioner-password")]
    return resource


def login_candidates(name: Json, key: str, *, count: int = 5) -> tuple[str, ...]:
    """Logins to try in turn, the same for the same person each time: ``jdoe-1a2b3c4d``.

    ``key`` is what makes the person unique (tenant and NPI); its digest makes the login unique without revealing it.
    """
    given = next(iter(name.get("given") or [""]), "")
    stem = (_ascii(given)[:1] + _ascii(name.get("family")))[:24] or "user"
    digests = (hashlib.sha256(f"{key}|{number}".encode()).hexdigest()[:8] for number in range(count))
    return tuple(f"{stem}-{digest}" for digest in digests)


def idempotency_key(*parts: Any) -> str:
    """A UUID (version 4 in form) that is the same for the same content."""
    content = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return str(uuid.UUID(bytes=hashlib.sha256(content.encode()).digest()[:16], version=4))


def _person(account: Account) -> Json:
    profiles = list(hg.PRACTITIONER_PROFILES if account.clinical else hg.PRACTITIONER_PROFILES[1:])
    extension = [{"url": hg.LOGIN_EXTENSION, "valueString": account.login}]
    if account.password:
        extension.append({"url": hg.PASSWORD_EXTENSION, "valueString": account.password})
    person: Json = {
        "resourceType": "Practitioner",
        "id": CONTAINED_ID,
        "meta": {"profile": profiles},
        "extension": extension,
        "name": [account.name],
    }
    if account.identifiers:
        person["identifier"] = list(account.identifiers)
    if account.email:
        person["telecom"] = [{"system": "email", "value": account.email, "use": "work"}]
    return person


def _ascii(text: Any) -> str:
    plain = unicodedata.normalize("NFKD", text if isinstance(text, str) else "").encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]", "", plain.lower())
