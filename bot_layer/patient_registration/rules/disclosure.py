"""Whether a patient may be made known to other networks: security labels of the Patient, and Consents.

One rule for registration and for federated queries. It errs on the side of no: a Consent that cannot be read denies.
https://hl7.org/fhir/R4/consent.html and https://terminology.hl7.org/CodeSystem-v3-ActCode.html (OPTIN, OPTOUT)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final

from bot_layer.fhir import security_labels
from bot_layer.fhir.json import Json, objects, text


@dataclass(frozen=True)
class DisclosurePolicy:
    """The clinic's choice. ``opt_in``: only patients with a Consent that permits are made known to networks.

    ``highest`` is the highest confidentiality (v3-Confidentiality) of a Patient that may be made known.
    """

    opt_in: bool = False
    highest: str = "N"


@dataclass(frozen=True)
class Denial:
    """Why a patient must stay unknown: a code, a sentence without personal data, the element it is about (FHIRPath)."""

    code: str
    text: str
    expression: str


class Stance(Enum):
    """What one Consent says about disclosure to other networks."""

    DENIES = "denies"
    PERMITS = "permits"
    SILENT = "silent"
    UNREADABLE = "unreadable"


RESTRICTED: Final = Denial(
    "patient-restricted",
    "A security label keeps the Patient out of the network.",
    "Patient.meta.security",
)
OPTED_OUT: Final = Denial(
    "patient-opted-out", "A Consent of the patient denies disclosure to the network.", "Consent.provision"
)
UNREADABLE: Final = Denial(
    "consent-unreadable",
    "An active Consent of the patient cannot be read, so it counts as a denial: correct it, or set its status.",
    "Consent",
)
NOT_OPTED_IN: Final = Denial(
    "patient-not-opted-in", "No Consent of the patient permits disclosure, and the clinic requires one.", "Consent"
)
DENIALS: Final = frozenset(denial.code for denial in (RESTRICTED, OPTED_OUT, UNREADABLE, NOT_OPTED_IN))

_NOT_IN_FORCE: Final = frozenset({"draft", "proposed", "rejected", "inactive", "entered-in-error"})
_OTHER_SCOPES: Final = frozenset({"research", "adr", "treatment"})
_OPT_OUT: Final = frozenset({"OPTOUT", "OPTOUTE", "OPTOUTEOP"})
_OPT_IN: Final = "OPTIN"
_OPT_IN_RESTRICTED: Final = "OPTINR"
_OPT_OUT_TEXT: Final = re.compile(r"\bopt(?:ed|ing|s)?[\s_-]*out\b", re.IGNORECASE)
# An acknowledgement, such as that of the notice of privacy practices, is no decision about disclosure.
_ACKNOWLEDGEMENTS: Final = frozenset(
    {"npp", "nopp", "hipaa-npp", "hipaa-self-pay", "hipaa-auth", "57016-8", "cric", "acd", "dnr", "polst", "hcd"}
)
# Purposes (v3-PurposeOfUse) that a query for treatment never has, and actions that are no disclosure.
_OTHER_PURPOSES: Final = frozenset(
    {"HRESCH", "CLINTRCH", "BIORCH", "TRANSRCH", "PREHRCH", "HMARKT", "HPAYMT", "HOPERAT", "COVERAGE", "DONAT"}
)
_TREATMENT: Final = frozenset({"TREAT", "ETREAT", "CAREMGT", "CLINTRL", "PATRQT", "COC"})
_OTHER_ACTIONS: Final = frozenset({"collect", "correct"})
_DISCLOSING: Final = frozenset({"disclose", "access"})
# What narrows a permission to a part of the record or to some recipients: this bot cannot apply it.
_NARROWING: Final = ("actor", "class", "code", "securityLabel", "data", "dataPeriod")
_DATE_TIME: Final = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?")


def denial(patient: Json, consents: Sequence[Json], policy: DisclosurePolicy, now: datetime) -> Denial | None:
    """Why the patient must stay unknown to networks; None where they may be known.

    ``consents`` are all Consents of the patient and of the Patients merged into this one. One that denies counts more
    than any number that permit.
    """
    if security_labels.exceeds(security_labels.resource_labels(patient), policy.highest):
        return RESTRICTED
    stances = {stance(consent, now) for consent in consents}
    if Stance.DENIES in stances:
        return OPTED_OUT
    if Stance.UNREADABLE in stances:
        return UNREADABLE
    return NOT_OPTED_IN if policy.opt_in and Stance.PERMITS not in stances else None


def stance(consent: Json, now: datetime) -> Stance:
    """What a Consent says about disclosure to other networks, at the time ``now`` (aware)."""
    status = text(consent.get("status"))
    if status in _NOT_IN_FORCE or _codes([consent.get("scope")]) & _OTHER_SCOPES:
        return Stance.SILENT
    if status != "active":
        return Stance.UNREADABLE
    rule = [consent.get("policyRule"), *_list(consent.get("category"))]
    codes = {code.upper() for code in _codes(rule)}
    root = consent.get("provision")
    if root is not None and not isinstance(root, dict):
        return Stance.UNREADABLE
    period = _in_force(root, now) if root else True
    if period is not True:
        return Stance.SILENT if period is False else Stance.UNREADABLE
    if codes & _OPT_OUT or any(_OPT_OUT_TEXT.search(text) for text in _texts(rule)):
        return Stance.DENIES
    if _OPT_IN_RESTRICTED in codes:
        return Stance.UNREADABLE
    said = _provision(root or {}, now)
    if said is None:
        said = Stance.PERMITS if _OPT_IN in codes else Stance.UNREADABLE
        if said is Stance.UNREADABLE and {code.casefold() for code in codes} & _ACKNOWLEDGEMENTS:
            return Stance.SILENT
    return said


def _provision(provision: Json, now: datetime) -> Stance | None:
    """What a provision and those within it say; None where none of them says anything."""
    kind = provision.get("type")
    if kind not in (None, "deny", "permit"):
        return Stance.UNREADABLE
    nested = provision.get("provision")
    if nested is not None and (not isinstance(nested, list) or len(objects(nested)) != len(nested)):
        return Stance.UNREADABLE
    in_force = _in_force(provision, now)
    if in_force is None:
        return Stance.UNREADABLE
    inner = {_provision(each, now) for each in objects(nested)}
    own = _own(provision, str(kind)) if kind and in_force else None
    for found in (Stance.DENIES, Stance.UNREADABLE):
        if found is own or found in inner:
            return found
    return own or next((said for said in inner if said), None)


def _own(provision: Json, kind: str) -> Stance:
    purposes = {str(coding.get("code")) for coding in objects(provision.get("purpose"))}
    actions = _codes(_list(provision.get("action")))
    if kind == "deny":
        is_other = (purposes and purposes <= _OTHER_PURPOSES) or (actions and actions <= _OTHER_ACTIONS)
        return Stance.SILENT if is_other else Stance.DENIES
    is_whole = not any(provision.get(name) for name in _NARROWING)
    is_ours = (not purposes or purposes & _TREATMENT) and (not actions or actions & _DISCLOSING)
    return Stance.PERMITS if is_whole and is_ours else Stance.SILENT


def _in_force(provision: Mapping[str, object], now: datetime) -> bool | None:
    """Whether the provision's period holds the time ``now``; None where the period cannot be read."""
    period = provision.get("period")
    if period is None:
        return True
    if not isinstance(period, dict):
        return None
    try:
        start = _moment(str(period["start"])) if period.get("start") else None
        end = _moment(str(period["end"]), at_end=True) if period.get("end") else None
    except (ValueError, OverflowError):
        return None
    return (start is None or start <= now) and (end is None or now < end)


def _moment(text: str, *, at_end: bool = False) -> datetime:
    """The first moment of a FHIR dateTime, or the one after its last; a date is read in UTC. ValueError: none."""
    match = _DATE_TIME.fullmatch(text)
    if match is None:
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    year, month, day = match.groups()
    start = datetime(int(year), int(month or 1), int(day or 1), tzinfo=UTC)
    if not at_end:
        return start
    if day:
        return start + timedelta(days=1)
    # The first day of the next month, or of the next year.
    return (start + timedelta(days=32)).replace(day=1) if month else start.replace(year=start.year + 1)


def _codes(concepts: Iterable[object]) -> frozenset[str]:
    """The codes of CodeableConcepts, whatever their systems."""
    codings = (coding for each in concepts if isinstance(each, dict) for coding in objects(each.get("coding")))
    return frozenset(str(coding["code"]) for coding in codings if coding.get("code"))


def _texts(concepts: Iterable[object]) -> list[str]:
    found = [each for each in concepts if isinstance(each, dict)]
    codings = [coding for each in found for coding in objects(each.get("coding"))]
    return [str(text) for text in (*(each.get("text") for each in found), *(c.get("display") for c in codings)) if text]


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else [] if value is None else [value]
