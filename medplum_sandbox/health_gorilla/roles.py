"""PractitionerRole: accounts are created, read, updated and searched through it, and never deleted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from medplum_sandbox.health_gorilla import codes
from medplum_sandbox.health_gorilla.outcomes import cannot_handle, entry, refused, searchset
from medplum_sandbox.health_gorilla.role_rules import Draft, RoleRules
from medplum_sandbox.health_gorilla.searching import check_names, coding_pairs, identifier_pairs, page, token_matches
from medplum_sandbox.health_gorilla.state import Account, State, new_id
from medplum_sandbox.health_gorilla.wire import Ask, Refused
from medplum_sandbox.json import Json

SEARCHES = frozenset(
    {"practitioner", "organization", "identifier", "email", "location", "role", "specialty", "speciality"}
    | {"activated", "_tag", "_security", "_include"}
)


class Roles:
    """The accounts of a state. The caller must hold the state's lock."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._switches = state.switches
        self._rules = RoleRules(state)

    def create(self, body: Any) -> Json:
        """The new PractitionerRole as clients see it."""
        draft = self._rules.draft(body)
        if draft.login is None:
            raise AssertionError("a create without login is refused by the rules")
        self._check_clashes(draft, None)
        practitioner_id = self._practitioner_id(draft)
        self._check_own_id(draft, practitioner_id)
        role = {**draft.role, "id": new_id(), "organization": {"reference": f"Organization/{draft.tenant}"}}
        practitioner = _with_id(draft.practitioner, practitioner_id)
        account = Account(draft.tenant, practitioner_id, draft.npi, draft.login, self._state.stamp(role), practitioner)
        self._state.accounts[account.id] = account
        return self.render(account)

    def read(self, role_id: str) -> Json:
        """One PractitionerRole."""
        return self.render(self._account(role_id))

    def update(self, role_id: str, body: Any, *, if_match: str | None) -> Json:
        """The changed PractitionerRole. Elements that the body omits are removed, unless a switch keeps them."""
        account = self._account(role_id)
        version = account.role["meta"]["versionId"]
        if self._switches.if_match_honored and if_match is not None and if_match.strip('W/"') != version:
            raise refused(412, "conflict", "The PractitionerRole was changed in the meantime.")
        draft = self._rules.draft(body, home=account.tenant)
        if body.get("id", role_id) != role_id:
            raise refused(400, "invalid", "The id of the body is not the id of the URL.")
        self._check_own_id(draft, account.practitioner_id)
        self._check_unchangeable(draft, account)
        self._check_clashes(draft, account)
        role = {**draft.role, "id": role_id, "organization": account.role["organization"]}
        if not self._switches.location_mutable:
            role.pop("location", None)
            role |= {"location": account.role["location"]} if "location" in account.role else {}
        practitioner = self._with_kept_numbers(_with_id(draft.practitioner, account.practitioner_id), account)
        changed = replace(account, role=self._state.stamp(role), practitioner=practitioner)
        self._state.accounts[role_id] = changed
        return self.render(changed)

    def search(self, ask: Ask, base_url: str, url: str) -> Json:
        """The roles that fit, of the tenants that the client manages."""
        check_names(ask, "PractitionerRole", SEARCHES)
        if ask.values("organization") and ask.values("identifier") and not self._switches.combined_search:
            raise cannot_handle(ask.method, "PractitionerRole", [name for name, _ in ask.query])
        found = [a for a in self._state.visible_accounts() if all(_fits(a, *pair) for pair in ask.query)]
        shown, next_url = page(ask, [self.render(a) for a in found], base_url, "PractitionerRole")
        entries = [entry(f"{base_url}/PractitionerRole/{role['id']}", role) for role in shown]
        entries += self._included(ask, [str(role["id"]) for role in shown], base_url)
        return searchset(url, entries, total=len(found), now=self._state.now(), next_url=next_url)

    def render(self, account: Account, *, whole: bool = False) -> Json:
        """The role as clients see it; ``whole`` shows contained Practitioner and login whatever the switches say."""
        if not whole and self._switches.role_practitioner != "contained":
            return {**account.role, "practitioner": {"reference": f"Practitioner/{account.practitioner_id}"}}
        practitioner = self._with_login(account, whole=whole)
        return {
            **account.role,
            "contained": [practitioner],
            "practitioner": {"reference": f"#{practitioner['id']}"},
        }

    def practitioner(self, record_id: str) -> Json | None:
        """The Practitioner of a user, if the switches allow a direct read."""
        if self._switches.role_practitioner == "include":
            return None
        for account in self._state.visible_accounts():
            if account.practitioner_id == record_id:
                return self._as_resource(account)
        return None

    def _as_resource(self, account: Account) -> Json:
        profile = account.practitioner["meta"]["profile"]
        meta = {**account.role["meta"], "profile": profile}
        meta.pop("tag", None)
        return {**self._with_login(account), "id": account.practitioner_id, "meta": meta}

    def _with_login(self, account: Account, *, whole: bool = False) -> Json:
        if not whole and not self._switches.login_echoed:
            return account.practitioner
        url = codes.LOGIN if whole or self._switches.login_extension == "r4" else codes.LOGIN_PLAIN
        return {**account.practitioner, "extension": [{"url": url, "valueString": account.login}]}

    def _account(self, role_id: str) -> Account:
        account = self._state.accounts.get(role_id)
        if account is None or account.tenant not in self._state.own_tenants:
            raise refused(404, "not-found", "No such PractitionerRole.")
        return account

    def _practitioner_id(self, draft: Draft) -> str:
        if draft.npi is None:
            return new_id()
        return str(self._state.directory.by_npi(draft.npi)[0]["id"])

    def _check_own_id(self, draft: Draft, practitioner_id: str) -> None:
        own = [i["value"] for i in draft.practitioner.get("identifier", []) if i.get("system") == codes.SYSTEM]
        if any(value != practitioner_id for value in own):
            raise refused(self._switches.rule_status, "business-rule", "The Health Gorilla id is another's.")

    def _check_unchangeable(self, draft: Draft, account: Account) -> None:
        status = self._switches.rule_status
        if draft.npi != account.npi:
            raise refused(status, "business-rule", "The NPI of an account can't be changed.")
        if draft.login is not None and draft.login != account.login:
            raise refused(status, "business-rule", "The login of an account can't be changed.")
        if draft.tenant != account.tenant:
            raise refused(status, "business-rule", "The tenant of an account can't be changed.")

    def _check_clashes(self, draft: Draft, account: Account | None) -> None:
        others = [a for a in self._state.accounts.values() if account is None or a.id != account.id]
        if account is None and draft.login is not None:
            taken = {a.login.casefold() for a in others} | self._state.reserved_logins
            if draft.login.casefold() in taken:
                raise self._clash("A user with this login already exists.", "PractitionerRole.contained[0].extension")
        emails = {t["value"].casefold() for t in draft.practitioner.get("telecom", []) if t["system"] == "email"}
        if emails & self._state.reserved_emails or any(emails & a.emails for a in others):
            raise self._clash("A user with this e-mail already exists.", "PractitionerRole.contained[0].telecom")
        if draft.npi is not None and any(a.npi == draft.npi and a.tenant == draft.tenant for a in others):
            raise self._clash("This practitioner already exists in the tenant.", "PractitionerRole.practitioner")

    def _clash(self, text: str, place: str) -> Refused:
        return refused(self._switches.clash_status, "duplicate", text, location=[place])

    def _with_kept_numbers(self, practitioner: Json, account: Account) -> Json:
        if self._switches.omitted_account_numbers == "dropped":
            return practitioner
        sent = {_number_key(i) for i in practitioner["identifier"] if codes.is_account_number(i)}
        numbers = [i for i in account.practitioner["identifier"] if codes.is_account_number(i)]
        kept = [i for i in numbers if _number_key(i) not in sent]
        return {**practitioner, "identifier": [*practitioner["identifier"], *kept]}

    def _included(self, ask: Ask, role_ids: list[str], base_url: str) -> list[Json]:
        accounts = [self._state.accounts[role_id] for role_id in role_ids]
        found: dict[str, Json] = {}
        for value in ask.values("_include"):
            if value == "PractitionerRole:practitioner":
                if self._switches.role_practitioner != "contained":
                    found |= {f"Practitioner/{a.practitioner_id}": self._as_resource(a) for a in accounts}
            elif value in ("PractitionerRole:organization", "PractitionerRole:location"):
                for account in accounts:
                    references = account.role.get(value.partition(":")[2], [])
                    for one in references if isinstance(references, list) else [references]:
                        organization = self._state.organizations[codes.bare(one["reference"])]
                        found[f"Organization/{organization['id']}"] = organization
            else:
                raise refused(400, "invalid", "The _include is unknown.")
        return [entry(f"{base_url}/{path}", resource, mode="include") for path, resource in found.items()]


