"""Rules of the registration plan: when a patient is created, updated, unchanged, refused or left to a person."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bot_layer.errors import BotError, InputError
from bot_layer.fhir.demographics import Demographics
from bot_layer.fhir.identifiers import HEALTH_GORILLA_SYSTEM
from bot_layer.fhir.json import Json
from bot_layer.patient_registration.rules import index_patient, registration
from bot_layer.patient_registration.rules.index_patient import Policy
from bot_layer.patient_registration.rules.registration import Context, Create, Found, NothingToDo, Update
from tests.people import NOW, PATIENT_ID, POLICY, SYSTEM, build, found, patient, plan, read, registered


def missing(resource: Json, policy: Policy) -> tuple[str, ...]:
    return read(resource, policy).missing(policy)


def external_ids(resource: Json, policy: Policy) -> tuple[str, ...]:
    return read(resource, policy).external_ids


OFFICIAL = {"use": "official", "family": "Winter", "given": ["Anna"]}
HG = {"system": HEALTH_GORILLA_SYSTEM, "value": "hg-1"}


def code(answer: object) -> str:
    assert isinstance(answer, BotError)
    return answer.code


def test_an_unknown_patient_is_created_as_health_gorilla_asks() -> None:
    """The resource has what the federation guide lists, and no part without a value."""
    answer = plan(patient(), Found(), POLICY)
    assert isinstance(answer, Create)
    assert answer.body == {
        "resourceType": "Patient",
        "identifier": [
            {
                "type": {
                    "coding": [
                        {
                            "system": "http://terminology.hl7.org/CodeSystem/v2-0203",
                            "code": "PT",
                            "display": "Patient external identifier",
                        }
                    ],
                    "text": "Patient external identifier",
                },
                "system": SYSTEM,
                "value": PATIENT_ID,
            }
        ],
        "name": [{"use": "usual", "family": "Sommer", "given": ["Anna", "Maria"]}],
        "gender": "female",
        "birthDate": "1980-02-29",
        "address": [
            {"use": "home", "line": ["12 Pine Road"], "city": "Santa Monica", "state": "CA", "postalCode": "90402"}
        ],
        "telecom": [
            {"system": "phone", "value": "(310) 555-0142", "use": "mobile", "rank": 1},
            {"system": "email", "value": "anna@mail.example"},
        ],
    }


def test_everything_that_is_missing_is_named_at_once() -> None:
    """One answer names every missing element, so that the caller can correct all of them at once."""
    answer = plan({"resourceType": "Patient"}, Found(), POLICY)
    assert isinstance(answer, InputError)
    assert answer.code == "missing-demographics"
    assert answer.expression == (
        "Patient.name.family",
        "Patient.name.given",
        "Patient.birthDate",
        "Patient.gender",
        "Patient.address.line",
        "Patient.address.city",
        "Patient.address.state",
        "Patient.address.postalCode",
        "Patient.id",
    )
    assert all(expression.removeprefix("Patient.") in answer.message for expression in answer.expression)


@pytest.mark.parametrize("gender", ["other", "unknown", "F", None])
def test_only_male_and_female_are_sent_unless_configured(gender: str | None) -> None:
    """FHIR's other genders require the clinic's setting that Health Gorilla accepts them; a wrong code never passes."""
    refused = missing(patient(gender=gender), POLICY)
    configured = missing(patient(gender=gender), replace(POLICY, other_genders=True))
    assert refused == ("Patient.gender",)
    assert configured == (() if gender in ("other", "unknown") else ("Patient.gender",))


@pytest.mark.parametrize("birth_date", ["1980", "1980-02", "1980-02-30", "19800229", "1980-W09-5", "", None])
def test_a_birth_date_is_a_whole_calendar_date(birth_date: str | None) -> None:
    """Part of a date identifies no one."""
    assert missing(patient(birthDate=birth_date), POLICY) == ("Patient.birthDate",)


@pytest.mark.parametrize(
    ("element", "value", "expected"),
    [
        ("name", [{"family": "Only"}], ("Patient.name.given",)),
        ("name", [{"use": "old", "family": "Past", "given": ["Una"]}], ("Patient.name.family", "Patient.name.given")),
        ("name", "Sommer", ("Patient.name.family", "Patient.name.given")),
        ("address", [{"line": ["1 A St"], "city": "B", "state": "CA"}], ("Patient.address.postalCode",)),
        (
            "address",
            [{"use": "old", "city": "B"}],
            tuple(f"Patient.address.{p}" for p in ("line", "city", "state", "postalCode")),
        ),
    ],
)
def test_values_that_are_not_in_force_do_not_count(element: str, value: Any, expected: tuple[str, ...]) -> None:
    """An old name, an incomplete address or a wrong type is as good as absent."""
    assert missing(patient(**{element: value}), POLICY) == expected


def test_the_name_in_force_is_the_official_one() -> None:
    """Official comes before usual, usual before the rest, and a name whose period is over comes last."""
    names = [
        {"family": "Third", "given": ["A"]},
        {"use": "official", "family": "Past", "given": ["A"], "period": {"end": "2001-01-01"}},
        {"use": "usual", "family": "Second", "given": ["A"], "suffix": ["Jr."]},
        {"use": "official", "family": " First  Name ", "given": [" A ", "", 7], "suffix": []},
    ]
    chosen = [Demographics.read({"name": names[:end]}, NOW).name["family"] for end in (1, 3, 4)]
    assert chosen == ["Third", "Second", "First Name"]
    assert Demographics.read({"name": names[:3]}, NOW).name["suffix"] == ["Jr."]
    assert Demographics.read({"name": names}, NOW).name["given"] == ["A"]


def test_the_most_complete_address_is_sent_and_home_takes_precedence_over_work() -> None:
    """A complete work address serves better than half a home address."""
    whole = {"line": ["1 A St"], "city": "B", "state": "CA", "postalCode": "90001"}
    half_home = {"use": "home", "city": "C"}
    work, home = {"use": "work", **whole}, {"use": "home", "type": "both", "country": "US", **whole}
    assert Demographics.read({"address": [half_home, work]}, NOW).address == work
    assert Demographics.read({"address": [work, home]}, NOW).address == home


def test_an_ended_value_does_not_replace_an_incomplete_one() -> None:
    """A patient who moved or took another name is not registered with the old data: missing elements are named."""
    over = {"period": {"end": "2020-01-01"}}
    past = {"line": ["1 A St"], "city": "B", "state": "CA", "postalCode": "90001", **over}
    moved = patient(
        name=[{"family": "Sommer", "given": ["Anna"], **over}, {"use": "official", "family": "Winter"}],
        address=[past, {"use": "home", "line": ["9 Oak Lane"], "city": "Elm", "state": "NV"}],
    )
    assert missing(moved, POLICY) == ("Patient.name.given", "Patient.address.postalCode")
    assert missing(patient(address=[past]), POLICY) == ()


@pytest.mark.parametrize(
    ("period", "is_in_force"),
    [
        ({"end": "2026-05-03"}, False),
        ({"end": "2026-05-04"}, True),
        ({"end": "2031"}, True),
        ({"start": "2026-05-05"}, False),
        ({"start": "2020", "end": "2040-01"}, True),
        ({"end": "9999-12-31"}, True),
        ({"start": "2026-05-04T06:00:00+06:00", "end": "2026-05-04T00:00:00Z"}, True),
        ({"start": "2026-05-04T00:00:01Z"}, False),
    ],
)
def test_one_rule_says_what_is_in_force(period: Json, is_in_force: bool) -> None:
    """Name, address, phone and number alike: from the start to the end of the period, by the clock."""
    late = {"use": "home", "line": ["9 Oak Lane"], "city": "Elm", "state": "NV", "postalCode": "89001"}
    policy = replace(POLICY, identifier_system="urn:mrn")
    whole = read(
        patient(
            name=[{"use": "usual", "family": "Sommer", "given": ["Anna"]}, {**OFFICIAL, "period": period}],
            address=[{**late, "use": "work", "city": "Fir"}, {**late, "period": period}],
            telecom=[{"system": "phone", "value": "310-555-0142", "period": period}],
            identifier=[{"system": "urn:mrn", "value": "M-1", "period": period}],
        ),
        policy,
    )
    found_in_force = [
        whole.demographics.name["family"] == "Winter",
        whole.demographics.address["city"] == "Elm",
        bool(whole.demographics.points),
        whole.external_ids == ("M-1",),
    ]
    assert found_in_force == [is_in_force] * 4


def test_a_number_that_is_not_in_force_any_more_gives_way() -> None:
    """The clinic says that the number is an old one: the patient's own registration moves to the one in force."""
    policy = replace(POLICY, identifier_system="urn:mrn")
    before = [{"system": "urn:mrn", "value": "M-1"}, HG]
    stored = registered(build(patient(identifier=before), policy))
    for mark in ({"use": "old"}, {"period": {"end": "2020"}}):
        after = [{**before[0], **mark}, {"system": "urn:mrn", "value": "M-2"}]
        moved = plan(patient(identifier=[*after, HG]), found(by_demographics=[stored]), policy)
        assert isinstance(moved, Update)
        assert [entry["value"] for entry in moved.body["identifier"]] == ["hg-1", "M-2"]
        # Only the recorded id says whose registration it is: an old number may have been another patient's.
        assert code(plan(patient(identifier=after), found(by_demographics=[stored]), policy)) == "registered-as-another"


