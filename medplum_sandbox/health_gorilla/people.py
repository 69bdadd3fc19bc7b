"""Invented clinicians, and NPIs with a valid check digit that belong to no real person."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

# The registry's first number is 1003000126: a lower number was never assigned.
_UNUSED = 300_000


@dataclass(frozen=True)
class Clinician:
    """A clinician as the registry spells the name."""

    npi: str
    family: str
    given: tuple[str, ...]
    suffix: tuple[str, ...] = ()


def npi(seed: int) -> str:
    """An invented NPI: ten digits with the check digit of ISO 7812 over the prefix 80840.

    https://www.cms.gov/Regulations-and-Guidance/Administrative-Simplification/NationalProvIdentStand/Downloads/NPIcheckdigit.pdf
    """
    body = f"{100_000_000 + seed % _UNUSED:09d}"
    total = 0
    for place, digit in enumerate(reversed("80840" + body)):
        doubled = int(digit) * (2 if place % 2 == 0 else 1)
        total += doubled // 10 + doubled % 10
    return body + str(-total % 10)


# Middle names, hyphens, apostrophes, accents, two-word names, several suffixes, none: what name rules stumble over.
PEOPLE: tuple[Clinician, ...] = (
    Clinician(npi(1), "Gorilla", ("Joe",), ("PA",)),
    Clinician(npi(2), "Okonkwo-Reyes", ("Amara", "L"), ("MD",)),
    Clinician(npi(3), "O'Bannion", ("Siobhan",), ("DNP", "MSN", "APRN")),
    Clinician(npi(4), "de la Vega", ("Mateo", "Ignacio"), ("DO",)),
    Clinician(npi(5), "Müller", ("Jürgen",), ("MD", "PhD")),
    Clinician(npi(6), "Lindqvist", ("Mary Ann",), ("NP",)),
    Clinician(npi(7), "St. Croix", ("Jean-Luc",), ()),
    Clinician(npi(8), "Nakagawa", ("Hana",), ("MD",)),
    Clinician(npi(9), "Van Der Berg", ("Pieter", "J"), ("MD",)),
    Clinician(npi(10), "Abernathy Jr", ("Thomas",), ("DPM",)),
    Clinician(npi(11), "Ñandú", ("Inés", "María"), ("MD",)),
    Clinician(npi(12), "Quill", ("Peregrine",), ("PA-C",)),
)

_FAMILIES = (
    "Ashgrove", "Brackenfell", "Copperfield", "Dunmarrow", "Eastwick", "Fernsby", "Goldacre", "Hollowell", "Inkpen",
    "Jessamy", "Kettleworth", "Larkspur", "Merriweather", "Nightshade", "Ottershaw", "Pemberly", "Quicksilver",
    "Ravenscroft", "Silverthorne", "Tolliver", "Underhill", "Vantongeren", "Whitlock", "Yarrow", "Zellweger",
)  # fmt: skip
_GIVENS = (
    "Ada", "Basil", "Clementine", "Dashiell", "Edith", "Florian", "Greta", "Hugo", "Imogen", "Jasper", "Kestrel",
    "Linus", "Matilda", "Nestor", "Odette", "Percival", "Quentin", "Rosalind", "Sylvester", "Tabitha", "Ulric",
    "Violet", "Wilhelmina", "Xanthe", "Yvaine", "Zebedee",
)  # fmt: skip
_SUFFIXES = ((), ("MD",), ("DO",), ("NP",), ("PA",), ("DNP", "APRN"))


def generated(count: int, seed: int) -> Iterator[Clinician]:
    """``count`` clinicians with different NPIs, the same ones for the same ``seed``."""
    chance = random.Random(seed)  # noqa: S311 - invented people need to be the same on every run, not secret
    for number in chance.sample(range(1_000, _UNUSED), count):
        given = (chance.choice(_GIVENS), *((chance.choice("ABCDEFGH"),) if chance.random() < 0.4 else ()))
        yield Clinician(npi(number), chance.choice(_FAMILIES), given, chance.choice(_SUFFIXES))
