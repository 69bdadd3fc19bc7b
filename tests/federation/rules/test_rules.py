"""Rules of the federated query: which parameters are understood or refused, and what the answer contains."""

from __future__ import annotations

import base64
import hashlib

import pytest

from bot_layer.errors import InputError
from bot_layer.federation.rules import document as documents
from bot_layer.federation.rules import query as federation
from bot_layer.federation.rules.document import Content, Rules
from bot_layer.federation.rules.query import PatientIdentifier
from bot_layer.fhir.json import Json
from bot_layer.fhir.security_labels import CONFIDENTIALITY_SYSTEM

BASE = "https://clinic.example/federated/fhir/R4"
RULES = Rules("https://clinic.example/federated/documents/{id}?")
US_CORE = "http://hl7.org/fhir/us/core/CodeSystem/us-core-documentreference-category"
CATEGORIES = [{"coding": [{"system": US_CORE, "code": "clinical-note"}]}, {"coding": [{"code": "local"}]}]
CONTEXT = {"period": {"start": "2025-06-15", "end": "2025-12-31"}}
BINARY = "6a1c2f1e-0000-4000-8000-000000000001"


def document(number: int = 1, **changes: object) -> Json:
    """A DocumentReference as Medplum stores it."""
    whole: Json = {
        "resourceType": "DocumentReference",
        "id": f"d-{number}",
        "meta": {"versionId": "v", "lastUpdated": "2026-02-03T04:05:06.789Z", "author": {"reference": "Bot/1"}},
        "status": "current",
        "type": {"coding": [{"system": "http://loinc.org", "code": "34133-9"}, {"code": "local"}]},
        "date": "2026-01-02T03:04:05Z",
        "content": [{"attachment": {"contentType": "application/xml", "url": f"Binary/{BINARY}"}}],
    }
    return {name: value for name, value in {**whole, **changes}.items() if value is not None}


def fits(query: str, **changes: object) -> bool:
    """Whether a document with these changes fits a query such as ``date=ge2026``."""
    pairs = [(name, value) for name, _, value in (part.partition("=") for part in query.split("&"))]
    existing = document(**{"category": CATEGORIES, "context": CONTEXT, **changes})  # type: ignore[arg-type]  # no number
    return federation.read_query([("patient", "p"), *pairs]).fits(existing)


@pytest.mark.parametrize(("given", "bare"), [("p-1", "p-1"), ("Patient/p-1", "p-1")])
def test_a_patient_is_named_by_the_bare_id(given: str, bare: str) -> None:
    """The id from registration; a reference is also understood."""
    assert federation.read_query([("patient", given), ("_total", "accurate")]) == federation.Query(
        (bare,), repeated=(("patient", given), ("_total", "accurate"))
    )


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ([], "patient-required"),
        ([("patient", " ")], "patient-required"),
        ([("patient", "a"), ("patient", "b")], "invalid-parameter"),
        ([("patient", "a"), ("subject", "b")], "invalid-parameter"),
        ([("patient", "a"), ("patient.identifier", "s|1")], "invalid-parameter"),
        ([("patient.identifier", "s|")], "invalid-parameter"),
        ([("_id", ",".join(map(str, range(51))))], "invalid-parameter"),
        ([("patient", "a"), ("category", "|")], "invalid-parameter"),
        ([("patient", "a"), ("period", "today")], "invalid-parameter"),
        ([("patient:Group", "a")], "unknown-parameter"),
        ([("patient", "a"), ("type:text", "note")], "unknown-parameter"),
        ([("patient", "a"), ("_count", "many")], "invalid-parameter"),
        ([("patient", "a"), ("_count", "-1")], "invalid-parameter"),
        ([("patient", "a"), ("_format", "xml")], "invalid-parameter"),
        ([("patient", "a"), ("status", "final")], "invalid-parameter"),
        ([("patient", "a"), ("type", "|")], "invalid-parameter"),
        ([("patient", "a"), ("date", "around2026")], "invalid-parameter"),
        ([("patient", "a"), ("date", "2026-13")], "invalid-parameter"),
        ([("patient", "a"), ("date", "2026-01-01T99")], "invalid-parameter"),
        ([("patient", "a"), ("date", "10000")], "invalid-parameter"),
    ],
)
def test_a_query_that_is_not_understood_is_refused(query: list[tuple[str, str]], code: str) -> None:
    """A value that means nothing, or a modifier that would turn the meaning round."""
    with pytest.raises(InputError) as refused:
        federation.read_query(query)
    assert refused.value.code == code


