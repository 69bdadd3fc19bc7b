"""Who a FHIR Patient is: what a patient index matches on, cleaned and made comparable.

https://hl7.org/fhir/R4/patient.html and https://hl7.org/fhir/R4/datatypes.html#HumanName
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Final

from bot_layer.fhir.contact_points import contact_points, keys_of
from bot_layer.fhir.json import Json, as_object, objects, text
from bot_layer.fhir.periods import in_force

# A name or address that is no longer used, or hides the person's name, is never registered.
_PAST_USES: Final = frozenset({"old", "maiden", "temp", "anonymous", "nickname"})
_NAME_ORDER: Final = {"official": 0, "usual": 1}
_PAST_ADDRESS_USES: Final = frozenset({"old", "temp", "billing"})
_ADDRESS_PARTS: Final = ("line", "city", "state", "postalCode")
_POST_OFFICE_BOX: Final = re.compile(
    r"\b(?:p\.?\s*o\.?\s*b(?:ox|\.)|pob\b|post(?:al)?\s+(?:office\s+)?box\b)", re.IGNORECASE
)
_BETWEEN_WORDS: Final = re.compile(r"[\s\u00ad\u2010-\u2015\u2212-]+")
# Letters that have no accent to take away, and the German ones as they are written without umlauts.
_PLAIN_LETTERS: Final = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "\u0131": "i"}
)
_UMLAUTS: Final = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue"})


@dataclass(frozen=True)
class Demographics:
    """The person of a Patient. ``name``, ``address`` and ``points`` are cleaned elements that are in force.

    ``names`` are all names ever borne, as pairs of a family name and the beginning of the given names, in plain
    letters: different spellings of a name share a pair.
    """

    name: Json = field(repr=False)
    address: Json = field(repr=False)
    points: tuple[Json, ...] = field(repr=False)
    birth_date: str = field(repr=False)
    gender: str = field(repr=False)
    birth_order: int | None = field(repr=False)
    is_twin: bool = field(repr=False)
    names: frozenset[tuple[str, str]] = field(repr=False)

    @classmethod
    def read(cls, patient: Json, now: datetime) -> Demographics:
        """The demographics of a Patient at the time ``now``."""
        order = patient.get("multipleBirthInteger")
        if not isinstance(order, int) or isinstance(order, bool):
            order = None
        return cls(
            name=_current_name(patient, now),
            address=_current_address(patient, now),
            points=tuple(contact_points(patient.get("telecom"), now)),
            birth_date=words(patient.get("birthDate")),
            gender=words(patient.get("gender")),
            birth_order=order,
            is_twin=order is not None or patient.get("multipleBirthBoolean") is True,
            names=frozenset(pair for name in objects(patient.get("name")) for pair in _pairs(name)),
        )

    @property
    def full_birth_date(self) -> str:
        """The birth date where it is a whole calendar date, else ""."""
        try:
            return self.birth_date if date.fromisoformat(self.birth_date).isoformat() == self.birth_date else ""
        except ValueError:
            return ""

    @property
    def missing_address_parts(self) -> tuple[str, ...]:
        """Which of line, city, state and postal code the address lacks."""
        return _missing_parts(self.address)

    @property
    def given_words(self) -> tuple[str, ...]:
        """The single words of the given names in plain letters: "Ida May" in one text are two."""
        return tuple(map(plain_letters, _words_of(self.name.get("given", ()))))

    @property
    def folded_name(self) -> tuple[str, ...]:
        """Family, given and suffix as they are compared: without case and needless spaces."""
        # Suffixes (Jr, III) do not take part in Health Gorilla's matching, but a change of one is still a change.
        given, suffix = (self.name.get(part, ()) for part in ("given", "suffix"))
        return folded(self.name.get("family")), " ".join(map(folded, given)), *map(folded, suffix)

    @property
    def folded_address(self) -> tuple[str, ...]:
        """Line, city, state, postal code and country as they are compared; () without an address."""
        parts = (folded(self.address.get(part)) for part in (*_ADDRESS_PARTS[1:], "country"))
        return (" ".join(map(folded, self.address.get("line", ()))), *parts) if self.address else ()

    @property
    def reached_by(self) -> frozenset[tuple[str, str] | None]:
        """The phones and mailboxes by which the person is reached."""
        return keys_of(self.points)

    @property
    def search_names(self) -> tuple[tuple[str, str], ...]:
        """Family and given names by which an index is searched for this person and for copies of the record.

        A server compares the beginning of a name, and may hold "Ida May" as one name or as two. The last pair are the
        initials, which other spellings of a name begin with too.
        """
        given = self.name.get("given", ())
        family, first = text(self.name.get("family")), "".join(_words_of(given)[:1])
        pairs = [(family, first), (family, " ".join(given)), (_initial(family), _initial(first))]
        return tuple(dict.fromkeys(pairs))


def words(value: object) -> str:
    """The text without outer and doubled spaces; "" for anything that is not text."""
    return " ".join(value.split()) if isinstance(value, str) else ""


def folded(value: object) -> str:
    """The text as it is compared: composed, without case, without needless spaces."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", words(value)).casefold())


