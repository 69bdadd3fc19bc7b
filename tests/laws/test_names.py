"""Laws of name matching."""

from __future__ import annotations

import unicodedata
from random import Random
from typing import Literal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bot_layer.fhir.json import Json
from bot_layer.health_gorilla.rules.names import NameMatch, comparable
from tests.health_gorilla.clinicians import match, official

pytestmark = pytest.mark.no_cover  # tests/health_gorilla shows that each way is taken

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
    """The match is the same for any order of the names in Medplum."""
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


# Words that differ however they are folded, so that each case below knows its answer by construction.
POOL = ("amara", "Béla", "CHIDI", "d'Arcy", "éva", "Fenn", "Gráinne", "hóng", "Ines", "Jürgen", "Kōji", "Łucja")


@st.composite
def built_cases(draw: st.DrawFn) -> tuple[Json, Json, NameMatch]:
    """A name of Medplum, a name of the directory, and the expected result, from the way in which they were built."""
    pool = list(draw(st.permutations(POOL)))
    family, first, second, other, later, more = pool[:6]
    two_words = draw(st.booleans())
    directory: Json = {"family": family, "given": [f"{first} {second}" if two_words else first, later]}
    same = [f"{first} {second}"] if two_words else [first]
    ways: dict[str, tuple[list[str], NameMatch]] = {
        "the same": (same, NameMatch.MATCH),
        "a middle name in an entry of its own": ([*same, other], NameMatch.MATCH),
        "other given names": ([other, more], NameMatch.GIVEN_DIFFERS),
        "a later given name of the directory": ([later], NameMatch.GIVEN_DIFFERS),
        "none": ([], NameMatch.MISSING),
    }
    if two_words:
        ways["the whole in two entries"] = ([first, second], NameMatch.MATCH)
        ways["half of it"] = ([first], NameMatch.GIVEN_DIFFERS)
    else:
        ways["a word among several"] = ([f"{other} {first}", more], NameMatch.MATCH)
        ways["a word of a longer entry"] = ([f"{other} {first} {more}"], NameMatch.MATCH)
    given_names_, expected = ways[draw(st.sampled_from(sorted(ways)))]
    own_family, family_is_other = family, draw(st.integers(0, 3)) == 0
    if family_is_other and expected is not NameMatch.MISSING:
        own_family, expected = pool[6], NameMatch.FAMILY_DIFFERS
    return {"family": own_family, "given": given_names_}, directory, expected


def rewritten(draw: st.DrawFn, text: str) -> str:
    """The same text to a reader: in another case, composed or decomposed, with other white space."""
    form: Literal["NFC", "NFD"] = draw(st.sampled_from(["NFC", "NFD"]))
    cased = draw(st.sampled_from([text, text.upper(), text.lower()]))
    spaced = cased.replace(" ", draw(st.sampled_from([" ", "  ", "\t"])))
    return draw(spaces) + unicodedata.normalize(form, spaced) + draw(spaces)


@given(built_cases(), st.data())
def test_the_answer_is_the_one_that_the_names_were_built_for(
    case: tuple[Json, Json, NameMatch], data: st.DataObject
) -> None:
    """Whole given names, single words, halves, later names, other families; however both sides are written."""
    name, directory, expected = case
    draw: st.DrawFn = data.draw  # type: ignore[assignment]  # data.draw has the same shape
    names, directories = (
        {"family": rewritten(draw, each["family"]), "given": [rewritten(draw, word) for word in each["given"]]}
        for each in (name, directory)
    )
    assert match([names], directories) is expected
    # A different person's name with the right given names changes nothing, at any position in the list.
    stranger = {"family": "Zzyzx", "given": list(directory["given"])}
    found = match(draw(st.permutations([names, stranger])), directories)
    assert found is (NameMatch.FAMILY_DIFFERS if expected is NameMatch.MISSING else expected)


@given(st.data(), st.lists(st.sampled_from(POOL), min_size=2, max_size=5, unique=True))
def test_the_directorys_name_is_the_current_one(data: st.DataObject, families: list[str]) -> None:
    """Of one current name and several former ones the current is taken; of two current ones the more official."""
    ranks = ["official", "usual", None, "nickname"]
    former = [
        {"use": "old"},
        {"use": "maiden"},
        {"period": {"end": "2001"}},
        {"use": "official", "period": {"end": "2001"}},
    ]
    better, worse = sorted(data.draw(st.lists(st.sampled_from(range(4)), min_size=2, max_size=2, unique=True)))
    current, second, *others = ({"family": family, "given": ["Ann"]} for family in families)
    before = [{**each, **data.draw(st.sampled_from(former))} for each in others]
    named = [
        {**each, **({"use": use} if (use := ranks[rank]) else {})}
        for each, rank in ((current, better), (second, worse))
    ]
    bare = {"use": "official", "text": "Dr. Ann"}
    everyone = data.draw(st.permutations([*named, *before, bare]))
    assert official(everyone) == named[0]
    assert official([bare, *before]) == bare
