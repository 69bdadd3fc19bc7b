"""Finds Medplum Agents whose durable queue repeats a message after an ``AE`` without end, and so stops its channel.

https://www.medplum.com/docs/agent/high-throughput-hl7
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

from bot_layer.fhir.json import Json
from bot_layer.findings import Finding
from bot_layer.medplum.client import Medplum

_GUARANTEED = "guaranteed"


def stopping_agents(server: Medplum, bots: Collection[str]) -> Iterator[Finding]:
    """One finding for each Agent with such a queue before one of these bots, ``Bot/ID``."""
    for agent in server.search_all("Agent", [("_count", "200")]):
        settings = {each.get("name"): _value(each) for each in agent.get("setting", [])}
        if settings.get("durableQueue") is not True:
            continue
        channels = [each for each in agent.get("channel", []) if _target(each) in bots]
        default = settings.get("channelRetryMode") or _GUARANTEED
        if any(_mode(server, each, default) == _GUARANTEED for each in channels):
            yield Finding(
                f"agent Agent/{agent['id']}",
                "warning",
                "agent-repeats-errors",
                "Its durable queue repeats a message after AE without end and holds back all later ones: set "
                "channelRetryMode to normal, or switch durableQueue off.",
            )


def _value(setting: Json) -> Any:
    return next((value for name, value in setting.items() if name.startswith("value")), None)


def _target(channel: Json) -> str:
    return str((channel.get("targetReference") or {}).get("reference", ""))


def _mode(server: Medplum, channel: Json, default: str) -> str:
    """The retry mode of a channel: its Endpoint's address wins over the Agent's setting."""
    endpoint = server.find(str((channel.get("endpoint") or {}).get("reference", ""))) or {}
    return parse_qs(urlsplit(str(endpoint.get("address", ""))).query).get("retryMode", [default])[0].lower()