@pytest.mark.parametrize(
    "point",
    [
        {"use": "home"},
        {"system": "phone"},
        {"system": "phone", "value": "call me"},
        {"system": "phone", "value": "12"},
        {"system": "phone", "value": "1234567890123456"},
        {"system": "email", "value": "[email protected]"},
        {"system": "email", "value": "anna@mail"},
        {"system": "fax", "value": "310 555 0142"},
        {"system": "phone", "value": "310 555 0142", "use": "old"},
        {"system": "phone", "value": "310 555 0142", "period": {"end": "2020-01-01"}},
    ],
)
def test_a_contact_point_without_use_is_never_sent(point: Json) -> None:
    """No telecom without system or value, none that is malformed, none that is over."""
    assert "telecom" not in build(patient(telecom=[point]), POLICY)


def test_a_contact_point_is_sent_once() -> None:
    """The same phone in two forms is one phone; an unknown use is left out."""
    points = [
        {"system": "phone", "value": "+1 (310) 555-0142 ext. 7", "use": "desk", "rank": "1"},
        {"system": "phone", "value": "310.555.0142"},
    ]
    assert build(patient(telecom=points), POLICY)["telecom"] == [{"system": "phone", "value": "+1 (310) 555-0142 x7"}]


def test_an_unchanged_patient_is_left_alone() -> None:
    """Registering a registered patient writes nothing, whatever the case of the letters."""
    stored = registered(build(patient(), POLICY), birthDate="1980-02-29")
    stored["name"] = [{"use": "usual", "family": "SOMMER", "given": ["ANNA", "MARIA"]}]
    assert plan(patient(), found(by_identifier=[stored]), POLICY) == NothingToDo("hg-1", PATIENT_ID)


