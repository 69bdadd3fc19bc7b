"""The placeholders of the recorded contract: bound at their first occurrence, compared afterwards.

The README beside the recordings explains each of them. Values that the recorder did not keep (the fraction of a second,
a signature) are checked only for their form.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_JWT = r"[\w-]+\.[\w-]+\.[\w-]+"
_INSTANT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
_ENCODED_INSTANT = r"\d{4}-\d\d-\d\dT\d\d%3A\d\d%3A\d\d\.\d{3}Z"

# Placeholders with a fixed value, by the word before the number.
BOUND = {
    "id": _UUID,
    "bot": _UUID,
    "job": _UUID,
    "version": _UUID,
    "request-id": _UUID,
    "trace-id": _UUID,
    "new-token": _JWT,
    "id-token": _JWT,
    "bot-token": _JWT,
    "token": _JWT,
    "instant": f"{_INSTANT}|{_ENCODED_INSTANT}",
}
# Placeholders of which only the form is known.
FORM = {
    "instant": _INSTANT,
    "http-date": r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT",
    "js-date": r"[A-Z][a-z]{2} [A-Z][a-z]{2} \d\d \d{4} \d\d:\d\d:\d\d GMT\+0000 \(Coordinated Universal Time\)",
    "n": r"\d+",
    "seconds": r"\d+",
    "ms": r"\d+",
    "length": r"\d+",
    "expires": r"\d+",
    "signature": r"[A-Za-z0-9_%+/=~-]+",
    "signature-of-the-raw-body": r"[0-9a-f]{64}",
}
_PLACEHOLDER = re.compile(r"<([a-z-]+)(?::(\d+))?>")
_STORAGE_URL = re.compile(r"(/storage/[^/]+/[^?]+)\?Expires=(\d+)&Signature=([^\s\"]+)")
_STORAGE_REQUEST = re.compile(r"^(/storage/[^/]+/[^?]+)\?")
_PAD = re.compile(r"<pad:(\d+)>")


@dataclass
class Bindings:
    """The value of each placeholder of one scenario; grows while answers are compared."""

    values: dict[str, str]
    _owners: dict[str, str] = field(default_factory=dict)
    _signed: dict[str, tuple[str, str]] = field(default_factory=dict)
    _last_signed: tuple[str, str] = ("0", "none")

    def __post_init__(self) -> None:
        """What the set-up gave is taken: nothing that is bound later may be the same."""
        self._owners.update({value: key for key, value in self.values.items()})

    def fill(self, text: str, *, in_url: bool = False) -> str:
        """The text to send: placeholders replaced by their values."""

        def value(found: re.Match[str]) -> str:
            key = found.group(0)[1:-1]
            if key not in self.values:
                return found.group(0)
            return quote(self.values[key], safe="") if in_url and key.startswith("instant") else self.values[key]

        return self._fill_signature(_PLACEHOLDER.sub(value, _unpad(text)))

    def fill_json(self, value: Any) -> Any:
        """The same, in every string of a JSON value."""
        if isinstance(value, str):
            return self.fill(value)
        if isinstance(value, list):
            return [self.fill_json(item) for item in value]
        if isinstance(value, dict):
            return {key: self.fill_json(item) for key, item in value.items()}
        return value

    def _fill_signature(self, text: str) -> str:
        if "<signature>" not in text and "<expires>" not in text:
            return text
        path = re.search(r"/storage/[^/]+/[^?]+", text)
        expires, signature = self._signed.get(path.group(0) if path else "", self._last_signed)
        return text.replace("<expires>", expires).replace("<signature>", signature)

    def compare(self, expected: Any, actual: Any, at: str) -> list[str]:
        """One sentence for each difference between a recorded JSON value and the received one."""
        if isinstance(expected, str) and isinstance(actual, str):
            return self._compare_text(expected, actual, at)
        if isinstance(expected, dict) and isinstance(actual, dict):
            problems = [f"{at}.{key}: missing" for key in expected if key not in actual]
            problems += [f"{at}.{key}: not in the recording: {actual[key]!r}" for key in actual if key not in expected]
            for key in [key for key in expected if key in actual]:
                problems += self.compare(expected[key], actual[key], f"{at}.{key}")
            return problems
        if isinstance(expected, list) and isinstance(actual, list):
            problems = [] if len(expected) == len(actual) else [f"{at}: {len(expected)} items expected: {len(actual)}"]
            for index, (one, other) in enumerate(zip(expected, actual, strict=False)):
                problems += self.compare(one, other, f"{at}[{index}]")
            return problems
        same_kind = isinstance(expected, bool) == isinstance(actual, bool)
        return [] if same_kind and expected == actual else [f"{at}: expected {expected!r}, came {actual!r}"]

    def trimmed(self, expected: Any, actual: Any) -> Any:
        """The part of a value that the recorder kept: keys, and the items of lists."""
        if isinstance(expected, dict) and isinstance(actual, dict):
            return {key: self.trimmed(expected[key], actual[key]) for key in expected if key in actual}
        if not isinstance(expected, list) or not isinstance(actual, list):
            return actual
        kept = []
        for one in expected:
            cut = [self.trimmed(one, other) for other in actual]
            kept += [other for other in cut if not self.compare(one, other, "item")][:1]
        return kept

    def _compare_text(self, expected: str, actual: str, at: str) -> list[str]:
        expected = _unpad(expected)
        if expected == actual:
            return []
        pattern, keys = self._pattern(expected)
        found = re.fullmatch(pattern, actual, flags=re.DOTALL)
        if not found:
            return [f"{at}: expected {self.fill(expected)[:300]!r}, came {actual[:300]!r}"]
        problems = [problem for key, name in keys.items() if (problem := self._bind(key, found.group(name)))]
        for path, expires, signature in _STORAGE_URL.findall(actual):
            self._signed[path] = self._last_signed = (expires, signature)
        return [f"{at}: {problem}" for problem in problems]

    def _pattern(self, expected: str) -> tuple[str, dict[str, str]]:
        """A regular expression for the text, and the names of the groups that bind a placeholder."""
        parts: list[str] = []
        keys: dict[str, str] = {}
        position = 0
        for found in _PLACEHOLDER.finditer(expected):
            parts.append(re.escape(expected[position : found.start()]))
            position = found.end()
            parts.append(self._part(found, keys))
        parts.append(re.escape(expected[position:]))
        return "".join(parts), keys

    def _part(self, found: re.Match[str], keys: dict[str, str]) -> str:
        word, number, key = found.group(1), found.group(2), found.group(0)[1:-1]
        if key in self.values:
            value = self.values[key]
            return f"(?:{re.escape(value)}|{re.escape(quote(value, safe=''))})"
        if key in keys:
            return f"(?P={keys[key]})"
        if word in BOUND and (number or word not in FORM):
            keys[key] = f"b{len(keys)}"
            return f"(?P<{keys[key]}>{BOUND[word]})"
        return f"(?:{FORM[word]})" if word in FORM else re.escape(found.group(0))

    def _bind(self, key: str, value: str) -> str | None:
        """Stores the value; reports if another placeholder has the same one (two writes may share an instant)."""
        if key.startswith("instant"):
            value = value.replace("%3A", ":")
        elif self._owners.setdefault(value, key) != key:
            return f"<{key}> is the value of <{self._owners[value]}>: two different ones were recorded"
        self.values[key] = value
        return None


def _unpad(text: str) -> str:
    return _PAD.sub(lambda found: "x" * int(found.group(1)), text)
