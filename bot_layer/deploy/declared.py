"""The resources that a server should have according to the bots' declarations."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from bot_layer.bot.collection import Collection
from bot_layer.bot.declaration import BOT_IDENTIFIER_SYSTEM, Bot, Grant, Watch
from bot_layer.bot.handler import Handler
from bot_layer.deploy.rules.deployment import IMPLEMENTATION, TAG_SYSTEM, Wanted, symbol
from bot_layer.fhir.json import Json

INTERACTION = "https://medplum.com/fhir/StructureDefinition/subscription-supported-interaction"
FHIRPATH = "https://medplum.com/fhir/StructureDefinition/fhir-path-criteria-expression"
EXTERNAL_FUNCTION = "https://medplum.com/bot-external-function-id"
RUNTIMES: Mapping[str, str] = {"fission": "fission", "relay": "vmcontext", "lambda": "awslambda"}
RELAY = Path(__file__).resolve().parent.parent / "host" / "relay.js"

NO_SETTINGS: Mapping[str, str] = MappingProxyType({})


def declared(bots: Collection, *, runtime: str = "fission", settings: Mapping[str, str] = NO_SETTINGS) -> list[Wanted]:
    """Every resource of the bots, in the order of the bots. ``settings`` are the project's settings by name."""
    return [
        _labeled(wanted, bots.origins.get(handler.bot.name, ""))
        for handler in bots
        for wanted in _of(handler, runtime, settings)
    ]


def relay_code(bot: Bot) -> str:
    """The JavaScript relay for a bot on a server that can't reach the host itself."""
    return f'const BOT_NAME = "{bot.name}";\n{RELAY.read_text(encoding="utf-8")}'


def function_name(bot: Bot) -> str:
    """The name of a bot's AWS Lambda function."""
    return f"medplum-bot-{bot.name}"


def digest(code: str) -> str:
    """A digest that represents a bot's code in a plan."""
    return f"sha256:{hashlib.sha256(code.encode()).hexdigest()[:16]}"


def _labeled(wanted: Wanted, collection: str) -> Wanted:
    """The resource tagged with the name of its collection; a ProjectMembership has no tags."""
    label = {"collection": collection} if collection and wanted.kind != "ProjectMembership" else {}
    return replace(wanted, body=wanted.body | label, collection=collection)


def _of(handler: Handler, runtime: str, settings: Mapping[str, str]) -> list[Wanted]:
    bot, operation = handler.bot, handler.operation
    found = [
        _policy(bot, settings),
        _bot(bot, runtime),
        Wanted(
            "ProjectMembership",
            bot.identifier,
            {"accessPolicy": {"reference": symbol("AccessPolicy", bot.identifier)}},
        ),
    ]
    if operation is not None:
        found += [_operation(bot, each) for each in _operations(bot, operation)]
    for number, watch in enumerate(bot.watches, start=1):
        found += [_subscription(bot, watch, number, interaction) for interaction in watch.interactions]
    return found


def _bot(bot: Bot, runtime: str) -> Wanted:
    identifiers = [{"system": BOT_IDENTIFIER_SYSTEM, "value": bot.identifier}]
    if runtime == "lambda":
        identifiers.append({"system": EXTERNAL_FUNCTION, "value": function_name(bot)})
    body: Json = {
        "name": bot.name,
        "description": bot.about,
        "runtimeVersion": RUNTIMES[runtime],
        "timeout": bot.timeout,
        "identifier": identifiers,
        "tag": [bot.identifier],
    }
    if bot.cron:
        body["cronString"] = bot.cron
    if runtime == "relay":
        body["code"] = digest(relay_code(bot))
    return Wanted("Bot", bot.identifier, body)


def declared_policy(bot: Bot, settings: Mapping[str, str]) -> Json:
    """The access policy of a bot: only what the bot declares, and its own Bot, which the host needs to verify its
    tokens."""
    own = {
        "resourceType": "Bot",
        "criteria": f"Bot?identifier={BOT_IDENTIFIER_SYSTEM}|{bot.identifier}",
        "interaction": ["read"],
    }
    rules = [*(_rule(grant) for grant in bot.granted(settings)), own, *_own_subscriptions(bot)]
    return {"name": f"Bot {bot.name}", "resource": rules}


def _policy(bot: Bot, settings: Mapping[str, str]) -> Wanted:
    """Only what the bot declares, and its own Bot, which the host needs to identify a token's profile."""
    return Wanted("AccessPolicy", bot.identifier, declared_policy(bot, settings) | {"tag": [bot.identifier]})


def _own_subscriptions(bot: Bot) -> list[Json]:
    """The right to read the bot's own Subscriptions, which the host reads before it trusts an event."""
    keys = [_key(bot, number, each) for number, watch in enumerate(bot.watches, start=1) for each in watch.interactions]
    if not keys:
        return []
    criteria = "Subscription?_tag=" + ",".join(f"{TAG_SYSTEM}|{key}" for key in keys)
    return [{"resourceType": "Subscription", "criteria": criteria, "interaction": ["read"]}]


def _rule(grant: Grant) -> Json:
    """https://www.medplum.com/docs/access/access-policies"""
    return {"resourceType": grant.resource_type, "interaction": list(grant.interactions)}


def _operations(bot: Bot, operation: Json) -> list[Json]:
    """The OperationDefinition of the bot, and one for each other code that it supports."""
    aliases = [
        {
            **operation,
            "url": f"{operation['url'].rpartition('/')[0]}/{code}",
            "name": "".join(word.capitalize() for word in code.split("-")),
            "code": code,
        }
        for code in bot.operation_aliases
    ]
    return [operation, *aliases]


def _operation(bot: Bot, operation: Json) -> Wanted:
    body = {name: value for name, value in operation.items() if name not in {"resourceType", "id", "meta"}}
    implementation = {"url": IMPLEMENTATION, "valueReference": {"reference": symbol("Bot", bot.identifier)}}
    return Wanted(
        "OperationDefinition",
        operation["url"],
        body | {"extension": [implementation], "tag": [bot.identifier]},
    )


def _key(bot: Bot, number: int, interaction: str) -> str:
    return f"{bot.identifier}.{number}.{interaction}"


def _subscription(bot: Bot, watch: Watch, number: int, interaction: str) -> Wanted:
    """One for each interaction: only the first interaction extension of a Subscription counts."""
    key = _key(bot, number, interaction)
    extensions: list[Json] = [{"url": INTERACTION, "valueCode": interaction}]
    if watch.fhirpath:
        extensions.append({"url": FHIRPATH, "valueString": watch.fhirpath})
    body: Json = {
        "status": "active",
        "reason": f"Runs the bot {bot.name} on {interaction}",
        "criteria": watch.criteria,
        "channel": {"type": "rest-hook", "endpoint": symbol("Bot", bot.identifier)},
        "extension": extensions,
        "tag": [key],
    }
    return Wanted("Subscription", key, body)
