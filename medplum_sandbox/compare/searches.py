"""Random searches: parameters of the registry with values that are there, nearly there, or wrong."""

from __future__ import annotations

import random
from urllib.parse import quote

from medplum_sandbox.compare.requests import mark
from medplum_sandbox.compare.values import CODES, DATES, NUMBERS, SYSTEMS, TIMES, WORDS
from medplum_sandbox.medplum.definitions.search_table import Parameter
from medplum_sandbox.medplum.definitions.tables import is_resource_type, parameters, type_of

_PREFIXES = ("", "", "", "eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")
_MODIFIERS = {
    "token": ("", "", "", "not", "text", "missing", "in", "of-type", "exact", "contains", "foo"),
    "string": ("", "", "", "exact", "contains", "missing", "not", "foo"),
    "reference": ("", "", "", "missing", "identifier", "Patient", "not", "foo"),
    "uri": ("", "", "not", "below", "missing", "contains"),
    "date": ("", "", "", "missing", "not"),
    "number": ("", "", "missing"),
    "quantity": ("", "", "missing"),
}
_FILTERS = (
    *("identifier eq x", "not (_id eq x) or status eq final", "(status eq active and identifier co a)", "foo eq x"),
    *("name", "name eq", "status foo x", "(status eq final", "status eq final)", "not status eq final", "name sw al"),
    *("status pr true", 'name co "gamma d"', "_lastUpdated gt 2020-01-01 and identifier ne a", "date ge 2024-02"),
)


