"""Finds AccessPolicies that let users other than administrators read Bots: whoever may read a Bot may call it."""

from __future__ import annotations

from collections.abc import Iterator

from bot_layer.deploy.project import tags
from bot_layer.fhir.json import Json
from bot_layer.findings import Finding, passed
from bot_layer.medplum.client import Medplum


def readable_bots(server: Medplum) -> Iterator[Finding]:
    """One finding for each such policy, by its reference, or one passed finding if there are none."""
    found = False
    for policy in server.search_all("AccessPolicy", [("_count", "200")]):
        if not tags(policy) and any(_shows_bots(rule) for rule in policy.get("resource", [])):
            found = True
            yield Finding(
                f"policy AccessPolicy/{policy['id']}",
                "warning",
                "bots-readable",
                "Everyone who has this policy may read, and so call, the bots. List the types that they need, without "
                "Bot and *, or set the bots' *_REQUESTERS.",
            )
    if not found:
        yield passed("policies", "Only the bots' own AccessPolicies let their holders read Bots.")


def _shows_bots(rule: Json) -> bool:
    reads = "interaction" not in rule or bool({"read", "search"} & set(rule["interaction"]))
    return rule.get("resourceType") in {"*", "Bot"} and reads