def test_unknown_parameters_are_ignored_unless_handling_is_strict() -> None:
    """As FHIR says; the links omit the ignored ones, so that they show what was used."""
    asked = [("patient", "p"), ("colour", "red"), ("_format", "json"), ("_sort", "-date")]
    assert federation.read_query(asked).repeated == (("patient", "p"), ("_format", "json"))
    with pytest.raises(InputError, match="_sort, colour") as refused:
        federation.read_query(asked, strict=True)
    assert refused.value.code == "unknown-parameter"


@pytest.mark.parametrize(
    ("prefer", "expected"),
    [
        ("", False),
        ("handling=lenient", False),
        ("handling=strict", True),
        ("return=minimal, handling = Strict", True),
        ("respond-async; handling=strict", True),
        ('handling="strict"', True),
        ("x-handling=strict", False),
    ],
)
def test_strict_handling_is_requested_by_a_prefer_header(prefer: str, expected: bool) -> None:
    """One preference among others (RFC 7240)."""
    assert federation.is_strict(prefer) is expected


@pytest.mark.parametrize(
    ("name", "value", "patient"),
    [
        ("patient", f"{BASE}/Patient/p-1", "p-1"),
        ("patient", "https://medplum.example/fhir/R4/Patient/p-1/_history/3", "p-1"),
        ("patient:Patient", "p-1", "p-1"),
        ("subject", "Patient/p-1", "p-1"),
        ("patient", "https://other.example/fhir/R4/Patient/p-1", "https://other.example/fhir/R4/Patient/p-1"),
        ("patient", "MRN/2024/1", "MRN/2024/1"),
        ("patient", "../Patient/1", "../Patient/1"),
    ],
)
def test_a_patient_is_named_in_any_form_of_a_reference(name: str, value: str, patient: str) -> None:
    """Absolute ones of this server; a record number with slashes, and a foreign address, stay as they are."""
    servers = (BASE, "https://medplum.example/fhir/R4/")
    assert federation.read_query([(name, value)], servers=servers).patients == (patient,)


@pytest.mark.parametrize("name", ["patient.identifier", "patient:identifier", "subject:Patient.identifier"])
def test_a_patient_may_be_named_by_an_identifier(name: str) -> None:
    """With its system, without one, or with that of none."""
    given = {value: federation.read_query([(name, value)]).identifiers for value in ("urn:mrn|1", "1", "|1")}
    assert list(given.values()) == [(PatientIdentifier(system, "1"),) for system in ("urn:mrn", None, "")]


@pytest.mark.parametrize(
    ("value", "system", "number"),
    [
        (r"https://a.example|N\,7\|b", "https://a.example", "N,7|b"),
        (r"N\\7", None, "N\\7"),
        ("|N-7", "", "N-7"),
    ],
)
def test_an_identifier_is_read_without_its_escapes(value: str, system: str | None, number: str) -> None:
    """https://hl7.org/fhir/R4/search.html#escaping"""
    assert federation.read_query([("patient.identifier", value)]).identifiers == (PatientIdentifier(system, number),)


def test_one_patient_may_be_named_twice_and_an_empty_parameter_says_nothing() -> None:
    """Two parameters must both match, and an empty form field of a client means no filter."""
    query = federation.read_query([("patient", "Patient/a"), ("subject", "a"), ("date", ""), ("category", " ")])
    assert (query.patients, query.filters) == (("a",), ())
    assert query.fits({"status": "current"})


@pytest.mark.parametrize(
    ("pairs", "patients"),
    [
        ([("patient", "a,Patient/b")], ("a", "b")),
        ([("patient", "a,b"), ("subject", "b,c")], ("b",)),
        ([("patient", r"a\,b")], ("a,b",)),
        ([("patient", "a"), ("patient", "b")], None),
        ([("patient", "a"), ("patient.identifier", "urn:mrn|1")], None),
        ([("patient", ",".join(map(str, range(11))))], None),
    ],
)
def test_patients_between_commas_are_alternatives(
    pairs: list[tuple[str, str]], patients: tuple[str, ...] | None
) -> None:
    """https://hl7.org/fhir/R4/search.html#combining: a comma is an or, a second parameter an and."""
    if patients is None:
        with pytest.raises(InputError):
            federation.read_query(pairs)
    else:
        assert federation.read_query(pairs).patients == patients