def plain_letters(value: object, *, umlauts: bool = False) -> str:
    """The letters and digits of a text without case, accents, spaces and signs, as many systems send names.

    "O'Brien" and "OBRIEN" are one, "Muñoz" is "munoz". ``umlauts`` spells "Müller" as "mueller".
    """
    composed = folded(value)
    spelled = (composed.translate(_UMLAUTS) if umlauts else composed).translate(_PLAIN_LETTERS)
    return "".join(sign for sign in unicodedata.normalize("NFKD", spelled) if sign.isalnum())


def texts(value: object) -> tuple[str, ...]:
    """The non-empty texts of a list; an empty tuple for anything else."""
    return tuple(text for text in map(words, value) if text) if isinstance(value, list) else ()


def _current_name(patient: Json, now: datetime) -> Json:
    """Family, given and suffix of the name in force: official before usual before the rest; {} where there is none."""
    names = [name for name in objects(patient.get("name")) if text(name.get("use")) not in _PAST_USES]

    def rank(name: Json) -> tuple[bool, bool, int]:
        is_whole = {"family", "given"} <= _name(name).keys()
        return not in_force(name, now), not is_whole, _NAME_ORDER.get(text(name.get("use")), 2)

    return _name(min(names, key=rank, default={}))


def _current_address(patient: Json, now: datetime) -> Json:
    """The address in force; {} where there is none.

    The most complete one comes first, then one where the patient lives before a mailing address or a post office box,
    then the home address.
    """
    addresses = [entry for entry in objects(patient.get("address")) if text(entry.get("use")) not in _PAST_ADDRESS_USES]

    def rank(entry: Json) -> tuple[bool, int, bool, bool]:
        missing = len(_missing_parts(_address(entry)))
        return not in_force(entry, now), missing, _is_postal(entry), entry.get("use") != "home"

    return _address(min(addresses, key=rank, default={}))


def _initial(name: str) -> str:
    return plain_letters(name)[:1].upper()


def _missing_parts(address: Json) -> tuple[str, ...]:
    return tuple(part for part in _ADDRESS_PARTS if not address.get(part))


def _pairs(name: Json) -> Iterator[tuple[str, str]]:
    """Family name and beginnings of the given names: of "Anne Marie" both "anne" and "annemarie"."""
    given = list(map(plain_letters, _words_of(texts(name.get("given")))))
    families = {plain_letters(name.get("family"), umlauts=umlauts) for umlauts in (False, True)} - {""}
    for end in range(1, len(given) + 1):
        yield from ((family, "".join(given[:end])) for family in families)


def _words_of(given: tuple[str, ...] | list[str]) -> list[str]:
    return [word for part in given for word in _BETWEEN_WORDS.split(part) if plain_letters(word)]


def _name(entry: Json) -> Json:
    return _cleaned(entry, ("family",), ("given", "suffix"))


def _address(entry: Json) -> Json:
    period = _cleaned(as_object(entry.get("period")), ("start", "end"))
    found = _cleaned(entry, ("use", "type", "text", "city", "state", "postalCode", "country"), ("line",))
    return {**found, "period": period} if period else found


def _cleaned(entry: Json, single: tuple[str, ...], repeated: tuple[str, ...] = ()) -> Json:
    """These elements of an entry without needless spaces, and none without a value."""
    parts: Json = {name: words(entry.get(name)) for name in single}
    parts |= {name: list(texts(entry.get(name))) for name in repeated}
    return {name: value for name, value in parts.items() if value}


def _is_postal(address: Json) -> bool:
    """Whether an address is only for mail."""
    return address.get("type") == "postal" or any(map(_POST_OFFICE_BOX.search, texts(address.get("line"))))