@pytest.mark.parametrize(
    ("changes", "changed"),
    [
        ({"name": [{"family": "Winter", "given": ["Anna"]}]}, ("name",)),
        ({"birthDate": "1980-02-28"}, ("birthDate",)),
        ({"gender": "male"}, ("gender",)),
        ({"address": [{"line": ["1 A"], "city": "B", "state": "NV", "postalCode": "89001"}]}, ("address",)),
        ({"telecom": None}, ("telecom",)),
        ({"telecom": [{"system": "phone", "value": "310-555-0199"}]}, ("telecom",)),
    ],
)
def test_a_change_of_demographics_is_put_and_their_identifiers_stay(changes: Json, changed: tuple[str, ...]) -> None:
    """Read, merge, put with the version that was read; Health Gorilla's own identifiers are kept."""
    stored = registered(build(patient(), POLICY), text={"div": "stale"}, extension=[{"url": "x"}])
    answer = plan(patient(**changes), found(by_identifier=[stored]), POLICY)
    assert isinstance(answer, Update)
    assert (answer.id, answer.changed, answer.body["meta"]) == ("hg-1", changed, {"versionId": "4"})
    assert answer.body["identifier"] == stored["identifier"]
    assert answer.body["extension"] == [{"url": "x"}]
    assert "text" not in answer.body
    assert answer.body.get("telecom") == build(patient(**changes), POLICY).get("telecom")


