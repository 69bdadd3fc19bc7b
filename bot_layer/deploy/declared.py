"""The resources that a server should have according to the bots' declarations."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from bot_layer.bot.collection import Collection
from bot_layer.bot.declaration import BOT_IDENTIFIER_SYSTEM, Bot, Watch
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
    found = []
    for handler in bots:
        collection = bots.origins.get(handler.bot.name, "")
        for wanted in _of(handler, runtime, settings):
            # A ProjectMembership has no tags.
            tag = {"collection": collection} if collection and wanted.kind != "ProjectMembership" else {}
            found.append(replace(wanted, body=wanted.body | tag, collection=collection))
    return found


def relay_code(bot: Bot) -> str:
    """The JavaScript relay for a bot on a server that can't reach the host itself."""
    return f'const BOT_NAME = "{bot.name}";\n{RELAY.read_text(encoding="utf-8")}'


def digest(code: str) -> str:
    """A digest that represents a bot's code in a plan."""
    return f"sha256:{hashlib.sha256(code.encode()).hexdigest()[:16]}"


def declared_policy(bot: Bot, settings: Mapping[str, str]) -> Json:
    """The access policy of a bot (https://www.medplum.com/docs/access/access-policies).

    It grants what the bot declares; its own Bot, which the host reads to verify its tokens; and its own Subscriptions,
    which the host reads before it trusts an event.
    """
    rules: list[Json] = [
        {"resourceType": grant.resource_type, "interaction": list(grant.interactions)}
        for grant in bot.granted(settings)
    ]
    own = {"Bot": f"identifier={BOT_IDENTIFIER_SYSTEM}|{bot.identifier}"}
    if keys := _subscriptions(bot):
        own["Subscription"] = "_tag=" + ",".join(f"{TAG_SYSTEM}|{key}" for key in keys)
    for kind, query in own.items():
        rules.append({"resourceType": kind, "criteria": f"{kind}?{query}", "interaction": ["read"]})
    return {"name": f"Bot {bot.name}", "resource": rules}


def _of(handler: Handler, runtime: str, settings: Mapping[str, str]) -> list[Wanted]:
    bot = handler.bot
    tag = {"tag": [bot.identifier]}
    policy = {"reference": symbol("AccessPolicy", bot.identifier)}
    return [
        Wanted("AccessPolicy", bot.identifier, declared_policy(bot, settings) | tag),
        Wanted("Bot", bot.identifier, _bot(bot, runtime) | tag),
        Wanted("ProjectMembership", bot.identifier, {"accessPolicy": policy}),
        *(Wanted("OperationDefinition", each["url"], each | tag) for each in _operations(bot, handler.operation)),
        *(
            Wanted("Subscription", key, _subscription(bot, watch, interaction) | {"tag": [key]})
            for key, (watch, interaction) in _subscriptions(bot).items()
        ),
    ]


def _bot(bot: Bot, runtime: str) -> Json:
    body: Json = {
        "name": bot.name,
        "description": bot.about,
        "runtimeVersion": RUNTIMES[runtime],
        "timeout": bot.timeout,
        "identifier": [{"system": BOT_IDENTIFIER_SYSTEM, "value": bot.identifier}],
    }
    if runtime == "lambda":
        body["identifier"].append({"system": EXTERNAL_FUNCTION, "value": f"medplum-bot-{bot.name}"})
    if bot.cron:
        body["cronString"] = bot.cron
    if runtime == "relay":
        body["code"] = digest(relay_code(bot))
    return body


def _operations(bot: Bot, operation: Json | None) -> list[Json]:
    """The OperationDefinition of the bot, and one for each other code that it supports."""
    if operation is None:
        return []
    implementation = {"url": IMPLEMENTATION, "valueReference": {"reference": symbol("Bot", bot.identifier)}}
    body = {name: value for name, value in operation.items() if name not in {"resourceType", "id", "meta"}}
    body["extension"] = [implementation]
    aliases = [
        {
            **body,
            "url": f"{body['url'].rpartition('/')[0]}/{code}",
            "name": "".join(word.capitalize() for word in code.split("-")),
            "code": code,
        }
        for code in bot.operation_aliases
    ]
    return [body, *aliases]


def _subscriptions(bot: Bot) -> dict[str, tuple[Watch, str]]:
    """What each Subscription of the bot watches, and for which interaction, by the Subscription's key.

    There is one for each interaction: only the first interaction extension of a Subscription counts.
    """
    return {
        f"{bot.identifier}.{number}.{interaction}": (watch, interaction)
        for number, watch in enumerate(bot.watches, start=1)
        for interaction in watch.interactions
    }


def _subscription(bot: Bot, watch: Watch, interaction: str) -> Json:
    extensions: list[Json] = [{"url": INTERACTION, "valueCode": interaction}]
    if watch.fhirpath:
        extensions.append({"url": FHIRPATH, "valueString": watch.fhirpath})
    return {
        "status": "active",
        "reason": f"Runs the bot {bot.name} on {interaction}",
        "criteria": watch.criteria,
        "channel": {"type": "rest-hook", "endpoint": symbol("Bot", bot.identifier)},
        "extension": extensions,
    }