def test_documents_may_be_named_by_their_ids() -> None:
    """Alternatives within a parameter, all of the parameters; the patient need not be named then."""
    query = federation.read_query([("_id", "d-1,d-2"), ("_id", "d-2,d-3")])
    assert (query.patients, query.ids) == ((), frozenset({"d-2"}))
    assert query.fits(document(2))
    assert not query.fits(document(1))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("status=current", True),
        ("status=superseded", False),
        ("status=superseded,current", True),
        ("status=current&status=superseded", False),
        ("status=http://hl7.org/fhir/document-reference-status|current", True),
        ("type=34133-9", True),
        ("type=http://loinc.org|34133-9", True),
        ("type=http://snomed.info/sct|34133-9", False),
        ("type=http://loinc.org|", True),
        ("type=|local", True),
        ("type=|34133-9", False),
        ("type=11111-1,34133-9", True),
        ("type=11111-1", False),
        ("date=2026", True),
        ("date=2026-01", True),
        ("date=2026-01-02", True),
        ("date=2026-01-02T03:04:05Z", True),
        ("date=2026-01-02T04:04:05+01:00", True),
        ("date=2026-01-02T03:04:05", True),
        ("date=2026-01-02T03:04", True),
        ("date=le2026-01-02T04:04+01:00", True),
        ("date=2026-01-02T03:05Z", False),
        ("date=2025-12", False),
        ("date=ne2026-01-02", False),
        ("date=ge2026-01-02", True),
        ("date=gt2026-01-02", False),
        ("date=gt2026-01-01", True),
        ("date=lt2026-01-02", False),
        ("date=lt2026-01-03", True),
        ("date=le2026-01-02", True),
        ("date=sa2026-01-01", True),
        ("date=sa2026", False),
        ("date=eb2026-02", True),
        ("date=eb2026-01-02", False),
        ("date=ap2026-01", True),
        ("date=ap2026-02", False),
        ("date=ge2026-01-01&date=lt2026-01-02", False),
        ("date=2019,2026", True),
        ("_lastUpdated=2026-02-03T04:05:06.789Z", True),
        ("_lastUpdated=ge2026-02-03", True),
        ("category=clinical-note", True),
        ("category=http://hl7.org/fhir/us/core/CodeSystem/us-core-documentreference-category|clinical-note", True),
        ("category=imaging", False),
        ("category=imaging,clinical-note&category=local", True),
        ("category=clinical-note&date=ge2026-01-01&date=le2026-12-31", True),
        ("category=clinical-note&date=ge2027", False),
        ("type=34133-9&period=ge2025-06", True),
        ("period=2025", True),
        ("period=2025-07", False),
        ("period=ge2025-12-31", True),
        ("period=gt2026-01", False),
        ("period=lt2025-03", False),
        ("period=sa2024", True),
        ("_id=d-1", True),
        ("_id=d-2", False),
        ("_format=application/fhir json; charset=utf-8", True),
        ("_lastUpdated=gt2026-12", False),
    ],
)
def test_filters_mean_what_fhir_says(query: str, expected: bool) -> None:
    """Values of one parameter are alternatives, all parameters must match, dates are compared as intervals."""
    assert fits(query) is expected


def test_a_document_without_a_date_or_type_fits_no_filter_on_it() -> None:
    """An unknown value matches no filter."""
    assert not fits("date=ne2020", date=None)
    assert not fits("date=ge1900", date="yesterday")
    assert not fits("_lastUpdated=ge1900", meta=None)
    assert not fits("type=34133-9", type=None)
    assert not fits("category=clinical-note", category=None)
    assert not fits("period=ge1900", context=None)
    assert fits("period=ge2050", context={"period": {"start": "2020"}}), "a period without an end continues"


