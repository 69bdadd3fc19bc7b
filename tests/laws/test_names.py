"""Laws of name matching."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bot_layer.fhir.json import Json
from bot_layer.health_gorilla.rules.names import NameMatch, comparable, match

pytestmark = pytest.mark.no_cover  # that each way is taken, tests/core shows

letters = st.characters(categories=["Lu", "Ll", "Lm", "Lo", "Mn"], include_characters="'-.")
words = st.text(letters, min_size=1, max_size=12).filter(lambda word: bool(comparable(word)))
given_names = st.lists(words, min_size=1, max_size=4)
spaces = st.text(" \t\n", max_size=3)


@st.composite
def human_names(draw: st.DrawFn) -> Json:
    return {"family": draw(words), "given": draw(given_names)}


directory_names = human_names()


def styled(draw: st.DrawFn, text: str) -> str:
    """The same text, in another case and with white space around it."""
    # Not every letter survives upper and lower case (ß becomes SS), so only a style that folds back is used.
    written = [text, text.upper(), text.lower(), text.title()]
    same = [form for form in written if comparable(form) == comparable(text)]
    return draw(spaces) + draw(st.sampled_from(same)) + draw(spaces)


@given(st.data(), st.lists(human_names(), min_size=1, max_size=3), directory_names)
def test_case_and_outer_space_make_no_difference(data: st.DataObject, names: list[Json], directory: Json) -> None:
    """The match is the same however Medplum's names are written and spaced."""
    draw: st.DrawFn = data.draw  # type: ignore[assignment]  # data.draw has the same shape
    restyled = [
        {"family": styled(draw, name["family"]), "given": [styled(draw, part) for part in name["given"]]}
        for name in names
    ]
    assert match(restyled, directory) is match(names, directory)


@given(st.lists(human_names(), min_size=1, max_size=4), directory_names, st.randoms(use_true_random=False))
def test_the_order_of_names_makes_no_difference(names: list[Json], directory: Json, random: Random) -> None:
    """The match is the same in whatever order Medplum keeps the names."""
    shuffled = list(names)
    random.shuffle(shuffled)
    assert match(shuffled, directory) is match(names, directory)


@given(directory_names, words, st.integers(0, 4))
def test_a_middle_name_added_in_medplum_never_undoes_a_match(directory: Json, middle: str, place: int) -> None:
    """Who matches still matches with one more given name."""
    own = {"family": directory["family"], "given": [directory["given"][0]]}
    assert match([own], directory) is NameMatch.MATCH
    more = list(own["given"])
    more.insert(place, middle)
    assert match([{**own, "given": more}], directory) is NameMatch.MATCH


@given(human_names(), directory_names)
def test_another_family_never_matches(name: Json, directory: Json) -> None:
    """A different family is a mismatch of the family, whatever the given names."""
    assume(comparable(name["family"]) != comparable(directory["family"]))
    found = match([{**name, "given": directory["given"]}], directory)
    assert found is NameMatch.FAMILY_DIFFERS


@given(directory_names, st.sampled_from([{}, {"family": ""}, {"given": []}, {"family": " ", "given": [" "]}]))
def test_the_empty_or_missing_name_never_matches(directory: Json, hollow: Json) -> None:
    """A name without family or given never matches, on either side."""
    assert match([hollow], directory) is NameMatch.MISSING
    assert match([], directory) is NameMatch.MISSING
    assert match([directory], hollow) is NameMatch.DIRECTORY_NAME_MISSING


@given(st.lists(human_names(), max_size=3), directory_names)
def test_a_name_more_never_undoes_a_match(names: list[Json], directory: Json) -> None:
    """If one of the practitioner's names is the directory's, the others don't matter."""
    assert match([*names, directory], directory) is NameMatch.MATCH
