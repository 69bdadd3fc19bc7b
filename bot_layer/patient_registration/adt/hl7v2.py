r"""HL7 version 2 text as values: segments of fields of repetitions of components of subcomponents, escapes resolved.

python-hl7 finds the structure: it takes every version, short segments and any separators, where hl7apy knows a list of
versions only and leaves escapes alone. Its ``unescape`` is not used, because it drops an unfinished sequence and logs
what stands in the field. Only the segments that registration reads are taken apart; of the others the name is kept.
https://www.hl7.eu/HL7v2x/v251/std251/ch02.html (2.7 escape sequences, 2.15.9.18 character set)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import hl7

from bot_layer.errors import InputError
from bot_layer.patient_registration.adt.character_sets import codec

NULL: Final = '""'
"""What a sender writes to say that a value is to be removed; an empty field says nothing."""
MOST_SEGMENTS: Final = 5_000
MOST_REPETITIONS: Final = 100
MOST_FIELDS: Final = 200
READ: Final = frozenset({"MSH", "EVN", "PID", "PD1", "MRG", "ARV", "PV1", "MSA", "ERR"})

_FRAMING: Final = "\x0b\x1c\ufeff \t\r\n"
_HEADER: Final = re.compile(r"MSH([^A-Za-z0-9\s])(?:(?!\1)[^A-Za-z0-9\s]){2,5}\1")
_USUAL: Final = "^~\\&"
_LOST: Final = "\ufffd"
# Half a character, which nothing can store or send on, and control characters other than tab and line ends.
_UNUSABLE: Final = re.compile("[\ud800-\udfff\x00-\x08\x0b\x0c\x0e-\x1f]")
_ESCAPED: Final = {"|": "F", "^": "S", "&": "T", "~": "R", "\\": "E"}
_FORMATTING: Final = re.compile(r"\.(?:br|sp|fi|nf|in|ti|sk|ce).*")

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


def parse(text: str) -> tuple[Segment, ...]:
    """The segments of one message, whatever ends its lines and whatever frames it. The first one is MSH.

    InputError where the text is no single message, is too large, or holds characters that were lost on the way.
    """
    lines = _lines(text)
    if any(line.startswith("MSH") for line in lines[1:]) or not _has_signs(lines[0]):
        raise _no_message()
    if len(lines) > MOST_SEGMENTS or any(_is_too_long(line, lines[0]) for line in lines):
        raise InputError(
            f"The message is too large: at most {MOST_SEGMENTS} segments, {MOST_FIELDS} fields, and "
            f"{MOST_REPETITIONS} repetitions in a segment that is read.",
            code="message-too-large",
        )
    if _LOST in text or any(_UNUSABLE.search(line) for line in lines):
        raise InputError(
            "Characters were lost before the message arrived: have it decoded by MSH-18.",
            code="character-set",
            expression=["MSH-18"],
        )
    head = _split(lines[0], lines[0])
    names = _escapes(lines[0])
    character_set = Segment("MSH", head, {}, "").text(18)
    return tuple(Segment(_name(line, lines[0]), _split(line, lines[0]), names, character_set) for line in lines)


def first_segment(text: str) -> Segment:
    """The MSH alone, also of a message whose characters or signs can't be read: an answer needs its control id."""
    line = _UNUSABLE.sub("?", _lines(text)[0])
    if not _has_signs(line):
        return Segment("MSH", line.split(line[3]), {}, "")
    return Segment("MSH", _split(line, line), _escapes(line), Segment("MSH", _split(line, line), {}, "").text(18))


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


def _has_signs(header_line: str) -> bool:
    """Whether the separators of a message differ from each other; one sign for two of them separates nothing.

    Where MSH-2 is short, the usual signs stand for the rest.
    """
    given = header_line[4:].split(header_line[3], maxsplit=1)[0]
    signs = header_line[3] + given + _USUAL[len(given) :]
    return len(set(signs)) == len(signs)


def _name(line: str, header_line: str) -> str:
    return line.partition(header_line[3])[0]


def _is_too_long(line: str, header_line: str) -> bool:
    return _name(line, header_line) in READ and (
        line.count(header_line[3]) > MOST_FIELDS or line[9:].count(header_line[5]) > MOST_REPETITIONS
    )


def _split(line: str, header_line: str) -> Sequence[object]:
    """The fields of a segment that is read; of any other segment none."""
    if _name(line, header_line) not in READ:
        return ()
    # The library learns the separators from a header, which it is given with each segment.
    found = hl7.parse(line if line is header_line else f"{header_line}\r{line}")  # type: ignore[no-untyped-call]  # the library ships no types
    return found[0 if line is header_line else 1][1:]  # type: ignore[no-any-return]  # as above


def _no_message() -> InputError:
    return InputError(
        "Send one HL7 message that begins with MSH and whose separators differ from each other.",
        code="not-hl7",
        expression=["MSH"],
    )


def _escape_sign(sign: str) -> str:
    if sign in _ESCAPED:
        return f"\\{_ESCAPED[sign]}\\"
    if "\ud800" <= sign <= "\udfff":
        return "?"
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
            resolved = bytes.fromhex(sequence[1:]).decode(codec(character_set))
        except ValueError:
            resolved = "\x00"
        if not _UNUSABLE.search(resolved):
            return resolved
    raise InputError("The message has an unknown escape sequence.", code="escape-sequence")


def _escapes(header_line: str) -> dict[str, str]:
    """The letters of this message's separators: MSH-1, and MSH-2 as far as it goes; P is version 2.7's."""
    signs = header_line[4:].split(header_line[3], maxsplit=1)[0]
    return {"F": header_line[3], **dict(zip("SRETP", signs, strict=False))}


def _components(value: object, names: Mapping[str, str], character_set: str) -> Value:
    return tuple(
        tuple(unescape(str(part), names, character_set).strip() for part in _parts(component))
        for component in _parts(value)
    )


def _parts(value: object) -> Sequence[object]:
    """The parts of a container; a text that has none is its own only part."""
    return value if isinstance(value, list) else [value]