def _with_id(practitioner: Json, practitioner_id: str) -> Json:
    """The contained Practitioner with Health Gorilla's id as its first identifier."""
    others = [i for i in practitioner.get("identifier", []) if i.get("system") != codes.SYSTEM]
    return {**practitioner, "identifier": [{"system": codes.SYSTEM, "value": practitioner_id}, *others]}


def _number_key(identifier: Json) -> tuple[str, str]:
    return identifier["assigner"]["reference"], identifier["value"]


def _fits(account: Account, name: str, value: str) -> bool:
    role, practitioner = account.role, account.practitioner
    match name:
        case "practitioner":
            return account.practitioner_id in map(codes.bare, value.split(","))
        case "organization":
            return account.tenant in map(codes.bare, value.split(","))
        case "location":
            places = {codes.bare(one["reference"]) for one in role.get("location", [])}
            return not places.isdisjoint(map(codes.bare, value.split(",")))
        case "identifier":
            return token_matches(value, identifier_pairs(practitioner))
        case "email":
            return value.casefold() in account.emails
        case "role":
            return token_matches(value, coding_pairs(role["code"]))
        case "specialty" | "speciality":
            return token_matches(value, coding_pairs(role.get("specialty", [])))
        case "_tag" | "activated":
            tags = [(tag.get("system"), tag.get("code")) for tag in role["meta"].get("tag", [])]
            if name == "_tag":
                return token_matches(value, tags)
            return value == str((codes.SYSTEM, "VERIFIED") in tags).lower()
        case "_security":
            return False
        case _:
            return True
