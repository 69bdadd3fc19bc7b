"""Finds what a server would store but not run, before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bot_layer.bot.declaration import Bot
from bot_layer.deploy.rules.deployment import Wanted
from bot_layer.deploy.rules.server_limits import version_of

# Codes of FHIR R4 operations that Medplum implements itself, or that it denies to a bot from 5.1.23 on.
# https://hl7.org/fhir/R4/operationslist.html
SPECIFIED = frozenset(
    {
        *("apply", "assemble", "closure", "conforms", "convert", "data-requirements", "document", "everything"),
        *("evaluate", "evaluate-measure", "expand", "export", "find", "find-matches", "graph", "graphql", "implements"),
        *("lastn", "lookup", "match", "merge", "meta", "meta-add", "meta-delete", "populate", "preferred-id"),
        *("process-message", "purge", "questionnaire", "reindex", "snapshot", "stats", "submit", "subset"),
        *("subsumes", "transform", "translate", "validate", "validate-code", "versions"),
    }
)


@dataclass(frozen=True)
class Problem:
    """Something to fix. An ``error`` stops a deployment; a warning does not."""

    code: str
    text: str
    error: bool = True


def check(bots: Iterable[Bot], declared: Sequence[Wanted], *, version: str, features: Iterable[str]) -> list[Problem]:
    """Every problem of the bots and their operations on a server with this version and these project features."""
    given = frozenset(features)
    problems = [problem for bot in bots for problem in _bot_problems(bot, given)]
    operations = [each for each in declared if each.kind == "OperationDefinition"]
    problems += [problem for each in operations for problem in _operation_problems(each, version_of(version))]
    if "bots" not in given:
        problems.insert(0, Problem("no-bots-feature", "The project lacks the feature bots: no bot will run there."))
    return problems


def _bot_problems(bot: Bot, features: frozenset[str]) -> Iterator[Problem]:
    if bot.cron is not None and len(bot.cron.split()) != 5:
        yield Problem("invalid-cron", f"{bot.name}: Medplum runs a cron string of five fields only; it ignores others.")
    elif bot.cron is not None and "cron" not in features:
        yield Problem(
            "no-cron-feature",
            f"{bot.name}: the project lacks the feature cron, so Medplum will not run it on schedule; "
            "the host can (medplum-bots serve --cron).",
            error=False,
        )


def _operation_problems(operation: Wanted, version: tuple[int, ...]) -> Iterator[Problem]:
    code = operation.body.get("code", "")
    if code in SPECIFIED:
        known = bool(version) and version < (5, 1, 23)
        yield Problem(
            "shadowed-operation",
            f"${code} is an operation of FHIR itself: Medplum from 5.1.23 on does not run a bot for it. "
            "Give it another code.",
            error=not known,
        )
    outs = [parameter for parameter in operation.body.get("parameter", []) if parameter.get("use") == "out"]
    types = [out.get("type") for out in outs if out.get("name") == "return"]
    if len(outs) != 1 or types in ([], [None], ["Resource"], ["Any"]):
        yield Problem(
            "refused-output",
            f"${code} must have one out parameter, return of type Parameters: "
            "other outputs do not work on every version of Medplum.",
        )
    elif types != ["Parameters"]:
        yield Problem(
            "narrow-output",
            f"${code} returns a {types[0]}: before 2026-08 Medplum turns an answer of any other type, such as a "
            "refusal, into a 400.",
            error=False,
        )
