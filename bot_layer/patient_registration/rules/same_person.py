"""Whether two records may be one person: what they share, and what speaks against it.

Two people often share a name and a birth date: 2 % of the patients of a register of 3.4 million did. So sex, middle
name, suffix, order of birth, address and phone count as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bot_layer.fhir import demographics
from bot_layer.fhir.contact_points import contact_points, key_of
from bot_layer.fhir.json import Json

_KNOWN_GENDERS = frozenset({"male", "female"})


@dataclass(frozen=True)
class Identity:
    """What tells people apart, read from a FHIR Patient and folded for comparison."""

    family: str = field(repr=False)
    given: tuple[str, ...] = field(repr=False)
    suffix: tuple[str, ...] = field(repr=False)
    birth_date: str = field(repr=False)
    gender: str = field(repr=False)
    address: tuple[str, ...] = field(repr=False)
    points: frozenset[tuple[str, str] | None] = field(repr=False)
    birth_order: int | None = field(repr=False)
    is_twin: bool = field(repr=False)
    names: frozenset[tuple[str, str]] = field(repr=False)

    @classmethod
    def read(cls, patient: Json) -> Identity:
        """The identity of a Patient, by the name and address in force; ``names`` are all names ever borne."""
        name, address = demographics.current_name(patient), demographics.current_address(patient)
        given = tuple(map(demographics.folded, name.get("given", ())))
        order = patient.get("multipleBirthInteger")
        order = order if isinstance(order, int) and not isinstance(order, bool) else None
        return cls(
            family=demographics.folded(name.get("family")),
            given=given,
            suffix=tuple(demographics.folded(part).strip(".") for part in name.get("suffix", ())),
            birth_date=demographics.words(patient.get("birthDate")),
            gender=demographics.words(patient.get("gender")),
            address=demographics.folded_address(address) if address else (),
            points=frozenset(key_of(point) for point in contact_points(patient.get("telecom"))),
            birth_order=order,
            is_twin=order is not None or patient.get("multipleBirthBoolean") is True,
            names=frozenset(
                (demographics.folded(each.get("family")), demographics.folded(first))
                for each in demographics.entries(patient.get("name"))
                for first in demographics.texts(each.get("given"))[:1]
            ),
        )

    @property
    def first_names(self) -> tuple[str, tuple[str, ...]]:
        """Family name and first given name, by which the index is searched."""
        return self.family, self.given[:1]


@dataclass(frozen=True)
class Differences:
    """What speaks against two records being one person: ``strong`` marks do not change, ``weak`` ones may."""

    strong: frozenset[str]
    weak: frozenset[str]

    @property
    def are_two_people(self) -> bool:
        """Whether two unchanging marks differ, so that nobody needs to look."""
        return len(self.strong) > 1


def is_alike(one: Json, other: Json) -> bool:
    """Same family name, first given name and birth date: a search may answer more loosely."""
    ours, theirs = Identity.read(one), Identity.read(other)
    return ours.first_names == theirs.first_names and ours.birth_date == theirs.birth_date


def differences(one: Json, other: Json) -> Differences:
    """What differs where both records say something. Twin marks count as weak where only one record has them."""
    ours, theirs = Identity.read(one), Identity.read(other)
    orders = {ours.birth_order, theirs.birth_order}
    strong = {
        "gender": {ours.gender, theirs.gender} == _KNOWN_GENDERS,
        "middle name": _are_other_middles(ours.given[1:], theirs.given[1:]),
        "suffix": bool(ours.suffix and theirs.suffix and ours.suffix != theirs.suffix),
        "order of birth": None not in orders and len(orders) > 1,
    }
    weak = {
        "address": bool(ours.address and theirs.address and ours.address != theirs.address),
        "phone": bool(ours.points and theirs.points and not ours.points & theirs.points),
        "twin": ours.is_twin != theirs.is_twin,
    }
    return Differences(*(frozenset(name for name, differs in marks.items() if differs) for marks in (strong, weak)))


def is_somebody_else(one: Json, other: Json) -> bool:
    """Whether two records contradict each other so much that one may not overwrite the other.

    That is so where they share no name and their birth dates differ, or where family name, given name and sex all
    differ. What one of them does not say contradicts nothing.
    """
    ours, theirs = Identity.read(one), Identity.read(other)
    if not ours.names or not theirs.names or ours.names & theirs.names:
        return False
    if ours.birth_date and theirs.birth_date and ours.birth_date != theirs.birth_date:
        return True
    families = {family for family, _ in ours.names} & {family for family, _ in theirs.names}
    firsts = {first for _, first in ours.names} & {first for _, first in theirs.names}
    return not families and not firsts and {ours.gender, theirs.gender} == _KNOWN_GENDERS


def _are_other_middles(ours: tuple[str, ...], theirs: tuple[str, ...]) -> bool:
    """Whether middle names differ; an initial fits every name that begins with it."""
    one, other = " ".join(ours).replace(".", " ").split(), " ".join(theirs).replace(".", " ").split()
    pairs = list(zip(one, other, strict=False))
    return any(a != b and not (min(len(a), len(b)) == 1 and a[:1] == b[:1]) for a, b in pairs)
