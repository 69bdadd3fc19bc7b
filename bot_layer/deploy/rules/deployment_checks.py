"""Finds what a server would store but not run, before anything is written; and what does not work on its version."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from bot_layer.bot.declaration import Bot
from bot_layer.deploy.rules.deployment import Wanted

OLDEST: Final = (5, 0, 10)  # the oldest version that the bots were tested on
_LATEST: Final = (10**6,)
# What does not work, or works differently, from a version (inclusive) to another one (exclusive). Sources: the release
# notes, https://www.medplum.com/docs/self-hosting/upgrading-server, and observations.
_LIMITS: Final = (
    ((), OLDEST, "The bots were tried on 5.0.10 and later."),
    # https://github.com/medplum/medplum/pull/8258
    ((), (5, 0, 13), "Operations on the whole system are not found; call them on a type, or by $execute."),
    # https://github.com/medplum/medplum/pull/8477
    ((5, 1), _LATEST, "A call on one resource loses its parameters; send them to the operation on the type."),
    ((), (5, 1, 22), "An AuditEvent says success of a run that failed; look at medplum-bots runs."),
    ((5, 1, 22), _LATEST, "The refusal of an unknown or foreign call reaches its caller as HTTP 400."),
    ((5, 1, 23), _LATEST, "An operation with a code of FHIR's own (find, match, submit) is not found."),
    ((5, 1, 13, 1), _LATEST, "The bots were tried on 5.1.13 and earlier; try this one in a test project."),
)
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


def version_of(text: str) -> tuple[int, ...]:
    """The numbers of a server's version: ``5.0.10-6a4145c`` is (5, 0, 10); empty if there are none."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def limits_of(version: str) -> list[str]:
    """One sentence for each limit of that version."""
    number = version_of(version)
    return [text for first, end, text in _LIMITS if first <= number < end]


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