def test_a_registration_without_version_is_put_without_one() -> None:
    """If no version was returned, no If-Match is sent."""
    stored = registered(build(patient(), POLICY), gender="male", meta=None)
    answer = plan(patient(), found(by_identifier=[stored]), POLICY)
    assert isinstance(answer, Update)
    assert "meta" not in answer.body


def test_several_matches_are_for_a_person() -> None:
    """Nothing is written where two patients fit; the same one found twice is one."""
    one, two = registered(build(patient(), POLICY)), registered(build(patient(), POLICY), "hg-2")
    assert code(plan(patient(), found(by_identifier=[one, two]), POLICY)) == "several-matches"
    assert code(plan(patient(), found(by_demographics=[one, two]), POLICY)) == "several-matches"
    assert plan(patient(), found(by_identifier=[one, dict(one)]), POLICY) == NothingToDo("hg-1", PATIENT_ID)


def test_a_patient_found_by_demographics_gets_our_identifier() -> None:
    """A patient whom Health Gorilla knows without our id is adopted, not duplicated."""
    stored = registered(build(patient(), POLICY), identifier=[HG])
    answer = plan(patient(), found(by_demographics=[stored]), POLICY)
    assert isinstance(answer, Update)
    assert answer.changed == ("identifier",)
    assert [entry["value"] for entry in answer.body["identifier"]] == ["hg-1", PATIENT_ID]


@pytest.mark.parametrize(
    "loose",
    [
        {"name": [{"family": "Sommers", "given": ["Anna"]}]},
        {"name": [{"family": "Sommer", "given": ["Anne"]}]},
        {"birthDate": "1981-02-28"},
    ],
)
def test_a_loose_hit_of_the_search_is_nobody(loose: Json) -> None:
    """Only family, first given name and birth date together make a match."""
    stored = registered(build(patient(), POLICY), identifier=[HG], **loose)
    assert isinstance(plan(patient(), found(by_demographics=[stored]), POLICY), Create)


def test_another_gender_under_the_same_name_is_for_a_person() -> None:
    """Twins and errors look the same; the plan does not guess."""
    stored = registered(build(patient(), POLICY), identifier=[HG], gender="male")
    assert code(plan(patient(), found(by_demographics=[stored]), POLICY)) == "contradictory-demographics"


@pytest.mark.parametrize("family", ["Winter", "Sommer"])
def test_somebody_else_under_our_identifier_is_for_a_person(family: str) -> None:
    """An id that was used for another person, of the same family too, must not carry this one's data."""
    other = patient(name=[{"family": family, "given": ["Bo"]}], birthDate="1950-01-01")
    stored = registered(build(other, POLICY))
    assert code(plan(patient(), found(by_identifier=[stored]), POLICY)) == "contradictory-demographics"
    assert isinstance(plan(patient(), found(by_identifier=[stored]), POLICY, Context(force=True)), Update)


def test_somebody_else_under_the_recorded_id_is_for_a_person() -> None:
    """If Medplum has a wrong id, of a person whom no query finds, that record must not get the patient's data."""
    other = patient(name=[{"family": "Winter", "given": ["Bo"]}], birthDate="1950-01-01")
    known = found(recorded=registered(build(other, POLICY), identifier=[HG]))
    assert code(plan(patient(identifier=[HG]), known, POLICY)) == "contradictory-demographics"
    assert isinstance(plan(patient(identifier=[HG]), known, POLICY, Context(force=True)), Update)


