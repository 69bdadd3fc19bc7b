"""De-identifies HL7 v2 messages: the structure and the codes of HL7 tables stay, by segment and field.

https://www.hl7.org/implement/standards/product_brief.cfm?product_id=185 (chapters 2 and 3)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from bot_layer.recorded.rules.elements import words
from bot_layer.recorded.rules.kept import ID_TYPES

_SEGMENT: Final = re.compile(r"[A-Z][A-Z0-9]{2}")
_CODED: Final = re.compile(r"[A-Z0-9_.^]{1,24}|UNICODE UTF-8|8859/[0-9]{1,2}")
# Fields of codes: message type, processing id, version, character set; event; sex; class; acknowledgment and errors.
_FIELDS: Final = frozenset(
    {
        *(("MSH", 9), ("MSH", 11), ("MSH", 12), ("MSH", 15), ("MSH", 16), ("MSH", 18), ("EVN", 1), ("PID", 8)),
        *(("PID", 30), ("PV1", 2), ("MSA", 1), ("ERR", 3), ("ERR", 4)),
    }
)
# Components of codes: the type of an identifier, of a name, of an address; the use and the equipment of a phone.
_IDENTIFIERS: Final = ("PID", (2, 3, 4, 18)), ("MRG", (1, 2, 4))
_COMPONENTS: Final[Mapping[tuple[str, int, int], frozenset[str]]] = {
    **{(segment, number, 5): ID_TYPES for segment, numbers in _IDENTIFIERS for number in numbers},
    **{("PID", number, 7): words("A B C D F H I L M N P R S T U V") for number in (5, 6, 9)},
    ("PID", 11, 7): words("B BA BDL BI BR C F H HV L M N O P RH S SH TM V"),
    **{("PID", number, 2): words("ASN BPN EMR NET ORN PRN PRS VHN WPN") for number in (13, 14)},
    **{("PID", number, 3): words("BP CP FX Internet MD PH SAT TDD TTY X.400") for number in (13, 14)},
}
_BIRTHS: Final = frozenset({("PID", 7), ("NK1", 16)})


def is_message(text: str) -> bool:
    """True for text that begins with a message header."""
    return text.startswith("MSH") and len(text) > 8 and not text[3].isalnum() and text[3] not in "\r\n"


def replaced_message(text: str, replaced: Callable[[str], str], replaced_birth: Callable[[str], str]) -> str:
    """The message with everything replaced except its structure and codes."""
    field, component, repetition, subcomponent = text[3], text[4], text[5], text[7]

    def leaf(where: tuple[str, int], place: int, value: str) -> str:
        if value in _COMPONENTS.get((*where, place), ()):
            return value
        return replaced_birth(value) if where in _BIRTHS else replaced(value)

    def content(where: tuple[str, int], value: str) -> str:
        if where in _FIELDS and _CODED.fullmatch(value.replace(component, "^")):
            return value
        return repetition.join(
            component.join(
                subcomponent.join(leaf(where, place, each) for each in part.split(subcomponent))
                for place, part in enumerate(one.split(component), start=1)
            )
            for one in value.split(repetition)
        )

    def segment(line: str) -> str:
        name, *fields = line.split(field)
        if not _SEGMENT.fullmatch(name):
            return replaced(line)
        first = 2 if name == "MSH" else 1  # the separator itself is MSH-1
        made = [
            each if (name, number) == ("MSH", 2) else content((name, number), each)
            for number, each in enumerate(fields, start=first)
        ]
        return field.join([name, *made])

    return "".join(part if part in "\r\n" else segment(part) for part in re.split(r"([\r\n])", text))
