r"""HL7 version 2 text as values: segments of fields of repetitions of components of subcomponents, escapes resolved.

python-hl7 finds the structure: it takes every version, short segments and any separators, where hl7apy knows a list of
versions only and leaves escapes alone. Its ``unescape`` is not used, as it drops an unfinished sequence and logs what
stands in the field.
https://www.hl7.eu/HL7v2x/v251/std251/ch02.html (2.7 escape sequences, 2.15.9.18 character set)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import hl7

from bot_layer.errors import InputError

NULL: Final = '""'
"""What a sender writes to say that a value is to be removed; an empty field says nothing."""

_FRAMING: Final = "\x0b\x1c\ufeff \t\r\n"
_HEADER: Final = re.compile(r"MSH([^A-Za-z0-9])[^A-Za-z0-9]{2,5}\1")
_LOST: Final = "\ufffd"
_ESCAPED: Final = {"|": "F", "^": "S", "&": "T", "~": "R", "\\": "E"}
_FORMATTING: Final = re.compile(r"\.(?:br|sp|fi|nf|in|ti|sk|ce).*")
# HL7 table 0211; the names on the right are Python's.
_CHARACTER_SETS: Final[Mapping[str, str]] = {
    "": "utf-8",
    "ASCII": "utf-8",
    "UNICODE UTF-8": "utf-8",
    "UTF-8": "utf-8",
    "UNICODE": "utf-8",
    "GB 18030-2000": "gb18030",
    "KS X 1001": "euc_kr",
    "BIG-5": "big5",
    "ISO IR87": "iso2022_jp",
    **{f"8859/{part}": f"iso8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
}

Value = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Repetition:
    """One value of a field; components and subcomponents count from 1, and one that is not there is ""."""

    components: Value = field(repr=False)

    def text(self, component: int = 1, subcomponent: int = 1) -> str:
        """One part of the value."""
        parts = self.components[component - 1] if component <= len(self.components) else ()
        text = parts[subcomponent - 1] if subcomponent <= len(parts) else ""
        return "" if text == NULL else text

    @property
    def says_nothing(self) -> bool:
        """Whether every part is empty or null."""
        return all(text in ("", NULL) for parts in self.components for text in parts)


@dataclass(frozen=True)
class Segment:
    """One line of a message; fields count from 1. Its escapes are resolved where a field is read, and only there."""

    name: str
    fields: Sequence[object] = field(repr=False)
    escapes: Mapping[str, str]
    character_set: str

    def repetitions(self, number: int) -> tuple[Repetition, ...]:
        """The values of a field that say something; none for a field that is empty, null or not there."""
        return tuple(value for value in self._field(number) if not value.says_nothing)

    def text(self, number: int, component: int = 1, subcomponent: int = 1) -> str:
        """One part of a field's first value."""
        values = self.repetitions(number)
        return values[0].text(component, subcomponent) if values else ""

    def is_null(self, number: int) -> bool:
        """Whether the sender asks to remove what the field said before."""
        return [value.components for value in self._field(number)] == [((NULL,),)]

    def _field(self, number: int) -> tuple[Repetition, ...]:
        values = _parts(self.fields[number - 1]) if number <= len(self.fields) else ()
        return tuple(Repetition(_components(value, self.escapes, self.character_set)) for value in values)


def decode(message: bytes) -> str:
    """The text of a message that came as bytes, read by the character set that its own header names (MSH-18)."""
    first_line = re.split(rb"[\r\n]", message.lstrip(b"\x0b\xef\xbb\xbf \t\r\n"))[0]
    declared = parse(first_line.decode("latin-1"))[0].text(18)
    try:
        return message.decode(codec(declared)).lstrip("\ufeff")
    except UnicodeError:
        raise InputError(
            "The message is not written in the character set that MSH-18 names.",
            code="character-set",
            expression=["MSH-18"],
        ) from None


def codec(character_set: str) -> str:
    """Python's name for a value of MSH-18; none given means ASCII, of which UTF-8 is a superset."""
    try:
        return _CHARACTER_SETS[character_set.strip().upper()]
    except KeyError:
        raise InputError(
            "MSH-18 names a character set that is not supported.", code="character-set", expression=["MSH-18"]
        ) from None