def test_a_changed_identifier_is_refused_unless_forced() -> None:
    """Queries ask by the id: changing it silently would lose the patient's documents."""
    policy = replace(POLICY, identifier_system="urn:mrn")
    before, after = ([{"system": "urn:mrn", "value": value}, HG] for value in ("M-1", "M-2"))
    stored = registered(build(patient(identifier=before), policy))
    known = found(by_demographics=[stored])
    assert code(plan(patient(identifier=after), known, policy)) == "identifier-changed"
    forced = plan(patient(identifier=after), known, policy, Context(force=True))
    assert isinstance(forced, Update)
    assert [entry["value"] for entry in forced.body["identifier"]] == ["hg-1", "M-2"]


def test_a_changed_system_is_a_changed_identifier() -> None:
    """After a change of the system, the type PT distinguishes our identifiers from others."""
    stored = registered(build(patient(), replace(POLICY, patient_system="urn:oid:1.2.3")))
    assert code(plan(patient(identifier=[HG]), found(recorded=stored), POLICY)) == "identifier-changed"


def test_a_patient_registered_under_another_id_is_for_a_person() -> None:
    """Two Medplum Patients of one person are merged by a person, not by the bot, even when forced."""
    stored = registered(build(patient(id="another"), POLICY))
    for force in (False, True):
        answer = plan(patient(), found(by_demographics=[stored]), POLICY, Context(force=force))
        assert code(answer) == "registered-as-another"


def test_a_patient_takes_over_the_registration_of_one_that_was_merged_into_it() -> None:
    """The id of a merged record leads here already; one of another system is not that record's."""
    stored = registered(build(patient(id="former"), POLICY))
    answer = plan(patient(), found(by_identifier=[stored]), POLICY, Context(former=("former",)))
    assert isinstance(answer, Update)
    assert [entry["value"] for entry in answer.body["identifier"]] == ["hg-1", PATIENT_ID]
    elsewhere = registered(build(patient(id="former"), replace(POLICY, patient_system="urn:oid:1.2.3")))
    answer = plan(patient(), found(by_demographics=[elsewhere]), POLICY, Context(former=("former",)))
    assert code(answer) == "registered-as-another"


def test_the_recorded_id_must_be_the_found_one() -> None:
    """Medplum's id is checked on every run; with force, the registration under our own id is used instead."""
    stored = registered(build(patient(), POLICY), "hg-2")
    assert code(plan(patient(identifier=[HG]), found(by_identifier=[stored]), POLICY)) == "health-gorilla-id-differs"
    assert plan(patient(identifier=[HG]), found(by_identifier=[stored]), POLICY, Context(force=True)) == NothingToDo(
        "hg-2", PATIENT_ID
    )


def test_several_recorded_ids_are_for_a_person() -> None:
    """One patient has one registration; an old one does not count."""
    second = {"system": HEALTH_GORILLA_SYSTEM, "value": "hg-2"}
    assert code(plan(patient(identifier=[HG, second]), Found(), POLICY)) == "several-health-gorilla-ids"
    assert read(patient(identifier=[{**HG, "use": "old"}, second])).health_gorilla_ids == ("hg-2",)


def test_a_vanished_registration_is_for_a_person_unless_forced() -> None:
    """A missing recorded id may mean a merge in the index: no second patient is created silently."""
    known = patient(identifier=[HG])
    assert code(plan(known, Found(), POLICY)) == "registration-vanished"
    assert isinstance(plan(known, Found(), POLICY, Context(force=True)), Create)


def test_an_inactive_registration_is_for_a_person() -> None:
    """What Health Gorilla has put out of use is not written to."""
    stored = registered(build(patient(), POLICY), active=False)
    assert code(plan(patient(), found(by_identifier=[stored]), POLICY)) == "registration-inactive"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"active": False}, "patient-inactive"),
        ({"active": False, "link": [{"type": "replaced-by", "other": {"reference": "Patient/2"}}]}, "patient-merged"),
        (
            {"meta": {"tag": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HTEST"}]}},
            "test-patient",
        ),
    ],
)
def test_some_patients_are_never_registered(changes: Json, expected: str) -> None:
    """Inactive, merged and test patients are refused before anything is looked up."""
    assert code(plan(patient(**changes), Found(), POLICY)) == expected


