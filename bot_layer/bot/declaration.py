"""What a bot declares: enough to deploy it, to call it and to grant it no more than it needs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from bot_layer.settings import Setting

__all__ = ["BOT_IDENTIFIER_SYSTEM", "Bot", "Grant", "Setting", "Watch"]

BOT_IDENTIFIER_SYSTEM = "https://www.medplum.com/integrations/bot-identifier"
_TYPE = re.compile(r"[A-Z][A-Za-z]+")


@dataclass(frozen=True)
class Watch:
    """A Subscription's criteria (``Practitioner?active=true``) and the interactions that run the bot.

    ``fhirpath`` is Medplum's extra filter on the change, with ``%previous`` and ``%current``.
    """

    criteria: str
    interactions: tuple[str, ...] = ("create", "update")
    fhirpath: str | None = None


@dataclass(frozen=True)
class Grant:
    """Rights on one resource type: ``read`` and ``search`` unless switched off, and each kind of write by its name.

    ``write`` stands for ``create`` and ``update``. https://www.medplum.com/docs/access/access-policies
    """

    resource_type: str
    write: bool = False
    create: bool = False
    update: bool = False
    delete: bool = False
    read: bool = True
    search: bool = True

    @property
    def interactions(self) -> tuple[str, ...]:
        """The interactions of an AccessPolicy."""
        granted = {
            "read": self.read,
            "search": self.search,
            "create": self.create or self.write,
            "update": self.update or self.write,
            "delete": self.delete,
        }
        return tuple(name for name, given in granted.items() if given)


@dataclass(frozen=True)
class Bot:
    """The declaration of a bot; ``name`` in kebab case is the stem of all its files in snake case.

    ``identifier`` is the value under ``https://www.medplum.com/integrations/bot-identifier``. ``cron`` has five fields.
    ``target`` is the type of the resource that a call is about, and ``parameter`` the name under which Parameters
    carry it. ``requesters`` is who may call the bot where ``requesters_setting`` is not set. ``operation_aliases`` are
    further codes under which the operation is deployed. ``types_setting`` is a setting that lists further resource
    types, joined by commas, which the bot may write and delete. A bot with ``opt_in`` is deployed only if it is named.
    """

    name: str
    identifier: str
    about: str
    target: str | None = None
    parameter: str | None = None
    settings: tuple[Setting, ...] = ()
    watches: tuple[Watch, ...] = ()
    grants: tuple[Grant, ...] = ()
    cron: str | None = None
    timeout: int = 60
    content_types: tuple[str, ...] = ()
    types_setting: str = ""
    opt_in: bool = False
    operation_aliases: tuple[str, ...] = ()
    requesters: str = "*"

    def __post_init__(self) -> None:
        """Adds the setting for who may call the bot: every bot has it."""
        unset = "everyone whom Medplum lets call it" if self.requesters == "*" else self.requesters or "nobody"
        about = f"Who may call {self.name}: references, types or *, separated by commas; unset means {unset}"
        names = {setting.name for setting in self.settings}
        if self.requesters_setting not in names:
            object.__setattr__(self, "settings", (*self.settings, Setting(self.requesters_setting, about)))

    @property
    def requesters_setting(self) -> str:
        """``REGISTER_PATIENT_REQUESTERS`` for the bot register-patient."""
        return f"{self.stem.upper()}_REQUESTERS"

    @property
    def stem(self) -> str:
        """The name of the bot's module, operation definition, fixtures and tests."""
        return self.name.replace("-", "_")

    @property
    def secret_names(self) -> frozenset[str]:
        """The only secrets that reach the handler."""
        return frozenset(setting.name for setting in self.settings)

    def granted(self, settings: Mapping[str, str]) -> tuple[Grant, ...]:
        """Every right of the bot where these settings hold."""
        named = (each.strip() for each in settings.get(self.types_setting, "").split(","))
        known = {grant.resource_type for grant in self.grants}
        more = sorted({each for each in named if _TYPE.fullmatch(each)} - known)
        return (*self.grants, *(Grant(each, write=True, delete=True) for each in more))