def test_nothing_found_is_a_total_of_zero() -> None:
    """Health Gorilla expects Bundle.total = 0; an empty list of entries is no valid FHIR."""
    bundle = federation.searchset(federation.read_query([("patient", "nobody")]), [], BASE)
    assert bundle == {
        "resourceType": "Bundle",
        "type": "searchset",
        "total": 0,
        "link": [{"relation": "self", "url": f"{BASE}/DocumentReference?patient=nobody"}],
    }


def test_pages_hold_every_document_once_newest_first() -> None:
    """The next links lead to all documents; the total covers all pages; _count=0 requests only the total."""
    existing = [document(number, date=f"2026-01-0{number % 3 + 1}") for number in range(7)]
    query, seen, offset = [("patient", "p"), ("status", "current"), ("_count", "3")], [], "0"
    for expected_links in (2, 2, 1):
        bundle = federation.searchset(federation.read_query([*query, ("_offset", offset)]), existing, BASE)
        assert (bundle["total"], len(bundle["link"])) == (7, expected_links)
        seen += [entry["resource"]["id"] for entry in bundle["entry"]]
        following = bundle["link"][-1]["url"]
        offset = following.rpartition("_offset=")[2]
        assert "status=current&_count=3" in following
    assert seen == ["d-2", "d-5", "d-1", "d-4", "d-0", "d-3", "d-6"]
    counted = federation.searchset(federation.read_query([("patient", "p"), ("_count", "0")]), existing, BASE)
    assert (counted["total"], "entry" in counted, len(counted["link"])) == (7, False, 1)


def test_a_page_that_ends_with_the_last_document_has_no_next() -> None:
    """A link to nothing would be followed for nothing."""
    query = federation.read_query([("patient", "p"), ("_count", "3")])
    links = [link["relation"] for link in federation.searchset(query, [document(n) for n in range(3)], BASE)["link"]]
    assert links == ["self"]


def test_december_ends_with_the_year() -> None:
    """A month's span reaches to the next month, also across the year."""
    assert fits("date=2026-12", date="2026-12-31")
    assert not fits("date=2026-12", date="2027-01-01")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"status": "superseded"}, True),
        ({"status": "entered-in-error"}, False),
        ({"docStatus": "entered-in-error"}, False),
        ({"content": []}, False),
        ({"content": [{}]}, False),
        ({"content": [{"attachment": {"url": "https://elsewhere.example/file.pdf"}}]}, False),
        ({"content": [{"attachment": {"data": "%%%"}}]}, False),
        ({"content": [{"attachment": {"data": "SGk="}}]}, True),
        ({"content": [{"attachment": {"url": f"https://m.example/storage/{BINARY}/v?Signature=x"}}]}, True),
    ],
)
def test_only_current_documents_with_content_are_listed(changes: Json, expected: bool) -> None:
    """An erroneous document is not disclosed, and content on another server is not fetched for a caller."""
    assert documents.may_leave(document(**changes), RULES) is expected


@pytest.mark.parametrize(
    ("codes", "highest", "expected"),
    [
        (["N"], "N", True),
        (["R"], "N", False),
        (["L", "R"], "N", False),
        (["R"], "R", True),
        (["V"], "R", False),
        (["?"], "R", False),
        ([], "N", True),
        ([], "L", False),
    ],
)
def test_confidentiality_has_a_ceiling(codes: list[str], highest: str, expected: bool) -> None:
    """The highest label counts, an unknown one counts as too high, and a missing one as configured."""
    labels = [{"coding": [{"system": CONFIDENTIALITY_SYSTEM, "code": code}]} for code in codes]
    existing = document(securityLabel=labels)
    assert documents.may_leave(existing, Rules("u", highest=highest)) is expected


@pytest.mark.parametrize(
    "changes",
    [
        {"meta": {"security": [{"system": CONFIDENTIALITY_SYSTEM, "code": "R"}]}},
        {"securityLabel": [{"coding": [{"system": "http://hl7.org/fhir/v3/Confidentiality", "code": "R"}]}]},
        {"securityLabel": [{"coding": [{"system": "urn:oid:2.16.840.1.113883.5.25", "code": "R"}]}]},
    ],
)
def test_a_label_counts_in_every_element_and_with_every_system(changes: Json) -> None:
    """Any resource may carry one in its meta; earlier versions of FHIR and C-CDA name the code system otherwise."""
    existing = document(**changes)
    assert not documents.may_leave(existing, RULES)
    open_rules = Rules("u", highest="R", show_level=True)
    assert documents.may_leave(existing, open_rules)
    (label,) = present(existing, rules=open_rules)["securityLabel"]
    assert label["coding"][0]["code"] == "R"


