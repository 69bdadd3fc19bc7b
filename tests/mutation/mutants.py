"""The mutants. To add one, add a line: the text exactly as in the file (once), the faulty text, and what it means.

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
FOLDING: Final = Rules(
    "bot_layer/fhir/demographics.py", ("tests/laws/test_names.py",), ("tests/health_gorilla/rules/test_names.py",)
)
IDENTIFIERS: Final = Rules(
    "bot_layer/fhir/identifiers.py", ("tests/laws/test_identifiers.py",), ("tests/fhir/test_identifiers.py",)
)
PERIODS: Final = Rules(
    "bot_layer/fhir/periods.py",
    ("tests/laws/test_periods.py",),
    ("tests/fhir/test_periods.py", "tests/patient_registration/rules/test_disclosure.py"),
)
CONSENTS: Final = Rules(
    "bot_layer/patient_registration/rules/disclosure.py",
    ("tests/laws/test_patient_laws.py",),
    ("tests/patient_registration/rules/test_disclosure.py",),
)
LABELS: Final = Rules(
    "bot_layer/fhir/security_labels.py",
    ("tests/laws/test_patient_laws.py",),
    ("tests/patient_registration/rules/test_disclosure.py", "tests/federation/rules/test_rules.py"),
)
SAME_PERSON: Final = Rules(
    "bot_layer/patient_registration/rules/same_person.py",
    (),
    ("tests/patient_registration/rules/test_same_person.py", "tests/patient_registration/rules/test_registration.py"),
)
INDEX: Final = Rules(
    "bot_layer/patient_registration/rules/index_patient.py",
    ("tests/laws/test_registration_laws.py", "tests/laws/test_patient_laws.py"),
    ("tests/patient_registration/rules/test_registration.py",),
)
REGISTRATION: Final = Rules(
    "bot_layer/patient_registration/rules/registration.py",
    ("tests/laws/test_registration_laws.py",),
    ("tests/patient_registration/rules/test_registration.py",),
)
ACCOUNT_NUMBERS: Final = Rules(
    "bot_layer/health_gorilla/rules/account_request.py",
    ("tests/laws/test_enrollment_laws.py",),
    ("tests/health_gorilla/rules/test_enrollment.py", "tests/health_gorilla/rules/test_account_request.py"),
)
CLINICIANS: Final = Rules(
    "bot_layer/health_gorilla/rules/enrollment.py",
    ("tests/laws/test_enrollment_laws.py",),
    ("tests/health_gorilla/rules/test_enrollment.py",),
)
STAFF: Final = Rules(
    "bot_layer/health_gorilla/rules/staff.py",
    ("tests/laws/test_practice_laws.py",),
    ("tests/health_gorilla/rules/test_staff.py", "tests/bots/test_create_staff_user.py"),
)
SOCIAL_SECURITY: Final = Rules("bot_layer/fhir/social_security.py", (), ("tests/fhir/test_social_security.py",))
SEARCHSETS: Final = Rules("bot_layer/fhir/bundle.py", (), ("tests/fhir/test_bundle.py",))
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
        (
            "if any(directory.first_given in name.given_forms for name in same_family):",
            "if True:",
            "given never compared",
        ),
        (
            "if any(directory.first_given in name.given_forms for name in same_family):",
            "if any(given in name.given_forms for name in same_family for given in directory.given):",
            "any given name of the directory accepted",
        ),
        (
            "if any(directory.first_given in name.given_forms for name in same_family):",
            "if any(directory.first_given in name.given_forms for name in complete):",
            "given of a name with another family accepted",
        ),
        (
            "if any(directory.first_given in name.given_forms for name in same_family):",
            "if all(directory.first_given in name.given_forms for name in same_family):",
            "every name must match",
        ),
        (
            "frozenset({whole, *self.given, *words}",
            "frozenset({whole, *self.given}",
            "single given words not accepted",
        ),
        ("frozenset({whole, *self.given, *words}", "frozenset({*self.given, *words}", "whole given not accepted"),
        ("return self.given[0] if self.given", "return self.given[-1] if self.given", "the last given name compared"),
        (" if name.family == directory.family]", "]", "family never compared"),
        (
            "if not directory.family or not directory.first_given:",
            "if False:",
            "an empty directory name is compared",
        ),
        ("if not complete:", "if False:", "an incomplete name is not reported as missing"),
        (
            ' - {ComparableName("")})',
            ")",
            "an empty given name counts",
        ),
        ('name.get("use") == "maiden" or not', "not", "a maiden name is the directory's name"),
        ('== "maiden" or not in_force(name, now)', '== "maiden"', "an ended name is the directory's name"),
        ("return name.is_former, is_incomplete,", "return is_incomplete, name.is_former,", "completeness before force"),
        (
            '{"official": 0, "usual": 1, None: 2}',
            '{"official": 1, "usual": 0, None: 2}',
            "usual before official",
        ),
    ),
    *_of(
        FOLDING,
        ("words(value)).casefold())", "words(value)))", "case counts"),
        (
            'unicodedata.normalize("NFC", unicodedata.normalize("NFC", words(value)).casefold())',
            "words(value).casefold()",
            "composed and decomposed letters differ",
        ),
        ('return " ".join(value.split()) if', "return value if", "white space counts"),
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
            '"hl7.org/fhir/sid/us-npi", "2.16.840.1.113883.4.6", ',
            '"hl7.org/fhir/sid/us-npi", ',
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
        ("(start is None or start[0] <= now +", "(True or start[0] <= now +", "what has not begun is in force"),
        ("(end is None or now -", "(True or now -", "what is over is in force"),
        ('now - around["end"] < end[1]', 'now - around["end"] < end[0]', "the last day is left out"),
        ('start[0] <= now + around["start"]', 'start[1] <= now + around["start"]', "the first day is left out"),
        ('now - around["end"]', "now", "a denial ends with its day in UTC"),
        ('now + around["start"]', "now", "a denial begins with its day in UTC"),
        ("        return None\n    around", "        return True\n    around", "an unreadable bound holds any time"),
        ("if isinstance(text := given.get(name), str) and interval(text)}", "if name in given}", "no date is a bound"),
        ("return start, start + timedelta(days=1)", "return start, start + timedelta(days=2)", "a day is two days"),
    ),
    *_of(
        REFERENCES,
        ("if key in known:\n", "if key not in known:\n", "known targets become logical"),
        ("unresolved.add(key)", "pass", "unresolved targets are not reported"),
        ("if key is None or key not in known", "if key is None or key in known", "what is known is not repaired"),
        ('(?:/_history/[A-Za-z0-9\\-.]{1,64})?")', '")', "a versioned reference is left alone"),
        (
            'return text(reference).removeprefix(f"{base}/")',
            "return text(reference)",
            "an absolute reference is left alone",
        ),
        ("target = known[key]\n", "target = key.id\n", "the source's id stays"),
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
        ("elif is_older(", "elif False and is_older(", "an older version replaces a newer one"),
        ("instant(now) < instant(before)", "instant(now) > instant(before)", "in turned round: what is older"),
        ('elif stored.edited and policy != "source":', "elif False:", "edits are never kept"),
        ('elif stored.edited and policy != "source":', 'elif policy != "source":', "every change is taken for an edit"),
        ("if is_same(wanted, stored.resource):", "if False:", "what is equal is written again"),
        ("and not _ours(item)", "", "an identifier of ours is kept as if it were local"),
        ('return {**body, "id": stored.id, "meta": meta}', 'return {**body, "meta": meta}', "Medplum's id is lost"),
        ("overwrites_edit=stored.edited", "overwrites_edit=False", "an overwritten edit is not reported"),
    ),
    *_of(
        CONSENTS,
        ("if Stance.DENIES in stances:", "if False:", "a denial counts for nothing"),
        ("if Stance.UNREADABLE in stances:", "if False:", "what cannot be read permits"),
        ("policy.opt_in and Stance.PERMITS not in stances", "policy.opt_in and False", "opt-in needs no permission"),
        ('"inactive", "entered-in-error"}', '"inactive"}', "a Consent in error counts"),
        ("codes & _OPT_OUT or any(", "any(", "OPTOUT is no denial"),
        ("if _OPT_IN_RESTRICTED in codes:", "if False:", "a restricted opt-in is a permission"),
        ("return Stance.SILENT if is_other else Stance.DENIES", "return Stance.DENIES", "research alone denies all"),
        ("return Stance.SILENT if is_other else Stance.DENIES", "return Stance.SILENT", "no provision denies"),
        (
            "return Stance.PERMITS if is_whole and is_ours else Stance.SILENT",
            "return Stance.PERMITS if is_ours else Stance.SILENT",
            "a permission for a part permits all",
        ),
        (
            "return Stance.PERMITS if is_whole and is_ours else Stance.SILENT",
            "return Stance.PERMITS if is_whole else Stance.SILENT",
            "a permission for research permits treatment",
        ),
        ("worst = (Stance.DENIES, Stance.UNREADABLE)", "worst = (Stance.UNREADABLE,)", "a nested denial is lost"),
        ("scopes & _OTHER_SCOPES and _PRIVACY not in scopes", "scopes & _OTHER_SCOPES", "research beside privacy"),
        ("if security_labels.exceeds(", "if False and security_labels.exceeds(", "labels of the Patient do not count"),
    ),
    *_of(
        LABELS,
        ("if forbids_disclosure(found):", "if False:", "NOAUTH is a level like others"),
        ("and code in LEVELS else HIGHEST", "and code in LEVELS else LEVELS[0]", "an unknown label is unrestricted"),
        ("code if system in _CONFIDENTIALITY_SYSTEMS and", "code if", "a code without its system counts"),
        ("max(map(_level, found)", "min(map(_level, found)", "the lowest label counts"),
        (
            '[*as_list(document.get("securityLabel")), *resource_labels(document)]',
            'as_list(document.get("securityLabel"))',
            "meta.security does not count",
        ),
        ("> LEVELS.index(highest)", ">= LEVELS.index(highest)", "the highest level that is let out is not"),
        ("if _pair(coding) != TEST_DATA]", "]", "the mark of test data is a restriction"),
    ),
    *_of(
        SAME_PERSON,
        ("return bool(one.names & other.names) and", "return", "the name does not count"),
        (" and one.birth_date == other.birth_date", "", "the birth date does not count"),
        ("return len(self.strong) > 1", "return len(self.strong) > 0", "one mark makes two people"),
        ("if not is_same_birth_date(one, other):", "if False:", "another birth date contradicts nothing"),
        ("or one.names & other.names:", "or False:", "a shared name is a contradiction"),
        ("return not any(shared) and", "return", "a shared family is a contradiction"),
        ("min(len(a), len(b)) == 1 and ", "", "a beginning is an initial"),
    ),
    *_of(
        INDEX,
        ("and not is_ssn(each)]", "]", "a social security number may be the registered id"),
        ("pt not in self.numbers or self.pts - {pt}", "pt not in self.numbers", "a second PT identifier stays"),
        ("if _number(each) not in stale]", "]", "the former PT identifier stays in what is put"),
        ("if in_force(each, now)\n", "\n", "a number that is over counts"),
        ('"active": not self.is_active,', '"active": False,', "an inactive registration is left so"),
        ("_GENDERS | _OTHER_GENDERS if policy.other_genders else _GENDERS", "_GENDERS", "other genders never pass"),
    ),
    *_of(
        REGISTRATION,
        ("or not _is_only_namesake(patient, theirs, policy, context)", "", "every namesake is somebody else"),
        ("if context.not_same & {*ids, theirs.id}:", "if False:", "a person's word counts for nothing"),
        ("if set(context.former) & ids:", "if False:", "a merged record is a namesake"),
        ("if is_somebody_else(patient.demographics, theirs.demographics) and not", "if False and not", "overwritten"),
        ("if theirs.id in patient.health_gorilla_ids else ()\n", "\n", "a given-up number opens any registration"),
        ("if recorded and not context.force:", "if False:", "a vanished registration is made anew"),
        ("chosen = own or by_identifier or", "chosen = by_identifier or", "the recorded registration is not preferred"),
    ),
    *_of(
        ACCOUNT_NUMBERS,
        ("if not number.is_in_force:", "if False:", "a closed account number is sent"),
        ("elif laboratory is None:", "elif False:", "a number without laboratory is sent"),
        ("return known or (f", "return (f", "the laboratory's own resource does not count"),
    ),
    *_of(
        CLINICIANS,
        (
            'if len(found) > 1:\n        raise ReviewNeeded("The Practitioner has',
            'if False:\n        raise ReviewNeeded("The Practitioner has',
            "one of two NPIs is taken",
        ),
        ("return identifiers.is_npi(value) or (not check_digit and", "return (", "real NPIs are refused"),
        ("(not check_digit and _MADE_UP", "(_MADE_UP", "made-up NPIs always pass"),
        ("if kept and health_gorilla_id and kept != health_gorilla_id:", "if False:", "another person's id is kept"),
        ("if found is not NameMatch.MATCH:", "if False:", "the name is never compared"),
        ("    require_name(clinician, entry.name)\n", "", "an account is made under another name"),
        ("if len(ids) > 1:", "if False:", "one of two persons is taken"),
        ("if found and not active:", "if False:", "an inactive account is replaced"),
    ),
    *_of(
        STAFF,
        (" if (own.family, own.given) == (each.name.family, each.name.given)]", "]", "another name is the same person"),
        ("if account.login == who.login or _signs_on_as(account, who)]", "]", "a namesake is the same person"),
        (" if login != who.login and login.rpartition", " if login.rpartition", "an own login counts under any name"),
        ("if sure or not (login_taken and who.login_is_generated):", "if sure:", "a silent namesake is taken at once"),
        ("return enrollment.pick(silent) if len(silent) == 1 else None", "return None", "a silent account is lost"),
        (
            "if any(is_clinical(account.role) for account in mine):",
            "if False:",
            "a clinician's account gets staff roles",
        ),
        ("if who.health_gorilla_id and not mine:", "if False:", "an account that is missing is made again"),
        ("else replace(who.clinician, health_gorilla_ids=())", "else who.clinician", "another tenant's id contradicts"),
    ),
    *_of(
        SOCIAL_SECURITY,
        ("codes & _TYPES or is_national or is_named", "is_national or is_named", "SS and SB are not recognized"),
        ("or is_national or is_named", "or is_national", "text is not recognized"),
        ("codes & _TYPES or is_national or", "codes & _TYPES or", "a national number of nine digits is none"),
        ("if is_ssn_system(str(identifier", "if False and is_ssn_system(str(identifier", "the system does not count"),
    ),
    *_of(
        SEARCHSETS,
        ("if not is_searchset or not is_read", "if not is_read", "any Bundle answers a search"),
        ("            _require_no_error(resource)\n", "            pass\n", "an error among the entries is nobody"),
        ("if total and not matches and following is None:", "if False:", "what was counted and not sent is nobody"),
        ("if matches and resource_type and all(", "if False and all(", "another type answers the search"),
    ),
)