class Searches:
    """A source of query strings for a type; ``known`` maps a type to the names of its resources."""

    def __init__(self, chance: random.Random, known: dict[str, list[str]]) -> None:
        self._chance = chance
        self._known = known

    def query(self, resource_type: str) -> tuple[str, str, bool]:
        """(query string, what is tried, whether an order is asked for)."""
        count = self._chance.choice((0, 1, 1, 1, 2))
        found = [self._condition(resource_type) for _ in range(count)]
        parts, kinds = [text for text, _ in found], [kind for _, kind in found]
        ordered = False
        if self._chance.random() < 0.35:
            text, kind, ordered = self._control(resource_type)
            parts.append(text)
            kinds.append(kind)
        return "&".join(parts), "+".join(kinds) or "all", ordered

    def condition(self, resource_type: str) -> str:
        """One condition that often finds one resource, for conditional writes."""
        draw = self._chance.random()
        if draw < 0.6:
            return f"identifier={_quoted(f'{self._chance.choice(SYSTEMS)}|{self._chance.choice(WORDS)}')}"
        if draw < 0.8 and self._known.get(resource_type):
            return f"_id={mark(self._chance.choice(self._known[resource_type]))}"
        return self._condition(resource_type)[0]

    def _condition(self, resource_type: str) -> tuple[str, str]:
        chance = self._chance
        every = list(parameters(resource_type).values())
        draw = chance.random()
        if draw < 0.06 or not every:
            return self._special(resource_type)
        if draw < 0.12:
            return self._chain(resource_type)
        parameter = chance.choice(every)
        modifier = chance.choice(_MODIFIERS.get(parameter.type, ("",)))
        value = self._value(parameter, modifier)
        if chance.random() < 0.15:
            value += "," + self._value(parameter, modifier)
        name = f"{parameter.name}:{modifier}" if modifier else parameter.name
        return f"{name}={_quoted(value)}", f"{parameter.type}:{modifier}" if modifier else parameter.type

    def _special(self, resource_type: str) -> tuple[str, str]:
        chance = self._chance
        names = self._known.get(resource_type) or ["nobody"]
        return chance.choice(
            (
                (f"_id={mark(chance.choice(names))}", "_id"),
                (f"_id={mark(chance.choice(names))},abc", "_id list"),
                ("_id=abc", "_id wrong"),
                ("_lastUpdated=gt2020-01-01", "_lastUpdated"),
                ("_lastUpdated=2020", "_lastUpdated year"),
                ("foo=bar", "unknown parameter"),
                ("_project=abc", "_project"),
                (f"_filter={quote(chance.choice(_FILTERS))}", "_filter"),
                ("_text=x", "_text"),
                ("_has:Observation:patient:code=a", "_has"),
                ("_has:Observation:foo:code=a", "_has wrong"),
                ("_id:missing=true", "_id:missing"),
            )
        )

    def _chain(self, resource_type: str) -> tuple[str, str]:
        chance = self._chance
        links = [p for p in parameters(resource_type).values() if p.type == "reference" and p.targets]
        if not links:
            return "subject.name=x", "chain wrong"
        link = chance.choice(links)
        targets = [t for t in link.targets if is_resource_type(t)] or ["Patient"]
        target = chance.choice(targets)
        ends = list(parameters(target).values())
        if not ends:
            return "subject.name=x", "chain wrong"
        end = chance.choice(ends)
        named = link.name if len(link.targets) == 1 and chance.random() < 0.8 else f"{link.name}:{target}"
        return f"{named}.{end.name}={_quoted(self._value(end, ''))}", f"chain {end.type}"

    def _control(self, resource_type: str) -> tuple[str, str, bool]:
        chance = self._chance
        known = type_of(resource_type)
        elements = [e.name.removesuffix("[x]") for e in known.elements] if known else ["id"]
        codes = [*parameters(resource_type), "_lastUpdated", "_id"]
        every = parameters(resource_type).values()
        # The compartment of a resource includes its Project, which is different on every server.
        references = [p.name for p in every if p.type == "reference" and p.name != "_compartment"] or ["x"]
        return chance.choice(
            (
                (f"_sort={chance.choice(('', '-'))}_lastUpdated", "_sort _lastUpdated", True),
                (f"_sort={chance.choice(codes)}", "_sort", False),
                ("_sort=foo", "_sort wrong", False),
                (f"_count={chance.choice((0, 1, 1000, 2000, 'abc', -1))}&_sort=_lastUpdated", "_count", True),
                ("_offset=1&_count=2&_sort=_lastUpdated", "_offset", True),
                (f"_total={chance.choice(('accurate', 'estimate', 'none', 'foo'))}", "_total", False),
                (f"_fields={chance.choice(elements)},{chance.choice(elements)}", "_fields", False),
                (f"_elements={chance.choice(elements)}", "_elements", False),
                (f"_summary={chance.choice(('true', 'data', 'text', 'count', 'false'))}", "_summary", False),
                (f"_include={resource_type}:{chance.choice(references)}", "_include", False),
                (f"_include={chance.choice(('*', 'foo', 'Patient:foo', 'Foo:x'))}", "_include wrong", False),
                (f"_revinclude=Observation:{chance.choice(('subject', 'encounter', 'foo'))}", "_revinclude", False),
                ("_format=json&_pretty=true", "_format", False),
            )
        )

    def _value(self, parameter: Parameter, modifier: str) -> str:
        chance = self._chance
        if modifier == "missing":
            return chance.choice(("true", "false", "foo"))
        if chance.random() < 0.04:
            return chance.choice(("", " ", "|", "a|b|c", "true", "5", "2024"))
        match parameter.type:
            case "token":
                code = chance.choice((*CODES, *WORDS, "true", "false"))
                return chance.choice((code, code, f"{chance.choice(SYSTEMS)}|{code}", f"|{code}", f"{SYSTEMS[0]}|"))
            case "date":
                return chance.choice(_PREFIXES) + chance.choice((*DATES, *TIMES, "2024-02-29T10:00", "soon"))
            case "number":
                return chance.choice(_PREFIXES) + str(chance.choice((*NUMBERS, "x")))
            case "quantity":
                unit = chance.choice(("", "", "||mg", "|https://example.org/a|a"))
                return f"{chance.choice(_PREFIXES)}{chance.choice(NUMBERS)}{unit}"
            case "reference":
                return self._reference(parameter)
            case "uri":
                return chance.choice(SYSTEMS)
        return chance.choice((*WORDS, *(word[:3] for word in WORDS), "beta", "gamma"))

    def _reference(self, parameter: Parameter) -> str:
        chance = self._chance
        kinds = [t for t in parameter.targets if self._known.get(t)] or [t for t, n in self._known.items() if n]
        if not kinds:
            return "Patient/1"
        kind = chance.choice(kinds)
        name = mark(chance.choice(self._known[kind]))
        return chance.choice((f"{kind}/{name}", f"{kind}/{name}", name, "Patient/1", "https://example.org/Patient/1"))


def _quoted(text: str) -> str:
    return quote(text, safe="~/:,-._")
