"""What a bot says of itself: enough to deploy it, to call it and to grant it no more than it needs."""

from __future__ import annotations

from dataclasses import dataclass

BOT_IDENTIFIER_SYSTEM = "https://www.medplum.com/integrations/bot-identifier"


@dataclass(frozen=True)
class Setting:
    """A project secret or environment variable that a bot reads. ``required`` ones are named together when missing."""

    name: str
    about: str
    required: bool = False
    default: str | None = None
    sensitive: bool = False


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
    """Rights on one resource type: ``read`` and ``search``; ``write`` adds ``create`` and ``update``."""

    resource_type: str
    write: bool = False
    delete: bool = False


@dataclass(frozen=True)
class Bot:
    """The declaration of a bot; ``name`` in kebab case is the stem of all its files in snake case.

    ``identifier`` is the value under ``https://www.medplum.com/integrations/bot-identifier``. ``cron`` has five fields.
    ``target`` is the type of the resource that a call is about, and ``parameter`` the name under which Parameters
    carry it.
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

    @property
    def stem(self) -> str:
        """The name of the bot's module, operation definition, fixtures and tests."""
        return self.name.replace("-", "_")

    @property
    def secret_names(self) -> frozenset[str]:
        """The only secrets that reach the handler."""
        return frozenset(setting.name for setting in self.settings)