def parse(text: str) -> tuple[Segment, ...]:
    """The segments of one message, whatever ends its lines and whatever frames it. The first one is MSH."""
    lines = _lines(text)
    if any(line.startswith("MSH") for line in lines[1:]):
        raise _no_message()
    if _LOST in text:
        raise InputError(
            "Characters were lost before the message arrived: have it decoded by MSH-18.",
            code="character-set",
            expression=["MSH-18"],
        )
    message = hl7.parse("\r".join(lines))  # type: ignore[no-untyped-call]  # the library ships no types
    character_set = codec(_segment(message[0], {}, "utf-8").text(18))
    names = _escapes(lines[0])
    return tuple(_segment(segment, names, character_set) for segment in message)


def first_segment(text: str) -> Segment:
    """The MSH alone, also of a message whose characters can't be read: an answer needs its control id."""
    line = _lines(text)[0]
    message = hl7.parse(line)  # type: ignore[no-untyped-call]  # as above
    declared = _segment(message[0], {}, "utf-8").text(18)
    return _segment(message[0], _escapes(line), _CHARACTER_SETS.get(declared.strip().upper(), "utf-8"))


def unescape(text: str, names: Mapping[str, str], character_set: str) -> str:
    r"""The text with its escape sequences resolved; one that is never closed stays as it is.

    ``names`` maps the letters of separators to this message's signs; ``\X..\`` holds bytes of its character set.
    """
    escape = names.get("E")
    if escape is None or escape not in text:
        return text
    sign = re.escape(escape)
    return re.sub(rf"{sign}([^{sign}]*){sign}", lambda match: _resolve(match[1], names, character_set), text)


def escape(text: str) -> str:
    r"""The text as it may stand in a message with the usual separators; line ends become ``\X0D\`` and ``\X0A\``."""
    return "".join(_escape_sign(sign) for sign in text)


def render(*segments: Sequence[str]) -> str:
    """A message of segments whose fields are rendered already; empty fields at the end of a segment are left away."""
    return "".join("|".join(segment).rstrip("|") + "\r" for segment in segments)


def _lines(text: str) -> list[str]:
    lines = [line.strip(_FRAMING) for line in re.split(r"\r\n|\r|\n", text.strip(_FRAMING))]
    lines = [line for line in lines if line]
    if not lines or not _HEADER.match(lines[0]):
        raise _no_message()
    return lines


def _no_message() -> InputError:
    return InputError("Send one HL7 message that begins with MSH.", code="not-hl7", expression=["MSH"])


def _escape_sign(sign: str) -> str:
    if sign in _ESCAPED:
        return f"\\{_ESCAPED[sign]}\\"
    return f"\\X{ord(sign):02X}\\" if ord(sign) < 0x20 else sign


def _resolve(sequence: str, names: Mapping[str, str], character_set: str) -> str:
    if sequence in names:
        return names[sequence]
    if sequence in ("H", "N", "") or sequence.startswith("Z"):
        return ""  # highlighting and a vendor's own sequences have no meaning in a name or an address
    if _FORMATTING.fullmatch(sequence):
        return "\n"
    if sequence.startswith("X"):
        try:
            return bytes.fromhex(sequence[1:]).decode(character_set)
        except ValueError:
            pass
    raise InputError("An escape sequence of the message is not understood.", code="escape-sequence")


def _escapes(header_line: str) -> dict[str, str]:
    """The letters of this message's separators: MSH-1, and MSH-2 as far as it goes; P is version 2.7's."""
    signs = header_line[4:].split(header_line[3], maxsplit=1)[0]
    return {"F": header_line[3], **dict(zip("SRETP", signs, strict=False))}


def _segment(segment: hl7.Segment, names: Mapping[str, str], character_set: str) -> Segment:
    return Segment(str(segment[0]), segment[1:], names, character_set)


def _components(value: object, names: Mapping[str, str], character_set: str) -> Value:
    return tuple(
        tuple(unescape(str(part), names, character_set).strip() for part in _parts(component))
        for component in _parts(value)
    )


def _parts(value: object) -> Sequence[object]:
    """The parts of a container; a text that has none is its own only part."""
    return value if isinstance(value, list) else [value]