def test_the_bytes_are_found_in_the_binary_or_the_resource() -> None:
    """Medplum rewrites Binary/{id} into a signed address: the id is read back from it."""
    existing = document(
        content=[
            {"attachment": {"url": f"https://m.example/storage/{BINARY}/v2?x=1"}},
            {"attachment": {"data": "SGk="}},
            {},
        ]
    )
    assert documents.sources(existing) == [documents.Source(binary=BINARY), documents.Source(data=b"Hi"), None]


@pytest.mark.parametrize(
    ("url", "is_here"),
    [
        (f"Binary/{BINARY}", True),
        (f"Binary/{BINARY}/_history/2", True),
        (f"https://m.example/fhir/R4/Binary/{BINARY}", True),
        (f"https://elsewhere.example/fhir/R4/Binary/{BINARY}", False),
        (f"Binary/{BINARY}x!", False),
        (f"http://[no/Binary/{BINARY}", False),
    ],
)
def test_an_id_at_another_server_is_not_ours(url: str, is_here: bool) -> None:
    """A link that a sync left unchanged leads to the source, not to the resource with this id here."""
    (source,) = documents.sources(document(content=[{"attachment": {"url": url}}]), "https://m.example/fhir/R4/")
    assert source == (documents.Source(binary=BINARY) if is_here else None)


def test_size_and_hash_are_those_of_the_bytes() -> None:
    """FHIR R4: the SHA-1, in base64."""
    digest = base64.b64encode(hashlib.sha1(b"Hi", usedforsecurity=False).digest()).decode()
    assert documents.measure([b"H", b"i"], "text/plain") == Content("text/plain", 2, digest)
    whole = {"contentType": "text/plain", "size": 2, "hash": digest}
    assert documents.stated(whole) == Content("text/plain", 2, digest)
    for lacking in ({"size": None}, {"hash": digest + "AAAA"}, {"contentType": None}):
        assert documents.stated({**whole, **lacking}) is None


HOSPITAL: Json = {
    "resourceType": "Organization",
    "id": "h",
    "meta": {"project": "x"},
    "name": "Hospital",
    "extension": [{}],
}
CLINIC: Json = {"resourceType": "Organization", "id": "c", "active": True, "address": [{"city": "Elm"}]}


def present(
    existing: Json, *, contents: list[Content | None] | None = None, rules: Rules = RULES, own: Json | None = CLINIC
) -> Json:
    """The document as the network sees it."""
    measured = contents or [Content("application/xml", 2, "hash")]
    return documents.present(
        existing, asked_id="asked", contents=measured, organizations={"Organization/h": HOSPITAL}, own=own, rules=rules
    )


def test_a_bare_document_is_filled_from_the_clinic_and_itself() -> None:
    """The clinic is author and custodian, the id becomes the identifiers, and the subject is the asker's id."""
    assert present(document(subject={"reference": "Patient/inside"}, extension=[{}], context={"related": [{}]})) == {
        "resourceType": "DocumentReference",
        "id": "d-1",
        "meta": {"versionId": "v", "lastUpdated": "2026-02-03T04:05:06.789Z"},
        "contained": [
            {"id": "author", "resourceType": "Organization", "active": True, "address": [{"city": "Elm"}]},
            {"id": "custodian", "resourceType": "Organization", "active": True, "address": [{"city": "Elm"}]},
        ],
        "masterIdentifier": {"system": "urn:ietf:rfc:3986", "value": "urn:uuid:d-1"},
        "identifier": [{"use": "usual", "system": "urn:ietf:rfc:3986", "value": "urn:uuid:d-1"}],
        "status": "current",
        "type": {"coding": [{"system": "http://loinc.org", "code": "34133-9"}, {"code": "local"}]},
        "subject": {"reference": "Patient/asked", "type": "Patient", "display": "asked"},
        "date": "2026-01-02T03:04:05Z",
        "author": [{"reference": "#author", "type": "Organization"}],
        "custodian": {"reference": "#custodian", "type": "Organization"},
        "content": [
            {
                "attachment": {
                    "contentType": "application/xml",
                    "url": "https://clinic.example/federated/documents/d-1?patient=asked",
                    "size": 2,
                    "hash": "hash",
                }
            }
        ],
    }


