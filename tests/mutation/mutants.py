"""The mutants. To add one, add a line: the text as it stands in the file (once), the faulty text, and what it means.

``survives`` explains why no test can fail on a mutant, for one that changes nothing a caller can see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Rules:
    """A module of pure rules, the laws that must kill its mutants, and its other tests, which are asked second."""

    path: str
    laws: tuple[str, ...]
    tests: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mutant:
    """One fault."""

    rules: Rules
    old: str
    new: str
    about: str
    survives: str = ""


NAMES: Final = Rules(
    "bot_layer/health_gorilla/rules/names.py",
    ("tests/laws/test_names.py",),
    ("tests/health_gorilla/rules/test_names.py",),
)
IDENTIFIERS: Final = Rules(
    "bot_layer/fhir/identifiers.py", ("tests/laws/test_identifiers.py",), ("tests/fhir/test_identifiers.py",)
)
PERIODS: Final = Rules("bot_layer/fhir/periods.py", ("tests/laws/test_periods.py",), ("tests/fhir/test_periods.py",))
REFERENCES: Final = Rules(
    "bot_layer/bulk_sync/rules/references.py",
    ("tests/laws/test_sync_laws.py",),
    ("tests/bulk_sync/rules/test_references.py",),
)
UPSERT: Final = Rules(
    "bot_layer/bulk_sync/rules/upsert.py",
    ("tests/laws/test_sync_laws.py",),
    ("tests/bulk_sync/rules/test_upsert.py",),
)


def _of(rules: Rules, *faults: tuple[str, str, str] | tuple[str, str, str, str]) -> list[Mutant]:
    return [Mutant(rules, *fault) for fault in faults]


MUTANTS: Final[Sequence[Mutant]] = (
    *_of(
        NAMES,
        ("if any(wanted_given in _given_forms(name) for name in same_family):", "if True:", "given never compared"),
        (
            "if any(wanted_given in _given_forms(name) for name in same_family):",
            "if any(g in _given_forms(name) for name in same_family for g in _given(directory_name)):",
            "any given name of the directory accepted",
        ),
        (
            "if any(wanted_given in _given_forms(name) for name in same_family):",
            "if any(wanted_given in _given_forms(name) for name in complete):",
            "given of a name with another family accepted",
        ),
        (
            "if any(wanted_given in _given_forms(name) for name in same_family):",
            "if all(wanted_given in _given_forms(name) for name in same_family):",
            "every name must match",
        ),
        ("*given, *words}", "*given}", "single given words not accepted"),
        (
            '{ComparableName(" ".join(filter(None, given))), *given, *words}',
            "{*given, *words}",
            "whole given not accepted",
        ),
        ("given[0] if given", "given[-1] if given", "the directory's last given name compared"),
        ('if comparable(name.get("family")) == wanted_family]', "]", "family never compared"),
        ("text).casefold())", "text))", "case counts"),
        (
            'unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())',
            "text.casefold()",
            "composed and decomposed letters differ",
        ),
        ('ComparableName(" ".join(folded.split()))', "ComparableName(folded)", "white space counts"),
        ("if not wanted_family or not wanted_given:", "if False:", "an empty directory name is compared"),
        ("if not complete:", "if False:", "an incomplete name is not reported as missing"),
        (
            ' - {ComparableName("")})',
            ")",
            "an empty given name counts",
        ),
        (
            '_FORMER = frozenset({"old", "maiden"})',
            "_FORMER = frozenset({'old'})",
            "a maiden name is the directory's name",
        ),
        ("return is_former, is_incomplete,", "return is_incomplete, is_former,", "completeness before force"),
        ('or (isinstance(period, dict) and bool(period.get("end")))', "", "an ended name is the directory's name"),
        (
            '_USES = {"official": 0, "usual": 1, None: 2}',
            '_USES = {"official": 1, "usual": 0, None: 2}',
            "usual before official",
        ),
    ),
    *_of(
        IDENTIFIERS,
        (
            'system = "" if named in {"AN", "PRN"} else str(identifier.get("system") or "")',
            'system = ""',
            "key without system",
        ),
        ('named in {"AN", "PRN"}', 'named in {"AN"}', "PRN compared by system"),
        ('named in {"AN", "PRN"}', 'named in {"PRN"}', "AN compared by system"),
        (
            "return IdentifierKey((named, system, organization, value.strip()))",
            'return IdentifierKey(("", system, organization, value.strip()))',
            "key without type",
        ),
        (
            "return IdentifierKey((named, system, organization, value.strip()))",
            'return IdentifierKey((named, system, "", value.strip()))',
            "key without assigner",
        ),
        (
            "return IdentifierKey((named, system, organization, value.strip()))",
            "return IdentifierKey((named, system, organization, value))",
            "white space in a value counts",
        ),
        ('.partition("/_history/")[0]', "", "the version of an assigner counts"),
        ('.rpartition("/")[2]', "", "the form of an assigner's reference counts"),
        (
            'IdentifierKey((named, NPI_SYSTEM, "", value.strip()))',
            'IdentifierKey((named, str(identifier.get("system")), "", value.strip()))',
            "an NPI compared by system",
        ),
        (
            '_NPI_SYSTEMS = frozenset({"hl7.org/fhir/sid/us-npi", "2.16.840.1.113883.4.6"})',
            '_NPI_SYSTEMS = frozenset({"hl7.org/fhir/sid/us-npi"})',
            "an NPI under its OID is none",
        ),
        (
            "merged[places[found]] = {**identifier, **merged[places[found]]}",
            "merged[places[found]] = {**merged[places[found]], **identifier}",
            "the source overwrites the target",
        ),
        ("merged[places[found]] = {**identifier, **merged[places[found]]}", "pass", "the source's elements are lost"),
        (
            "if place >= len(target) and identifier in valueless:",
            "if identifier in valueless:",
            "the target's own valueless identifiers are lost",
        ),
        ("valueless.remove(identifier)", "pass", "valueless identifiers collapse"),
        (
            "return next((code for code in coded if code in DISPLAYS), coded[0])",
            "return coded[0]",
            "the first coding decides",
        ),
        ("return len(value) == 10 and value.isascii()", "return value.isascii()", "an NPI of any length"),
        ('and _luhn(f"80840{value}") == 0', "", "no check digit"),
        ('_luhn(f"80840{value}")', "_luhn(value)", "check digit without the prefix"),
        ('if found.get("use") != "old")', ")", "identifiers of use old count"),
    ),
    *_of(
        PERIODS,
        ('if element.get("use") == "old":', "if False:", "use old is in force"),
        ("valid[0] <= now < valid[1]", "now < valid[1]", "what has not begun is in force"),
        ("valid[0] <= now < valid[1]", "valid[0] <= now", "what is over is in force"),
        ("end[1] if end else _LAST", "end[0] if end else _LAST", "the last day is left out"),
        ("start[0] if start else _FIRST", "start[1] if start else _FIRST", "the first day is left out"),
        ("return start, start + timedelta(days=1)", "return start, start + timedelta(days=2)", "a day is two days"),
    ),
    *_of(
        REFERENCES,
        ("if key in known:\n", "if key not in known:\n", "known targets become logical"),
        ("unresolved.add(key)", "pass", "unresolved targets are not reported"),
        ("if key is None or key not in known", "if key is None or key in known", "what is known is not repaired"),
        ('(?:/_history/[A-Za-z0-9\\-.]{1,64})?")', '")', "a versioned reference is left alone"),
        ("relative = reference.removeprefix(prefix)", "relative = reference", "an absolute reference is left alone"),
        ('{"reference": f"{key.type}/{known[key]}"}', '{"reference": f"{key.type}/{key.id}"}', "the source's id stays"),
        ("system != id_system(kind)", "False", "any identifier of ours counts, whatever its type"),
        ("if kept:\n", "if False:\n", "the source's own identifier in a reference is lost"),
        ("if others:\n", "if False:\n", "other extensions of a repaired reference are lost"),
    ),
    *_of(
        UPSERT,
        ("if name not in SERVER_META}", "if name in SERVER_META}", "in turned round: only the server's meta compared"),
        (
            "if token(name, item) not in taken and",
            "if token(name, item) in taken and",
            "in turned round: local entries",
        ),
        (
            'if each not in (None, "", [], {})}',
            'if each in (None, "", [], {})}',
            "in turned round: only empty members compared",
        ),
        (
            'if each not in (None, "", [], {})]',
            'if each in (None, "", [], {})]',
            "in turned round: only empty items compared",
        ),
        ("and each.key in former:", "and each.key not in former:", "in turned round: former ids"),
        ("| owned\n", "\n", "what the source no longer sends stays"),
        (
            "elif not brought_by(there.resource, each.key, source):",
            "elif False:",
            "another source's resource is overwritten",
        ),
        ('elif there.edited and policy != "source":', "elif False:", "edits are never kept"),
        ('elif there.edited and policy != "source":', 'elif policy != "source":', "every change is taken for an edit"),
        ("if comparable(wanted) == comparable(there.resource):", "if False:", "what is equal is written again"),
        ("and not _ours(item)", "", "an identifier of ours is kept as if it were local"),
        ('return {**body, "id": there.id, "meta": meta}', 'return {**body, "meta": meta}', "Medplum's id is lost"),
        ("overwrites_edit=there.edited", "overwrites_edit=False", "an overwritten edit is not reported"),
    ),
)
