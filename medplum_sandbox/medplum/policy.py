"""What a membership may do: Medplum's access policies (https://www.medplum.com/docs/access/access-policies).

Without a policy of its own a membership may do everything, except with the types that only a project's administrator
sees.
"""

from __future__ import annotations

import re

from medplum_sandbox.json import Json
from medplum_sandbox.medplum.world import Actor, Scope

_SCOPE = re.compile(r"(patient|user|system)/(\w+|\*)\.(read|write|c?r?u?d?s?|\*)")
READS = frozenset({"read", "vread", "search", "history"})
_PROTECTED = frozenset(
    {"DomainConfiguration", "JsonWebKey", "Login", "Project", "ProjectMembership", "User", "UserSecurityRequest"}
)
_EVERYTHING: tuple[Json, ...] = (
    {"resourceType": "*"},
    {"resourceType": "SearchParameter", "readonly": True},
    {"resourceType": "StructureDefinition", "readonly": True},
)


def policy_of(actor: Actor) -> Json:
    """The policy that holds for the actor, as ``/auth/me`` shows it."""
    own = actor.policy
    rules: list[Json] = list(own.get("resource", ())) if own else list(_EVERYTHING)
    if actor.scopes:
        rules = _within_scopes(rules, actor)
    if actor.admin:
        rules += _for_administrators(actor.project)
    based_on = [{"reference": f"AccessPolicy/{own['id']}"}] if own else []
    return {"resourceType": "AccessPolicy", "basedOn": based_on, "resource": rules}


def scopes_of(text: str) -> tuple[Scope, ...]:
    """The SMART scopes of a token (https://hl7.org/fhir/smart-app-launch/scopes-and-launch-context.html)."""
    found = []
    for word in text.split():
        head, _, criteria = word.partition("?")
        match = _SCOPE.fullmatch(head)
        if match:
            actions = {"*": "cruds", "read": "rs", "write": "cud"}.get(match[3], match[3])
            found.append(Scope(match[2], actions, match[1] == "patient", criteria or None))
    return tuple(found)


def rules_for(actor: Actor, resource_type: str, interaction: str) -> list[Json]:
    """The rules that allow an interaction with a type; none where it is forbidden."""
    rules: list[Json] = policy_of(actor)["resource"]
    exact = [r for r in rules if r["resourceType"] == resource_type]
    if not exact and resource_type not in _PROTECTED:
        exact = [r for r in rules if r["resourceType"] == "*"]
    return [_bound(r, actor) for r in exact if _allows(r, interaction)]


def hidden_fields(actor: Actor, resource_type: str) -> list[str]:
    """The elements that the actor must not see."""
    return [name for rule in rules_for(actor, resource_type, "read") for name in rule.get("hiddenFields", ())]


def readonly_fields(actor: Actor, resource_type: str) -> list[str]:
    """The elements that the actor cannot change."""
    rules = rules_for(actor, resource_type, "update")
    return [name for rule in rules for name in (*rule.get("readonlyFields", ()), *rule.get("hiddenFields", ()))]


def _within_scopes(rules: list[Json], actor: Actor) -> list[Json]:
    """The rules as far as the scopes reach: a rule for every type becomes one for each type of a scope."""
    found = []
    by_type = {scope.resource_type: scope for scope in reversed(actor.scopes)}
    for rule in rules:
        scope = by_type.get(rule["resourceType"]) or by_type.get("*")
        if scope is not None:
            found.append(_limited(rule, scope, actor))
        elif rule["resourceType"] == "*":
            found += [{**_limited(rule, one, actor), "resourceType": one.resource_type} for one in actor.scopes]
    return found


def _limited(rule: Json, scope: Scope, actor: Actor) -> Json:
    """A rule within a scope. The server tells reading from writing, and no finer."""
    limited = {**rule, "readonly": True} if scope.actions and set(scope.actions) <= {"r", "s"} else {**rule}
    profile: str = actor.reference["reference"]
    compartment = f"_compartment={profile}" if scope.patient and profile.startswith("Patient/") else None
    for criteria in (scope.criteria, compartment):
        if criteria:
            kind = scope.resource_type if rule["resourceType"] == "*" else rule["resourceType"]
            known = limited.get("criteria")
            limited["criteria"] = f"{known}&{criteria}" if known else f"{kind}?{criteria}"
    return limited


def _allows(rule: Json, interaction: str) -> bool:
    if "interaction" in rule:
        return interaction in rule["interaction"]
    return not rule.get("readonly") or interaction in READS


def _bound(rule: Json, actor: Actor) -> Json:
    """The rule with ``%profile`` filled in."""
    criteria = rule.get("criteria")
    if not criteria or "%profile" not in criteria:
        return rule
    reference: str = actor.reference["reference"]
    filled = criteria.replace("%profile.id", reference.partition("/")[2]).replace("%profile", reference)
    return {**rule, "criteria": filled}


def _for_administrators(project: str) -> list[Json]:
    return [
        {
            "resourceType": "Project",
            "criteria": f"Project?_id={project}",
            "readonlyFields": ["features", "link", "systemSetting"],
            "hiddenFields": ["superAdmin", "systemSecret", "strictMode"],
        },
        {"resourceType": "ProjectMembership", "readonlyFields": ["project", "user"]},
        {"resourceType": "UserSecurityRequest", "readonly": True},
        {
            "resourceType": "User",
            "hiddenFields": ["passwordHash", "mfaSecret"],
            "readonlyFields": ["email", "emailVerified", "mfaEnrolled", "project"],
        },
    ]
