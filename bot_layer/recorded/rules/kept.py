"""Which values of a recording are kept, because they identify nobody: codes, systems, formats, fixed words."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

from bot_layer.recorded.rules.elements import is_resource_type, words

# Hosts of standards and of this project's services. Their URIs name a system, a profile or an extension.
_STANDARDS: Final = (
    "hl7.org", "terminology.hl7.org", "loinc.org", "snomed.info", "unitsofmeasure.org", "www.nlm.nih.gov", "nucc.org",
    "www.ama-assn.org", "ncimeta.nci.nih.gov", "fhir.org", "dicom.nema.org", "www.w3.org", "ihe.net", "medplum.com",
    "www.medplum.com", "www.healthgorilla.com", "healthgorilla.com", "docs.medplum.com",
)  # fmt: skip
_SAFE_PATH: Final = re.compile(r"[A-Za-z0-9/._-]*")
# Arcs of public code systems; those of organizations are not kept.
_OID: Final = re.compile(r"urn:oid:2\.16\.840\.1\.113883\.(?:[1356]|18|4\.(?:1|6))(?:\.[0-9]{1,6}){0,6}")
_ANY_OID: Final = re.compile(r"urn:oid:[0-2](?:\.(?:0|[1-9][0-9]{0,15})){2,20}")
_PUBLIC_URN: Final = re.compile(r"urn:(?:ietf:(?:bcp:(?:13|47)|rfc:[0-9]{4})|hl7-org:v[23]|iso:std:iso:[0-9]{4})")
_CODE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_MIME: Final = re.compile(
    r"(?:application|audio|image|multipart|text|video)/[a-z0-9.+-]{1,40}(?:; ?charset=[A-Za-z0-9-]{1,12})?"
)
_LANGUAGE: Final = re.compile(r"[a-z]{2}(?:-[A-Z]{2})?")
_CURRENCY: Final = re.compile(r"[A-Z]{3}")
# Segments of the paths of FHIR servers and logins.
_SEGMENTS: Final = words(
    "fhir R4 r4 R4B oauth2 oauth token auth me admin projects secrets v1 v2 api storage metadata _history _search "
    ".well-known jwks.json smart-configuration openid-configuration bulkdata export batch tenant"
)
_OPERATION: Final = re.compile(r"\$[a-z][a-z-]{0,40}")
# Search parameters whose values identify nobody.
QUERIES: Final = frozenset({"_count", "_elements", "_fields", "_offset", "_sort", "_summary", "_total", "_format"})
QUERY_VALUE: Final = re.compile(r"-?[A-Za-z0-9_,.:*/+-]{0,80}")
# Numbers that count, order or limit.
COUNTS: Final = frozenset(
    {"total", "rank", "sequence", "position", "size", "expires_in", "timeout", "count", "pages", "height", "width"}
)
ID_TYPES: Final = words(
    "AC ACSN AM AMA AN ANC AND ANON ANT APRN ASID BA BC BCT BR BRN BSNR CC CONM CY CZ DC DCFN DDS DEA DFN DI DL DN DO "
    "DP DPM DR DS EI EN ESN FI FILL GI GL GN HC IND JHN LACSN LANR LI LN LR MA MB MC MCD MCN MCR MCT MD MI MR MRT MS "
    "NBSNR NCT NE NH NI NII NIIP NNxxx NP NPI OBI OD PA PC PCN PE PEN PHC PHE PHO PI PIN PLAC PN PNT PPIN PPN PRC PRN "
    "PT QA RI RN RPH RR RRI RRP SAMN SB SID SL SN SNBSN SNO SP SR SRX SS STN TAX TN TPR TRL U UDI UPIN USID VN VP VS "
    "WC WCN WP XV XX"
)


def is_public(uri: str) -> bool:
    """True for a URI of a standard or of this project's services."""
    if _OID.fullmatch(uri) or _PUBLIC_URN.fullmatch(uri):
        return True
    return _plain_host(uri) in _STANDARDS


def is_system(uri: str) -> bool:
    """True for a URI that can be the name of an identifier system, an extension or a profile, also a team's own."""
    return _ANY_OID.fullmatch(uri) is not None or _plain_host(uri) != ""


def _plain_host(uri: str) -> str:
    """The host, and the port if it has one, of a URL without login, query and unusual characters; else empty."""
    parts = split_url(uri)
    is_plain = parts.scheme in {"http", "https"} and not parts.query and "@" not in parts.netloc
    return parts.netloc if is_plain and _SAFE_PATH.fullmatch(parts.path + parts.fragment) else ""


def split_url(url: str) -> SplitResult:
    """The parts of a URL; empty ones for text that is none."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def is_code(name: str, value: str, system: object) -> bool:
    """True for a code of a public system, a media type, a language or a currency in an element for it.

    ``system`` is the code's system, or the URL of its extension; None for a bot's own parameter.
    """
    if name in {"code", "valueCode"}:
        is_known = system is None or (isinstance(system, str) and is_public(system))
        return is_known and _CODE.fullmatch(value) is not None
    formats = {"contentType": _MIME, "language": _LANGUAGE, "currency": _CURRENCY}
    return name in formats and formats[name].fullmatch(value) is not None


def is_segment(text: str) -> bool:
    """True for a fixed word in the path of a URL."""
    return text in _SEGMENTS or is_resource_type(text) or _OPERATION.fullmatch(text) is not None


def is_media_type(text: str) -> bool:
    """True for a Content-Type."""
    return _MIME.fullmatch(text.replace("; ", ";").lower()) is not None
