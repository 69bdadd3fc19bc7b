"""Whether two records may be one person: what they share, and in what they differ.

Two people often share a name and a birth date: 2 % of the patients of a register of 3.4 million did. So sex, middle
name, suffix, order of birth, address and phone count as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bot_layer.fhir.demographics import Demographics, plain_letters

_KNOWN_GENDERS: Final = frozenset({"male", "female"})
_SUFFIXES: Final = {"junior": "jr", "senior": "sr", "2nd": "ii", "3rd": "iii", "4th": "iv"}


@dataclass(frozen=True)
class Differences:
    """In what two records differ: ``strong`` marks do not change during a life, ``weak`` ones may."""

    strong: frozenset[str]
    weak: frozenset[str]

    @property
    def marks(self) -> frozenset[str]:
        """All of them."""
        return self.strong | self.weak

    @property
    def are_two_people(self) -> bool:
        """Whether two unchanging marks differ, so that nobody needs to look."""
        return len(self.strong) > 1


def is_alike(one: Demographics, other: Demographics) -> bool:
    """Whether two records share a name, in any spelling, and the birth date: a search may answer more loosely."""
    return bool(one.names & other.names) and one.birth_date == other.birth_date


def differences(one: Demographics, other: Demographics) -> Differences:
    """What differs where both records say something. Twin marks count as weak where only one record has them."""
    orders = {one.birth_order, other.birth_order}
    strong = {
        "gender": {one.gender, other.gender} == _KNOWN_GENDERS,
        "middle name": _are_other_middles(one, other),
        "suffix": _differ(_suffix(one), _suffix(other)),
        "order of birth": None not in orders and len(orders) > 1,
    }
    weak = {
        "address": _differ(one.folded_address, other.folded_address),
        "phone": bool(one.points and other.points and not one.reached_by & other.reached_by),
        "twin": one.is_twin != other.is_twin,
    }
    return Differences(*(frozenset(name for name, differs in marks.items() if differs) for marks in (strong, weak)))


def is_somebody_else(one: Demographics, other: Demographics) -> bool:
    """Whether two records contradict each other so much that one may not overwrite the other.

    That is so where they share no name and their birth dates differ, or where family name, given name and sex all
    differ. What one of them does not say contradicts nothing.
    """
    if not one.names or not other.names or one.names & other.names:
        return False
    if not is_same_birth_date(one, other):
        return True
    shared = [{name[part] for name in one.names} & {name[part] for name in other.names} for part in (0, 1)]
    return not any(shared) and {one.gender, other.gender} == _KNOWN_GENDERS


def is_same_birth_date(one: Demographics, other: Demographics) -> bool:
    """Whether the birth dates agree as far as both are known: a year fits each of its days."""
    return one.birth_date.startswith(other.birth_date) or other.birth_date.startswith(one.birth_date)


def _differ(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return bool(one and other and one != other)


def _suffix(person: Demographics) -> tuple[str, ...]:
    plain = map(plain_letters, person.name.get("suffix", ()))
    return tuple(_SUFFIXES.get(each, each) for each in plain)


def _are_other_middles(one: Demographics, other: Demographics) -> bool:
    """Whether middle names differ; an initial fits every name that begins with it."""
    if "".join(one.given_words) == "".join(other.given_words):
        return False
    pairs = zip(one.given_words[1:], other.given_words[1:], strict=False)
    return any(a != b and not (min(len(a), len(b)) == 1 and a[:1] == b[:1]) for a, b in pairs)
