"""The whole state of the look-alike, in memory, behind one lock."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from medplum_sandbox.health_gorilla import codes
from medplum_sandbox.health_gorilla.directory import Directory
from medplum_sandbox.health_gorilla.switches import Switches
from medplum_sandbox.json import Json


def new_id(prefix: str = "") -> str:
    """24 hexadecimal digits with the prefix that distinguishes tenants (t-), locations (tl-) and facilities (f-)."""
    return prefix + secrets.token_hex(12)


@dataclass(frozen=True)
class Account:
    """A user in a tenant. ``role`` and ``practitioner`` contain neither login nor password."""

    tenant: str
    practitioner_id: str
    npi: str | None
    login: str
    role: Json
    practitioner: Json

    @property
    def id(self) -> str:
        """The PractitionerRole's id."""
        return str(self.role["id"])

    @property
    def emails(self) -> frozenset[str]:
        """The e-mail addresses, in lower case."""
        telecom = self.practitioner.get("telecom", [])
        return frozenset(t["value"].casefold() for t in telecom if t.get("system") == "email")


class State:
    """Tenants, labs, accounts and patients; hold ``lock`` while reading and writing. Its methods take it themselves."""

    def __init__(self, *, switches: Switches, clock: Callable[[], float]) -> None:
        self.switches = switches
        self.clock = clock
        self.lock = threading.RLock()
        self.directory = Directory()
        self.organizations: dict[str, Json] = {}
        self.own_tenants: set[str] = set()
        self.labs: set[str] = set()
        self.accounts: dict[str, Account] = {}
        self.patients: dict[str, Json] = {}
        self.reserved_logins: set[str] = set()
        self.reserved_emails: set[str] = set()
        self._version = 0
        self.tenant_id = self.add_tenant("Lumberton Practice")

    def stamp(self, resource: Json) -> Json:
        """The resource as a new version of itself."""
        # Versions look like milliseconds (seed: "1667963849444"), and must differ even if the clock does not advance.
        with self.lock:
            self._version = max(self._version + 1, int(self.clock() * 1000))
            meta = {**resource.get("meta", {}), "versionId": str(self._version), "lastUpdated": self.now()}
        return {**resource, "meta": meta}

    def now(self) -> str:
        """The time as FHIR writes it."""
        return datetime.fromtimestamp(self.clock(), UTC).isoformat(timespec="milliseconds")

    def add_tenant(self, name: str, *, own: bool = True, part_of: str | None = None) -> str:
        """A tenant: one that the client manages, or another client's."""
        tenant = new_id("t-")
        resource: Json = {
            "resourceType": "Organization",
            "id": tenant,
            "identifier": [{"system": codes.SYSTEM, "value": tenant}],
            "active": True,
            "name": name,
            "telecom": [{"system": "phone", "value": "+1 555 0100", "use": "work"}],
            "address": [
                {"line": ["1 Jungle Way"], "city": "Lumberton", "state": "TX", "postalCode": "77657", "country": "US"}
            ],
        }
        if part_of is not None:
            resource["partOf"] = {"reference": f"Organization/{part_of}"}
        with self.lock:
            self.organizations[tenant] = self.stamp(resource)
            if own:
                self.own_tenants.add(tenant)
        return tenant

    def add_facility(self, name: str, *, lab: bool) -> str:
        """A facility: a lab that takes orders, or the one for single sign-on.

        Its id is derived from its name, so that an id that a Medplum stores in a file is still valid after a restart.
        """
        facility = f"f-{hashlib.sha256(name.encode()).hexdigest()[:24]}"
        resource = {
            "resourceType": "Organization",
            "id": facility,
            "identifier": [{"system": codes.SYSTEM, "value": facility}],
            "active": True,
            "type": [{"coding": [{"system": codes.ORGANIZATION_TYPE, "code": "LAB" if lab else "SSO"}]}],
            "name": name,
        }
        with self.lock:
            self.organizations[facility] = self.stamp(resource)
            if lab:
                self.labs.add(facility)
        return facility

    def reserve(self, *, login: str | None = None, email: str | None = None) -> None:
        """Takes a login or an e-mail address, as a user of another client's tenant would."""
        with self.lock:
            self.reserved_logins |= {login.casefold()} if login else set()
            self.reserved_emails |= {email.casefold()} if email else set()

    def accounts_in(self, tenant: str) -> list[Account]:
        """The users of one tenant."""
        with self.lock:
            return [account for account in self.accounts.values() if account.tenant == tenant]

    def visible_accounts(self) -> list[Account]:
        """The users of the tenants that the client manages."""
        with self.lock:
            return [account for account in self.accounts.values() if account.tenant in self.own_tenants]
