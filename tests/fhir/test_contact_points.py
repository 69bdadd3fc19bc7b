"""Phones and e-mail addresses as written, and as sent."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_layer.fhir.contact_points import contact_points, key_of

NOW = datetime(2026, 5, 4, tzinfo=UTC)


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("(310) 555-0142", "(310) 555-0142"),
        ("tel:+1-310-555-0142", "+1-310-555-0142"),
        ("TEL:+1(310)555-0142;ext=77", "+1(310)555-0142 x77"),
        ("tel:310-555-0142;phone-context=+1", "310-555-0142"),
        ("310-555-0142 Ext: 5", "310-555-0142 x5"),
        ("310-555-0142 ext. 12", "310-555-0142 x12"),
        ("310-555-0142, extension 9", "310-555-0142 x9"),
        ("310-555-0142 (ext 9)", "310-555-0142 x9"),
        ("310-555-0142 #5", "310-555-0142 x5"),
        ("310-555-0142x5", "310-555-0142 x5"),
        # HL7 2.3: extension, beeper and comment in one text.
        ("(310)555-0142X5B12345Ccall after five", "(310)555-0142 x5"),
        ("(310)555-0142Cask for the nurse", "(310)555-0142"),
        ("Home: 310.555.0142", "310.555.0142"),
        ("310-555-0142 (mobile)", "310-555-0142"),
        ("310\u2013555\u20130142", "310-555-0142"),
        ("310\u00a0555\u00a00142", "310 555 0142"),
        ("310-555-0142 / 310-555-0143", "310-555-0142"),
        ("\uff13\uff11\uff105550142", "3105550142"),
        ("+44 20 7946 0958", "+44 20 7946 0958"),
    ],
)
def test_a_phone_is_sent_without_what_does_not_belong_to_it(written: str, sent: str) -> None:
    assert contact_points([{"system": "phone", "value": written}], NOW) == [{"system": "phone", "value": sent}]


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("mailto:anna@mail.example", "anna@mail.example"),
        ("MAILTO:anna@mail.example?subject=Hello", "anna@mail.example"),
        ("Anna Sommer <anna@mail.example>", "anna@mail.example"),
        (" anna@mail.example ", "anna@mail.example"),
    ],
)
def test_an_email_address_is_sent_alone(written: str, sent: str) -> None:
    assert contact_points([{"system": "email", "value": written}], NOW) == [{"system": "email", "value": sent}]


@pytest.mark.parametrize(
    "point",
    [
        {"system": "phone", "value": "none"},
        {"system": "phone", "value": "555"},
        {"system": "phone", "value": "1234567890123456"},
        {"system": "email", "value": "anna at mail"},
        {"system": "fax", "value": "310-555-0142"},
        {"system": "pager", "value": "310-555-0142"},
        {"system": "url", "value": "https://anna.example"},
        {"use": "home"},
        {"system": "phone", "value": 5},
        {"system": "phone", "value": "310-555-0142", "use": "old"},
        {"system": "phone", "value": "310-555-0142", "period": {"end": "2020"}},
    ],
)
def test_unusable_contact_points_are_not_sent(point: dict[str, object]) -> None:
    assert contact_points([point], NOW) == []


def test_an_end_in_the_year_9999_is_no_end() -> None:
    """Systems that need a date write it for a number that is still in use."""
    point = {"system": "phone", "value": "310-555-0142", "period": {"start": "2020", "end": "9999-12-31"}}
    assert [each["value"] for each in contact_points([point], NOW)] == ["310-555-0142"]


def test_of_two_entries_with_the_same_number_the_better_rank_counts() -> None:
    """The sample of the guide: the same number as work, rank 2, and mobile, rank 1."""
    work = {"system": "phone", "value": "(111) 111 1111", "use": "work", "rank": 2}
    mobile = {"system": "phone", "value": "+1 111 111-1111", "use": "mobile", "rank": 1}
    unranked = {"system": "phone", "value": "1111111111"}
    assert contact_points([work, mobile], NOW) == [mobile]
    assert contact_points([unranked, mobile, work], NOW) == [mobile]
    assert contact_points([work, unranked], NOW) == [work]


def test_a_scheme_says_what_a_value_is() -> None:
    written = [{"system": "url", "value": "tel:3105550142"}, {"value": "anna@mail.example"}]
    assert [point["system"] for point in contact_points(written, NOW)] == ["phone", "email"]


@given(
    st.from_regex(r"[2-9][0-9]{2}-[2-9][0-9]{2}-[0-9]{4}", fullmatch=True),
    st.sampled_from(["{}", "tel:{}", "tel:+1-{}", "+1 {}", "1-{}", "{} x7", "{} ext 7", "{};ext=7", "({}", "{} home"]),
)
def test_every_form_of_a_number_has_one_key(number: str, form: str) -> None:
    """The oracle is the number's ten digits."""
    assert key_of({"system": "phone", "value": form.format(number)}) == ("phone", number.replace("-", ""))


@given(st.text("0123456789()+-./ xX#;=:extlno@a\u2013", max_size=24))
def test_cleaning_twice_changes_nothing(text: str) -> None:
    once = contact_points([{"system": "phone", "value": text}], NOW)
    assert contact_points(once, NOW) == once
