"""Whether a patient may be made known to other networks: security labels of the Patient, and Consents.

One rule for registration and for federated queries. It errs on the side of no: a Consent that cannot be read denies.
https://hl7.org/fhir/R4/consent.html and https://terminology.hl7.org/CodeSystem-v3-ActCode.html (OPTIN, OPTOUT)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from bot_layer.fhir import security_labels
from bot_layer.fhir.json import Json, as_list, codings, objects, text
from bot_layer.fhir.periods import holds


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
    "A security label excludes the Patient from the network.",
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
_PRIVACY: Final = "patient-privacy"
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
# A date ends half a day later in the west of the world and begins as much earlier in the east: a denial counts there.
_ANYWHERE: Final = timedelta(hours=12)


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
    status, scopes = text(consent.get("status")), _codes([consent.get("scope")])
    if status in _NOT_IN_FORCE or (scopes & _OTHER_SCOPES and _PRIVACY not in scopes):
        return Stance.SILENT
    root = consent.get("provision")
    if status != "active" or consent.get("modifierExtension") or not isinstance(root, dict | None):
        return Stance.UNREADABLE
    root = root or {}
    rule = [consent.get("policyRule"), *as_list(consent.get("category"))]
    codes = {code.upper() for code in _codes(rule)}
    in_force = holds(root.get("period"), now, _ANYWHERE)
    if in_force is not True:
        return Stance.SILENT if in_force is False else Stance.UNREADABLE
    if codes & _OPT_OUT or any(_OPT_OUT_TEXT.search(text) for text in _texts(rule)):
        return Stance.DENIES
    if _OPT_IN_RESTRICTED in codes:
        return Stance.UNREADABLE
    said = _provision(root, now)
    if said is not None:
        return said
    if _OPT_IN in codes:
        # A provision of no type that names a part is what the rule excepts (FHIR's example notThis).
        is_excepting = any(root.get(name) for name in (*_NARROWING, "purpose", "action"))
        return (
            Stance.UNREADABLE if is_excepting else Stance.PERMITS if holds(root.get("period"), now) else Stance.SILENT
        )
    is_acknowledged = {code.casefold() for code in codes} & _ACKNOWLEDGEMENTS
    return Stance.SILENT if is_acknowledged else Stance.UNREADABLE


def _provision(provision: Json, now: datetime, *, is_nested: bool = False) -> Stance | None:
    """What a provision and those within it say; None where none of them says anything.

    One within another needs a type, and a modifier extension may reverse the meaning.
    """
    kind, nested = provision.get("type"), as_list(provision.get("provision"))
    margin = timedelta() if kind == "permit" else _ANYWHERE
    in_force = holds(provision.get("period"), now, margin)
    is_typed = kind in ("deny", "permit") or (kind is None and not is_nested)
    if not is_typed or in_force is None or provision.get("modifierExtension") or len(objects(nested)) != len(nested):
        return Stance.UNREADABLE
    inner = {_provision(each, now, is_nested=True) for each in objects(nested)}
    own = (_own(provision, str(kind)) if in_force else Stance.SILENT) if kind else None
    worst = (Stance.DENIES, Stance.UNREADABLE)
    return next((found for found in worst if found is own or found in inner), None) or (
        own or next((found for found in (Stance.PERMITS, Stance.SILENT) if found in inner), None)
    )


def _own(provision: Json, kind: str) -> Stance:
    purposes = {str(coding.get("code")) for coding in objects(provision.get("purpose"))}
    actions = _codes(as_list(provision.get("action")))
    if kind == "deny":
        is_other = (purposes and purposes <= _OTHER_PURPOSES) or (actions and actions <= _OTHER_ACTIONS)
        return Stance.SILENT if is_other else Stance.DENIES
    is_whole = not any(provision.get(name) for name in _NARROWING)
    is_ours = (not purposes or purposes & _TREATMENT) and (not actions or actions & _DISCLOSING)
    return Stance.PERMITS if is_whole and is_ours else Stance.SILENT


def _codes(concepts: Iterable[object]) -> frozenset[str]:
    """The codes of CodeableConcepts, whatever their systems."""
    return frozenset(str(coding["code"]) for coding in codings([*concepts]) if coding.get("code"))


def _texts(concepts: Iterable[object]) -> list[str]:
    found = objects([*concepts])
    texts = [*(each.get("text") for each in found), *(coding.get("display") for coding in codings(found))]
    return [str(text) for text in texts if text]
