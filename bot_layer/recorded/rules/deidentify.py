"""De-identifies a recording: values that ``kept`` allows stay, and all others are replaced.

The types of a FHIR resource's elements are known. In other JSON only booleans, small numbers and the names of members
are kept. HL7 messages, URLs, JSON and base64 inside a text are treated in the same way.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode

from bot_layer.fhir.json import Json
from bot_layer.recorded.rules import kept
from bot_layer.recorded.rules.elements import UNKNOWN, Element, element, is_resource_type
from bot_layer.recorded.rules.hl7_text import is_message, replaced_message
from bot_layer.recorded.rules.pseudonyms import Pseudonyms

TOKEN: Final = "invented-token"  # noqa: S105  # a placeholder
SECRET: Final = "invented-secret-of-forty-characters-long"  # noqa: S105  # as above
_REMOVED: Final = '<div xmlns="http://www.w3.org/1999/xhtml">Removed</div>'
_REMOVED_CONTENT: Final = base64.b64encode(b"Removed").decode()
_JWT: Final = re.compile(r"eyJ[\w-]+\.[\w-]*\.?[\w-]*")
_SECRET_NAME: Final = re.compile(
    r"(?i)(?:access_?token|refresh_?token|id_?token|secret|password|assertion|signature|api_?key|authorization)"
)
_BIRTH: Final = re.compile(r"(?i)birth|dob")
_REFERENCE: Final = re.compile(r"([A-Z][A-Za-z]+)/([A-Za-z0-9.-]{1,64})(?:/_history/([A-Za-z0-9.-]{1,64}))?")
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:T[0-9:.]+(?:Z|[+-][0-9]{2}:[0-9]{2})?)?")
_PARTIAL: Final = re.compile(r"[0-9]{4}-[0-9]{2}")
_PREFIXED: Final = re.compile(r"(eq|ne|gt|lt|ge|le|sa|eb|ap)([0-9]{4}-.*)")
_COMPACT: Final = re.compile(r"(?:19|20)[0-9]{6}(?:[0-9]{4}(?:[0-9]{2})?(?:\.[0-9]+)?(?:[+-][0-9]{4})?)?")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]{24,}={0,2}")
_EMAIL: Final = re.compile(r"([^@\s]+)@([^@\s]+)")
_ETAG: Final = re.compile(r'(W/)?"([^"]*)"')
_NAME: Final = re.compile(r"_?[A-Za-z$][A-Za-z0-9_$.:-]{0,63}")
_WORDS: Final = re.compile(r"[^\W_]{4,}")
_PERSONAL: Final = frozenset(
    ["family", "given", "line", "city", "email", "phone", "login", "username", "firstName", "lastName", "birthDate"]
)
_SYSTEMS: Final = frozenset({"system", "url", "profile", "valueSet", "instantiatesCanonical", "instantiatesUri"})


@dataclass
class Deidentified:
    """The replacements of one recording.

    ``origins`` maps the origins (``https://host``) of the recorded servers to their placeholders. ``personal`` are the
    words of personal elements in it, in lower case: a URI or a member's name with one of them is not kept. ``names``
    are those of the parameters and settings that the bot declares.
    """

    pseudonyms: Pseudonyms
    origins: Mapping[str, str] = field(default_factory=dict)
    personal: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()

    def value(self, value: Any, name: str = "", at: Element = UNKNOWN, around: Json | None = None) -> Any:
        """A JSON value; ``name`` is its member's name, ``at`` its element, ``around`` the object that it is in."""
        if isinstance(value, dict):
            return self._object(value, at)
        if isinstance(value, list):
            return [self.value(each, name, at, around) for each in value]
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            return value if name in kept.COUNTS or abs(value) < 10 else self.pseudonyms.number(value)
        return self._string(value, name, at, around or {})

    def _object(self, value: Json, at: Element) -> Json:
        named = value.get("resourceType")
        model = str(named) if is_resource_type(named) else at.type
        made = {}
        for name, each in value.items():
            if name == "resourceType":
                made[name] = named if is_resource_type(named) else self.text(str(each))
                continue
            own = element(model, name) if model else UNKNOWN
            if name.startswith("_") and own is not UNKNOWN and isinstance(each, list | dict):
                own = Element("Element")
            made[self._member(name)] = self.value(each, name, own, value)
        return made

    def _member(self, name: str) -> str:
        return name if _NAME.fullmatch(name) and not self._is_personal(name) else self.text(name)

    def _string(self, value: str, name: str, at: Element, around: Json) -> str:
        if value in at.codes or (at.type in {"Code", "String"} and self._is_code(value, name, around)):
            return value
        if _SECRET_NAME.search(name):
            return TOKEN
        match at.type:
            case "Xhtml":
                return _REMOVED
            case "Id":
                return self.pseudonyms.text(value)
            case "Base64Binary":
                return self._opened(value) or _REMOVED_CONTENT
            case "Date" | "DateTime" | "Instant":
                return self._date(value, is_birth=at.type == "Date") or self.text(value)
            case "Uri" | "Url" | "Canonical" | "Oid":
                return self.uri(value, is_name=name in _SYSTEMS)
        if name == "state":
            return self.pseudonyms.state(value)
        if _BIRTH.search(name) and (made := self._date(value, is_birth=True)):
            return made
        return self.text(value, is_name=name in _SYSTEMS)

    def _is_code(self, value: str, name: str, around: Json) -> bool:
        if name == "name" and ("resource" in around or "part" in around or any(key[:5] == "value" for key in around)):
            return value in self.names  # of a parameter
        if name == "valueCode" and around.get("name") in self.names and not self._is_personal(value):
            return kept.is_code(name, value, None)
        return kept.is_code(name, value, around.get("system") or around.get("url") or "") or (
            name == "code" and is_resource_type(value)
        )

    def _is_personal(self, text: str) -> bool:
        return any(word.casefold() in self.personal for word in _WORDS.findall(text))

    def text(self, value: str, *, is_name: bool = False) -> str:
        """Any text, treated by its form."""
        if not any(each.isalnum() for each in value) or (value in self.names and value.isupper()):
            return value  # nothing to replace, or the name of a setting
        if _JWT.fullmatch(value):
            return TOKEN
        if is_message(value):
            return replaced_message(value, self.text, self._birth)
        if (parsed := parsed_json(value)) is not None:
            return json.dumps(self.value(parsed), ensure_ascii=False)
        if "://" in value or value.startswith("urn:"):
            head, bar, rest = value.partition("|")  # system|value
            return self.uri(head, is_name=is_name or bool(bar)) + bar + (self.text(rest) if rest else "")
        found = _REFERENCE.fullmatch(value)
        if found and is_resource_type(found[1]):
            version = f"/_history/{self.pseudonyms.text(found[3])}" if found[3] else ""
            return f"{found[1]}/{self.pseudonyms.text(found[2])}{version}"
        if made := self._date(value):
            return made
        if found := _EMAIL.fullmatch(value):
            return f"{self.pseudonyms.text(found[1])}@{self.pseudonyms.text(found[2].split('.')[0])}.example.com"
        if _BASE64.fullmatch(value) and (made := self._opened(value)):
            return made
        return self.pseudonyms.text(value)

    def _birth(self, value: str) -> str:
        return self._date(value, is_birth=True) or self.text(value)

    def _date(self, value: str, *, is_birth: bool = False) -> str:
        if found := _PREFIXED.fullmatch(value):
            made = self._date(found[2], is_birth=is_birth)
            return found[1] + made if made else ""
        for pattern, form in ((_DATE, "%Y-%m-%d"), (_PARTIAL, "%Y-%m"), (_COMPACT, "%Y%m%d")):
            if pattern.fullmatch(value):
                return self.pseudonyms.date(value, form, is_birth=is_birth)
        return ""

    def uri(self, value: str, *, is_name: bool = False) -> str:
        """A URI of a recorded server, of a standard, the name of a system (``is_name``), a reference, or any other."""
        origin = origin_of(value)
        if origin in self.origins:
            return self.origins[origin] + self.path(value[len(origin) :])
        if kept.is_public(value) or (is_name and kept.is_system(value) and not self._is_personal(value)):
            return value
        if value.startswith("#"):
            return f"#{self.pseudonyms.text(value[1:])}"
        if value.startswith("urn:"):
            kind, _, rest = value.removeprefix("urn:").partition(":")
            made = self.pseudonyms.text(rest or kind)
            if kind == "oid":  # under HL7's arc for examples
                return f"urn:oid:2.16.840.1.113883.19.{int(re.sub(r'[^0-9]', '', made)[-9:] or 0)}"
            return f"urn:{kind if kind == 'uuid' else 'x'}:{made}"
        if origin:
            host = self.pseudonyms.text(kept.split_url(origin).hostname or "").replace(".", "-")
            return f"https://{host}.example.org{self.path(value[len(origin) :])}"
        return self.path(value) if "/" in value or "?" in value else self.text(value) if "://" not in value else TOKEN

    def path(self, value: str, template: str = "") -> str:
        """The path of a URL with its query; the fixed segments of the template stay."""
        path, mark, query = value.partition("?")
        fixed = {each for each in template.split("/") if "{" not in each}
        segments = [each if kept.is_segment(each) or each in fixed else self._segment(each) for each in path.split("/")]
        kind = next((each for each in segments if is_resource_type(each)), "")
        pairs = [(self._member(name), self._query(kind, name, each)) for name, each in parse_qsl(query, True)]
        return "/".join(segments) + mark + urlencode(pairs, quote_via=quote, safe="|,:/$")

    def _segment(self, text: str) -> str:
        return quote(self.pseudonyms.text(unquote(text)), safe="") if text else ""

    def _query(self, kind: str, name: str, value: str) -> str:
        if name in kept.QUERIES and kept.QUERY_VALUE.fullmatch(value) and not self._is_personal(value):
            return value
        plain = name.partition(":")[0]
        if value in {"true", "false"} or value in element(kind, plain).codes:
            return value
        if _BIRTH.search(plain):
            return self._birth(value)
        return ",".join(self.text(each) for each in value.split(","))

    def _opened(self, value: str) -> str:
        """Base64 with its content de-identified if the content is text; else empty."""
        try:
            decoded = base64.b64decode(value, validate=True).decode()
        except ValueError:
            return ""
        is_text = decoded.isprintable() or "\n" in decoded
        return base64.b64encode(self.text(decoded).encode()).decode() if is_text else ""

    def body(self, body: Json | None) -> Json | None:
        """The body of a recorded request or answer."""
        if body is None:
            return None
        if "text" not in body:
            return {"base64": _REMOVED_CONTENT}
        text = body["text"]
        if (parsed := parsed_json(text)) is not None:
            return {"json": self.value(parsed)}
        lines = [parsed_json(line) for line in text.splitlines() if line.strip()]
        if len(lines) > 1 and all(line is not None for line in lines):
            return {"text": "".join(f"{json.dumps(self.value(line), ensure_ascii=False)}\n" for line in lines)}
        return {"text": self.text(text)}

    def headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers of a recorded answer."""
        rules: Mapping[str, Callable[[str], str]] = {
            "Content-Type": lambda value: value if kept.is_media_type(value) else "application/octet-stream",
            "ETag": lambda value: _ETAG.sub(lambda found: f'{found[1] or ""}"{self.pseudonyms.text(found[2])}"', value),
            "Retry-After": lambda value: value if value.isdigit() else "1",
        }
        return {name: rules.get(name, self.uri)(value) for name, value in headers.items()}


def origin_of(url: str) -> str:
    """``scheme://host:port`` of a URL; empty for none."""
    parts = kept.split_url(url)
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme in {"http", "https"} and parts.netloc else ""


def personal_words(value: Any, name: str = "", parent: str = "") -> set[str]:
    """The words of names, identifiers, addresses and contact points in a JSON value, in lower case."""
    if isinstance(value, dict):
        return set().union(*(personal_words(each, member, name) for member, each in value.items()))
    if isinstance(value, list):
        return set().union(*(personal_words(each, name, parent) for each in value))
    is_personal = name in _PERSONAL or (name == "value" and parent in {"identifier", "telecom"})
    if not isinstance(value, str) or not (is_personal or (name == "text" and parent == "name")):
        return set()
    return {word.casefold() for word in _WORDS.findall(value)}


def parsed_json(text: str) -> Any:
    """The JSON object or array of a text, else None."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
