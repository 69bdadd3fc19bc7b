r"""HL7 version 2 text as values: segments of fields of repetitions of components of subcomponents, escapes resolved.

python-hl7 finds the structure: it takes every version, short segments and any separators, where hl7apy knows a list of
versions only and leaves escapes alone. Its ``unescape`` is not used, because it drops an unfinished sequence and logs
what the field contains. Only the segments that registration reads are taken apart; of the others the name is kept.
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
# Names of character sets (MSH-18, table 0211) without signs; Python knows all others. An empty field means ASCII, of
# which UTF-8 is a superset.
_CODECS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("", "ASCII", "USASCII", "ISOIR6", "UNICODE", "UNICODEUTF8", "ISOIR192"), "utf-8"),
    "UNICODEUTF16": "utf-16",
    "ANSI": "cp1252",
    "ISOIR100": "iso8859-1",
    "ISOIR87": "iso2022_jp",
    "GB180302000": "gb18030",
    "KSX1001": "euc_kr",
}
_ISO_8859: Final = re.compile(r"(?:ISO)?8859(\d{1,2})")


@dataclass(frozen=True)
class Repetition:
    """One value of a field; components and subcomponents count from 1, and a missing one is ""."""

    components: tuple[tuple[str, ...], ...] = field(repr=False)

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
        """The values of a field that say something; none for a field that is empty, null or missing."""
        return tuple(value for value in self._values(number) if not value.says_nothing)

    def text(self, number: int, component: int = 1, subcomponent: int = 1) -> str:
        """One part of a field's first value."""
        values = self.repetitions(number)
        return values[0].text(component, subcomponent) if values else ""

    def is_null(self, number: int) -> bool:
        """Whether the sender asks to remove what the field said before."""
        return [value.components for value in self._values(number)] == [((NULL,),)]

    def _values(self, number: int) -> list[Repetition]:
        values = _parts(self.fields[number - 1]) if number <= len(self.fields) else ()
        return [Repetition(tuple(map(self._component, _parts(value)))) for value in values]

    def _component(self, component: object) -> tuple[str, ...]:
        return tuple(unescape(str(part), self.escapes, self.character_set).strip() for part in _parts(component))


def decode(message: bytes) -> str:
    """The text of a message that came as bytes, read by the character set that its own header names (MSH-18)."""
    first_line = re.split(rb"[\r\n]", message.lstrip(b"\x0b\xef\xbb\xbf \t\r\n"))[0]
    declared = parse(first_line.decode("latin-1"))[0].text(18)
    try:
        return message.decode(_codec(declared)).lstrip("\ufeff")
    except UnicodeError:
        raise _wrong_characters("The message is not written in the character set that MSH-18 names.") from None


def parse(text: str) -> tuple[Segment, ...]:
    """The segments of one message, whatever ends its lines and whatever frames it. The first one is MSH.

    InputError where the text is no single message, is too large, or contains characters that were lost on the way.
    """
    lines = _lines(text)
    if any(line.startswith("MSH") for line in lines[1:]) or not _has_signs(lines[0]):
        raise _no_message()
    separator, repeating = lines[0][3], lines[0][5]
    names = [line.partition(separator)[0] for line in lines]
    read = [line for name, line in zip(names, lines, strict=True) if name in READ]
    if len(lines) > MOST_SEGMENTS or any(
        line.count(separator) > MOST_FIELDS or line[9:].count(repeating) > MOST_REPETITIONS for line in read
    ):
        raise InputError(
            f"The message is too large: at most {MOST_SEGMENTS} segments, {MOST_FIELDS} fields, and "
            f"{MOST_REPETITIONS} repetitions in a segment that is read.",
            code="message-too-large",
        )
    if _LOST in text or any(_UNUSABLE.search(line) for line in lines):
        raise _wrong_characters("Characters were lost before the message arrived: have it decoded by MSH-18.")
    fields = iter(_split(read))
    head = _header(lines[0], next(fields))
    others = ((name, next(fields) if name in READ else ()) for name in names[1:])
    return (head, *(Segment(name, found, head.escapes, head.character_set) for name, found in others))


def first_segment(text: str) -> Segment:
    """The MSH alone, also of a message whose characters or signs can't be read: an answer needs its control id."""
    line = _UNUSABLE.sub("?", _lines(text)[0])
    return _header(line, _split([line])[0]) if _has_signs(line) else Segment("MSH", line.split(line[3]), {}, "")


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


def _header(line: str, fields: Sequence[object]) -> Segment:
    """The MSH; the letters of its escapes stand for MSH-1, and for MSH-2 as far as it goes; P is version 2.7's."""
    signs = line[4:].split(line[3], maxsplit=1)[0]
    escapes = {"F": line[3], **dict(zip("SRETP", signs, strict=False))}
    return Segment("MSH", fields, escapes, Segment("MSH", fields, {}, "").text(18))


def _split(lines: Sequence[str]) -> list[Sequence[object]]:
    """The fields of each line; the first line is the header, from which the library learns the separators."""
    return [segment[1:] for segment in hl7.parse("\r".join(lines))]  # type: ignore[no-untyped-call]  # the library ships no types


def _no_message() -> InputError:
    return InputError(
        "Send one HL7 message that begins with MSH and whose separators differ from each other.",
        code="not-hl7",
        expression=["MSH"],
    )


def _wrong_characters(text: str) -> InputError:
    return InputError(text, code="character-set", expression=["MSH-18"])


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
            resolved = bytes.fromhex(sequence[1:]).decode(_codec(character_set))
        except ValueError:
            resolved = "\x00"
        if not _UNUSABLE.search(resolved):
            return resolved
    raise InputError("The message has an unknown escape sequence.", code="escape-sequence")


def _codec(character_set: str) -> str:
    """Python's name for a value of MSH-18; InputError ``character-set`` for an unknown one."""
    name = re.sub(r"[^A-Z0-9]", "", character_set.upper())
    part = _ISO_8859.fullmatch(name)
    known = f"iso8859-{part[1]}" if part else _CODECS.get(name, re.sub(r"^WIN(?:DOWS)?(?=\d)", "CP", name))
    try:
        bytes(4).decode(known)
    except LookupError:
        raise _wrong_characters("MSH-18 names a character set that is not supported.") from None
    return known


def _parts(value: object) -> Sequence[object]:
    """The parts of a container; a text that has none is its own only part."""
    return value if isinstance(value, list) else [value]