def test_test_patients_are_registered_where_it_is_configured() -> None:
    """A sandbox may need them."""
    tagged = patient(meta={"tag": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HTEST"}]})
    assert isinstance(plan(tagged, Found(), replace(POLICY, test_patients=True)), Create)


@pytest.mark.parametrize("deceased", [{"deceasedBoolean": True}, {"deceasedDateTime": "2025-01-01"}])
def test_the_deceased_are_kept_but_not_newly_registered(deceased: Json) -> None:
    """A registration lives on, a new one needs the clinic's word."""
    gone = patient(**deceased)
    assert code(plan(gone, Found(), POLICY)) == "patient-deceased"
    assert isinstance(plan(gone, Found(), replace(POLICY, deceased=True)), Create)
    assert plan(gone, found(by_identifier=[registered(build(gone, POLICY))]), POLICY) == NothingToDo("hg-1", PATIENT_ID)


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ({"type": "replaced-by", "other": {"reference": "Patient/2"}}, "Patient/2"),
        ({"type": "replaces", "other": {"reference": "Patient/2"}}, None),
        ({"type": "replaced-by", "other": {"display": "gone"}}, None),
        ({"type": "replaced-by"}, None),
    ],
)
def test_only_a_replacing_patient_is_followed(link: Json, expected: str | None) -> None:
    """``replaces`` points the other way."""
    assert index_patient.replaced_by(patient(link=[link])) == expected


def test_the_registered_id_may_be_a_record_number() -> None:
    """Of several numbers the official one is registered; their order in the Patient never matters."""
    policy = replace(POLICY, identifier_system="urn:mrn")
    one, two = {"system": "urn:mrn", "value": "M-1"}, {"system": "urn:mrn", "value": "M-2"}
    assert external_ids(patient(identifier=[one]), policy) == ("M-1",)
    assert external_ids(patient(identifier=[one, dict(one)]), policy) == ("M-1",)
    for both in ([one, {**two, "use": "official"}], [{**two, "use": "official"}, one]):
        assert external_ids(patient(identifier=both), policy) == ("M-2", "M-1")
    for both in ([one, two], [two, one]):
        assert external_ids(patient(identifier=both), policy) == ("M-1", "M-2")
    assert missing(patient(), policy) == ("Patient.identifier",)


@pytest.mark.parametrize("number", ["M-1", "M-2"])
def test_a_second_record_number_leaves_the_registered_one_alone(number: str) -> None:
    """Whichever of the two the index knows stays the id, and a change of the patient arrives under it."""
    policy = replace(POLICY, identifier_system="urn:mrn")
    stored = registered(build(patient(identifier=[{"system": "urn:mrn", "value": number}]), policy))
    both = [{"system": "urn:mrn", "value": value} for value in ("M-2", "M-1")]
    unchanged = plan(patient(identifier=both), found(by_identifier=[stored]), policy)
    assert unchanged == NothingToDo("hg-1", number)
    moved = plan(patient(identifier=both, gender="male"), found(by_identifier=[stored]), policy)
    assert isinstance(moved, Update)
    assert (moved.changed, moved.external_id) == (("gender",), number)
    assert moved.body["identifier"] == stored["identifier"]


def test_a_social_security_number_is_never_the_registered_id() -> None:
    """Not even under the configured system."""
    policy = replace(POLICY, identifier_system="urn:mrn")
    ssn = {"system": "urn:mrn", "value": "900-12-3456", "type": {"text": "SSN"}}
    assert external_ids(patient(identifier=[ssn]), policy) == ()
    assert index_patient.shown({"identifier": [ssn, HG]}) == {"identifier": [HG]}


def test_the_id_is_written_back_once() -> None:
    """Medplum's Patient has one id in force; a replaced or ended one is kept as old, and can become current again."""
    mrn = {"system": "urn:mrn", "value": "M-1"}
    written = index_patient.with_health_gorilla_id(patient(identifier=[mrn]), "hg-1", NOW)
    assert written["identifier"] == [mrn, HG]
    assert index_patient.with_health_gorilla_id(written, "hg-1", NOW) == written
    anew = index_patient.with_health_gorilla_id(written, "hg-2", NOW)
    assert anew["identifier"] == [mrn, {**HG, "use": "old"}, {"system": HEALTH_GORILLA_SYSTEM, "value": "hg-2"}]
    ended = index_patient.with_health_gorilla_id(written, None, NOW)
    assert ended["identifier"] == [mrn, {**HG, "use": "old"}]
    assert read(ended).ended_ids == ("hg-1",)
    assert index_patient.with_health_gorilla_id(ended, "hg-1", NOW) == written


