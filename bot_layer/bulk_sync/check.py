"""Checks the connection to Practice Fusion: login and Groups of each practice; nothing is written or exported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from bot_layer.bulk_sync.rules.practices import read_every
from bot_layer.bulk_sync.rules.settings import SyncSettings
from bot_layer.bulk_sync.source.client import PracticeFusion
from bot_layer.errors import BotError, ConfigError
from bot_layer.findings import Finding, passed

_MOST_MEMBERS: Final = 1000  # docs/practice-fusion.md


def check(values: Mapping[str, str]) -> Iterator[Finding]:
    """The findings about each practice's login and Groups. Checks that depend on a failed one are skipped."""
    for name, settings in read_every(values).items():
        label = f"Practice Fusion {name}".strip()
        if isinstance(settings, ConfigError):
            yield Finding(f"{label} settings", "failed", settings.code, settings.message)
            continue
        source = PracticeFusion(settings, wait=lambda _seconds: None, tries=1)
        try:
            source.login.token()
        except BotError as error:
            advice = "Check the address, the client id, its key or secret, and that the practice authorized the app."
            yield Finding(f"{label} login", "failed", error.code, f"{error.message} {advice}")
            continue
        yield passed(f"{label} login", "Practice Fusion accepts the login.")
        yield from _groups(label, settings, source)


def _groups(label: str, settings: SyncSettings, source: PracticeFusion) -> Iterator[Finding]:
    if not settings.group_ids:
        text = "Practice Fusion exports a Group of patients: set PF_GROUP_ID to its id."
        yield Finding(f"{label} Group", "warning", "no-group", text)
    for number, group_id in enumerate(settings.group_ids, start=1):
        name = f"{label} Group" if len(settings.group_ids) == 1 else f"{label} Group {number}"
        try:
            members = source.records.group(group_id)
        except BotError as error:
            yield Finding(name, "failed", error.code, f"{error.message} Run the doctor again later.")
            continue
        if members is None:
            text = "The Group can't be read: check PF_GROUP_ID, and that the app was granted system/Group.read."
            yield Finding(name, "failed", "group-unreadable", text)
        elif not members.patients and not members.groups:
            text = "The Group has no members, so nothing is exported: add the patients to it in Practice Fusion."
            yield Finding(name, "warning", "group-empty", text)
        elif len(members.patients) > _MOST_MEMBERS:
            text = f"The Group has more than {_MOST_MEMBERS} patients, and Practice Fusion exports no more: split it."
            yield Finding(name, "warning", "group-too-large", text)
        else:
            yield passed(name, f"The Group can be read and has {len(members.patients)} patients.")