def test_the_documents_own_values_take_precedence_over_the_settings() -> None:
    """Its author, custodian, identifiers, label, format and context are passed on."""
    existing = document(
        author=[{"reference": "Practitioner/1"}, {"reference": "Organization/h"}],
        custodian={"reference": "Organization/h"},
        masterIdentifier={"value": "m"},
        identifier=[{"value": "i"}],
        securityLabel=[{"text": "normal"}],
        context={"event": [{"text": "visit"}], "sourcePatientInfo": {}},
        content=[{"attachment": {"url": f"Binary/{BINARY}", "language": "en"}, "format": {"code": "f"}}],
    )
    shown = present(existing, rules=Rules("u", oid="1.2", show_level=True))
    assert [one["name"] for one in shown["contained"]] == ["Hospital", "Hospital"]
    assert not {"meta", "extension"} & shown["contained"][0].keys()
    assert shown["author"] == [{"reference": "#author", "type": "Organization", "display": "Hospital"}]
    assert (shown["masterIdentifier"], shown["identifier"]) == ({"value": "m"}, [{"value": "i"}])
    assert (shown["securityLabel"], shown["context"]) == ([{"text": "normal"}], {"event": [{"text": "visit"}]})
    assert (shown["content"][0]["format"], shown["content"][0]["attachment"]["language"]) == ({"code": "f"}, "en")
    assert documents.organization_references(existing) == {"Organization/h"}


def test_unknown_details_are_left_out() -> None:
    """No author, custodian, label or size is invented."""
    shown = present(document(type=None), own=None, contents=[Content()])
    assert not {"author", "custodian", "contained", "securityLabel", "type", "context"} & shown.keys()
    assert shown["content"][0]["attachment"].keys() == {"contentType", "url"}


def test_the_clinics_oid_and_level_are_used_where_configured() -> None:
    """A master identifier under the clinic's OID, and the level that unlabelled documents have."""
    shown = present(document(), rules=Rules("u", oid="1.2.3", show_level=True))
    assert shown["masterIdentifier"] == {"system": "urn:oid:1.2.3", "value": "d-1"}
    assert shown["securityLabel"] == [{"coding": [{"system": CONFIDENTIALITY_SYSTEM, "code": "N"}]}]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"date": None}, "2026-02-03T04:05:06.789Z"),
        ({"date": None, "meta": None}, None),
        ({"date": None, "content": [{"attachment": {"url": f"Binary/{BINARY}", "creation": "2020"}}]}, "2020"),
    ],
)
def test_a_missing_date_is_derived_from_other_elements(changes: Json, expected: str | None) -> None:
    """The content's creation, else when Medplum stored it, else nothing."""
    assert present(document(**changes)).get("date") == expected


def test_each_content_has_its_own_address() -> None:
    """Contents that can't be returned are left out; the others keep their number."""
    existing = document(content=[{}, {"attachment": {"url": f"Binary/{BINARY}"}}])
    shown = present(existing, contents=[None, Content("text/plain", 1, "h")])
    assert [content["attachment"]["url"].partition("?")[2] for content in shown["content"]] == [
        "patient=asked&content=1"
    ]


def test_a_summary_represents_a_patients_data() -> None:
    """Its id leads back to the patient; it is as the network's sample describes such a document."""
    shown = present(documents.summary({"id": "p-1", "meta": {"versionId": "3"}}), contents=[Content("application/xml")])
    assert documents.summarized_patient(shown["id"]) == "p-1"
    assert documents.summarized_patient("d-1") is None
    assert shown["meta"] == {"versionId": "3"}
    assert shown["type"]["coding"][0]["code"] == "34133-9"
    assert shown["content"][0]["format"]["code"] == "urn:hl7-org:sdwg:ccda-structuredBody:2.1"
    assert shown["masterIdentifier"]["value"].startswith("urn:uuid:")