def test_a_registration_ended_here_is_revived_here() -> None:
    """A registration that the bot deactivated is activated again; any other inactive one needs a person."""
    stored = registered(build(patient(), POLICY), active=False)
    revived = plan(patient(identifier=[{**HG, "use": "old"}]), found(by_identifier=[stored]), POLICY)
    assert isinstance(revived, Update)
    assert (revived.changed, revived.body["active"]) == (("active",), True)


def test_a_registration_is_ended_once() -> None:
    """By identifier, or by the recorded id; one that is inactive already needs nothing."""
    stored = registered(build(patient(), POLICY))
    (ending,) = registration.endings(read(patient()), found(by_identifier=[stored]))
    assert (ending.id, ending.body) == ("hg-1", {**stored, "active": False})
    known = found(by_demographics=[stored, registered(build(patient(), POLICY), "hg-9")])
    assert [each.id for each in registration.endings(read(patient(identifier=[HG])), known)] == ["hg-1"]
    assert registration.endings(read(patient()), found(recorded={**stored, "active": False})) == []


@pytest.mark.parametrize(
    "junk", [{"type": "PT"}, {"type": {"coding": "PT"}}, {"type": {"coding": [{"code": "PT", "system": "x"}]}}]
)
def test_an_identifier_of_unknown_shape_is_left_alone(junk: Json) -> None:
    """Only a real PT type or our system makes an identifier ours."""
    stored = registered(build(patient(), POLICY))
    stored["identifier"].append(junk)
    assert plan(patient(), found(by_identifier=[stored]), POLICY) == NothingToDo("hg-1", PATIENT_ID)


def test_the_id_of_a_merged_record_leaves_the_registration() -> None:
    """The patient can be queried by one id only."""
    both = build(patient(), POLICY)
    both["identifier"] += build(patient(id="former"), POLICY)["identifier"]
    answer = plan(patient(), found(by_identifier=[registered(both)]), POLICY, Context(former=("former",)))
    assert isinstance(answer, Update)
    assert answer.changed == ("identifier",)
    assert [entry["value"] for entry in answer.body["identifier"]] == ["hg-1", PATIENT_ID]


@pytest.mark.parametrize("known_by", ["another", "hg-1"])
def test_a_patient_marked_as_not_the_same_is_another_person(known_by: str) -> None:
    """By the registered id of the other, or by the other's Health Gorilla id."""
    stored = registered(build(patient(id="another"), POLICY))
    result = Context(not_same=frozenset({known_by}))
    assert isinstance(plan(patient(), found(by_demographics=[stored]), POLICY, result), Create)


def test_a_merged_record_is_never_a_namesake() -> None:
    """The clinic decided that the two are one person: different attributes do not undo that."""
    other = patient(id="former", gender="male", name=[{"family": "Sommer", "given": ["Anna", "Karla"]}])
    known = found(by_demographics=[registered(build(other, POLICY))])
    assert isinstance(plan(patient(), known, POLICY), Create)
    assert code(plan(patient(), known, POLICY, Context(former=("former",)))) == "contradictory-demographics"


def test_of_two_registrations_the_one_recorded_in_medplum_counts() -> None:
    """Each of the two record numbers is registered; Medplum knows which record is right."""
    policy = replace(POLICY, identifier_system="urn:mrn")
    numbers = [{"system": "urn:mrn", "value": value} for value in ("M-1", "M-2")]
    ours = patient(identifier=[*numbers, HG])
    stored = [
        registered(build(patient(identifier=[each]), policy), hg)
        for each, hg in zip(numbers, ("hg-9", "hg-1"), strict=True)
    ]
    assert plan(ours, found(by_identifier=stored), policy) == NothingToDo("hg-1", "M-2")
