"""Replacements for personal words, numbers, dates and ids: of the same shape, and equal for equal text.

All are derived from a random key that is discarded afterwards. Each letter and digit is shifted by an amount other than
zero that depends on the whole word; only the first letter of a word depends on that letter alone, so that an initial
still fits its name. Accents and capitals keep their places, so that two spellings of one name remain two spellings of
one name. A number has the same replacement in every notation.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import string
import unicodedata
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from bot_layer.fhir.identifiers import is_npi
from bot_layer.recorded.rules.elements import words

_RUN: Final = re.compile(r"[^\W_]+", re.UNICODE)
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_HEX: Final = re.compile(r"(?=.*[0-9])[0-9a-fA-F]{8,}")
# An id of Health Gorilla: its kind (tenant, location, facility) is before the hyphen.
_KIND: Final = re.compile(r"([a-z]{1,2}-)([0-9a-f]{8,})")
_ZIP: Final = re.compile(r"([0-9]{5})(-?)([0-9]{4})")
_UNUSED_NPIS: Final = 10_000  # the register begins with 1003000100
# Suffixes of names that identify nobody.
_TITLES: Final = frozenset({"jr", "sr", "ii", "iii", "iv"})
_STATES: Final = sorted(
    words(
        "AL AK AZ AR CA CO CT DE FL GA HI ID IL IN IA KS KY LA ME MD MA MI MN MS MO MT NE NV NH NJ NM NY NC ND OH OK "
        "OR PA RI SC SD TN TX UT VT VA WA WV WI WY DC PR"
    )
)
# Dates that mean "always" or "never".
_ENDLESS: Final = ("9999-12-31", "2999-12-31")
_LONGEST: Final = 64
_LONGEST_TEXT: Final = 200
_TIMES: Final = {"%Y-%m-%d": "T%H:%M:%S", "%Y%m%d": "%H%M%S"}
_DAYS: Final = (30, 330)
_DAYS_OF_A_BIRTH: Final = (400, 3000)


@dataclass(frozen=True)
class Pseudonyms:
    """The replacements under one key. ``used`` collects the replaced texts and ``given`` their replacements."""

    key: bytes = field(repr=False)
    used: set[str] = field(default_factory=set, repr=False)
    given: set[str] = field(default_factory=set, repr=False)

    def text(self, text: str) -> str:
        """Short text is replaced word by word; of long text only the beginning is, by characters that do not repeat."""
        self.used.add(text)
        is_short = len(text) <= _LONGEST and len(_RUN.findall(text)) <= 8 and "\n" not in text
        made = self._words(text) if is_short else self._opaque(text[:_LONGEST_TEXT], text)
        self.given.add(made)
        return made

    def state(self, text: str) -> str:
        """Another state of the United States for a state's code, else as any text."""
        if text not in _STATES:
            return self.text(text)
        moved = _STATES.index(text) + 1 + self._drawn("state") % (len(_STATES) - 1)
        return _STATES[moved % len(_STATES)]

    def number(self, number: float) -> float:
        """A number with the same sign and as many digits."""
        text = str(number)
        made = self._digits("number", text)
        if made.lstrip("-").startswith("0") and not text.lstrip("-").startswith("0"):
            made = made.replace("0", "1", 1)
        return float(made) if isinstance(number, float) else int(made)

    def date(self, text: str, pattern: str = "%Y-%m-%d", *, is_birth: bool = False) -> str:
        """A date or an instant, moved back by the same span as all others; an endless date is unchanged.

        A date of birth has its own span, so that it cannot be derived from the time of the recording. ``pattern`` is
        the format of the date alone; a fraction of a second and the zone stay as they are.
        """
        if any(text.startswith(datetime.fromisoformat(each).strftime(pattern)) for each in _ENDLESS):
            return text
        for form, seconds in ((pattern + _TIMES.get(pattern, ""), True), (pattern, False)):
            length = len(datetime(2000, 1, 1).strftime(form))  # noqa: DTZ001  # only its length counts
            try:
                read = datetime.strptime(text[:length], form)  # noqa: DTZ007  # the zone stays as it is
                moved = read - self._span(f"{read:%F}" if is_birth else "", seconds=seconds and form != pattern)
            except (ValueError, OverflowError):
                continue
            break
        else:
            return self.text(text)
        # The years before 1000 have fewer digits here than in the standard.
        made = moved.strftime(form.replace("%Y", f"{moved.year:04d}")) + text[length:]
        self.used.add(text)
        self.given.add(made)
        return made

    def _span(self, born: str, *, seconds: bool) -> timedelta:
        least, most = _DAYS_OF_A_BIRTH if born else _DAYS
        days = timedelta(days=least + self._drawn("span", born) % (most - least))
        return days + timedelta(seconds=self._drawn("seconds") % 86_400) if seconds else days

    def _drawn(self, *parts: str) -> int:
        return int.from_bytes(hmac.digest(self.key, "\x00".join(parts).encode(errors="replace"), "sha256")[:6], "big")

    def _words(self, text: str) -> str:
        if found := _UUID.search(text):
            before, after = text[: found.start()], text[found.end() :]
            return (before and self._words(before)) + self._uuid(found[0]) + (after and self._words(after))
        if not any(each.isalpha() for each in text):
            return self._numeric(text)
        if found := _KIND.fullmatch(text):
            return found[1] + self._words(found[2])
        is_single = len(_RUN.findall(text)) == 1
        composed = unicodedata.is_normalized("NFC", text)
        split = unicodedata.normalize("NFD", text)
        made = re.sub(r"(?:[^\W_]|[\u0300-\u036f])+", lambda found: self._word(found[0], may_stay=not is_single), split)
        return unicodedata.normalize("NFC", made) if composed else made

    def _word(self, word: str, *, may_stay: bool) -> str:
        if may_stay and word.casefold() in _TITLES:
            return word
        if word.isdigit():
            return self._digits("digits", word)
        folded = "".join(each for each in word.casefold() if not unicodedata.combining(each))
        is_hex = _HEX.fullmatch(word) is not None
        made = []
        place = 0
        for each in word:
            if unicodedata.combining(each):
                made.append(each)
                continue
            known = ("first", folded[:1]) if place == 0 and each.isalpha() and not is_hex else ("word", folded)
            made.append(self._shifted(each, *known, str(place), is_hex=is_hex))
            place += 1
        return "".join(made)

    def _shifted(self, character: str, *known: str, is_hex: bool = False) -> str:
        """Another digit, or another letter of the same case; any other character is unchanged."""
        if not character.isalnum():
            return character
        drawn = self._drawn(*known)
        if character.isdecimal():
            return str((int(character) + 1 + drawn % 9) % 10)
        count = 6 if is_hex else 26
        place = ord(character.lower()) - ord("a") if character.isascii() else 0  # other scripts become Latin
        moved = chr(ord("a") + (place + 1 + drawn % (count - 1)) % count)
        return moved.upper() if character.isupper() else moved

    def _numeric(self, text: str) -> str:
        """Digits with punctuation: the digits alone decide, so that all notations of a number stay equal."""
        digits = "".join(each for each in text if each.isdigit())
        if is_npi(digits):
            body = f"{100_000_000 + self._drawn('npi', digits) % _UNUSED_NPIS:09d}"
            return self._filled(text, next(body + each for each in string.digits if is_npi(body + each)))
        if found := _ZIP.fullmatch(text):
            return self._digits("digits", found[1]) + found[2] + self._digits("plus", text)[-4:]
        if len(digits) == 11 and digits[0] == "1":
            return self._filled(text, "1" + self._numeric(digits[1:]))
        return self._filled(text, self._digits("digits", digits))

    def _digits(self, kind: str, digits: str) -> str:
        return "".join(self._shifted(each, kind, digits, str(place)) for place, each in enumerate(digits))

    def _filled(self, text: str, digits: str) -> str:
        left = iter(digits)
        return "".join(next(left) if each.isdigit() else each for each in text)

    def _uuid(self, text: str) -> str:
        digest = hashlib.sha256(self.key + text.lower().encode()).hexdigest()
        return f"{digest[:8]}-{digest[8:12]}-4{digest[13:16]}-8{digest[17:20]}-{digest[20:32]}"

    def _opaque(self, text: str, whole: str) -> str:
        return "".join(self._shifted(each, "text", whole, str(place)) for place, each in enumerate(text))
