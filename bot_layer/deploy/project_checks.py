"""The doctor's checks of a project: its features and quota, who may read the bots, and Agents that would stop."""

from __future__ import annotations

from collections.abc import Collection as Names
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

from bot_layer.bot.collection import Collection
from bot_layer.deploy.project import Project
from bot_layer.deploy.rules.deployment import tags_of
from bot_layer.errors import BotError
from bot_layer.fhir.json import Json
from bot_layer.findings import Finding, passed, skipped
from bot_layer.medplum.client import Medplum
from bot_layer.medplum.quota import read_rate_limit

_LOW_QUOTA = 5_000
_GUARANTEED = "guaranteed"


def features(project: Project, bots: Collection) -> Iterator[Finding]:
    """One finding for each feature of the project that these bots need."""
    needed = ["bots", "cron"] if any(each.bot.cron for each in bots) else ["bots"]
    for feature in needed:
        if feature in project.features:
            yield passed(f"feature {feature}", "The project has it.")
            continue
        text = f"The project lacks the feature {feature}: a super admin of the server can add it to Project.features."
        if feature == "bots":
            yield Finding("feature bots", "failed", "feature-missing", text)
        else:
            yield Finding("feature cron", "warning", "feature-missing", f"{text} Until then serve with --cron.")


def quota(server: Medplum) -> Finding:
    """The remaining quota of this minute, from the header ``RateLimit``."""
    try:
        answer = server.send("GET", "fhir/R4/Bot?_count=1", template="Bot")
    except BotError as error:
        return Finding("quota", "warning", error.code, error.message)
    limit = read_rate_limit(answer.headers.get("RateLimit", ""))
    if limit is None:
        return skipped("quota", "The server reports no quota.")
    left = limit[0]
    if left < _LOW_QUOTA:
        return Finding("quota", "warning", "quota-low", f"{left} units are left in this minute: a write costs 100.")
    return passed("quota", f"{left} units are left in this minute.")


def readable_bots(server: Medplum) -> Iterator[Finding]:
    """One finding for each AccessPolicy that lets others than administrators read Bots, or one passed finding.

    Whoever may read a Bot may call it.
    """
    found = False
    for policy in server.search_all("AccessPolicy", [("_count", "200")]):
        if not tags_of(policy) and any(_shows_bots(rule) for rule in policy.get("resource", [])):
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


def stopping_agents(server: Medplum, bots: Names[str]) -> Iterator[Finding]:
    """One finding for each Agent before one of these bots (``Bot/ID``) whose durable queue repeats after ``AE``.

    It repeats the message without end, and so stops its channel.
    https://www.medplum.com/docs/agent/high-throughput-hl7
    """
    for agent in server.search_all("Agent", [("_count", "200")]):
        settings = {
            each.get("name"): next((value for name, value in each.items() if name.startswith("value")), None)
            for each in agent.get("setting", [])
        }
        if settings.get("durableQueue") is not True:
            continue
        default = str(settings.get("channelRetryMode") or _GUARANTEED)
        channels = [each for each in agent.get("channel", []) if _referenced(each, "targetReference") in bots]
        if any(_retry_mode(server, each, default) == _GUARANTEED for each in channels):
            yield Finding(
                f"agent Agent/{agent['id']}",
                "warning",
                "agent-repeats-errors",
                "Its durable queue repeats a message after AE without end and holds back all later ones: set "
                "channelRetryMode to normal, or switch durableQueue off.",
            )


def _retry_mode(server: Medplum, channel: Json, default: str) -> str:
    """The retry mode of a channel: its Endpoint's address wins over the Agent's setting."""
    endpoint = server.find(_referenced(channel, "endpoint")) or {}
    return parse_qs(urlsplit(str(endpoint.get("address", ""))).query).get("retryMode", [default])[0].lower()


def _referenced(channel: Json, name: str) -> str:
    return str((channel.get(name) or {}).get("reference", ""))
