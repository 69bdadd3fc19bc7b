"""``_filter``: an expression such as ``name co "ann" and not (active eq false)`` (https://hl7.org/fhir/R4/search_filter.html).

As Medplum reads it: ``and`` and ``or`` bind alike, to the right; some operators of the specification are not known.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from medplum_sandbox.medplum.outcomes import bad_request
from medplum_sandbox.medplum.search_request import Filter

_TOKEN = re.compile(r"\s*(\(|\)|\"(?:\\.|[^\"])*\"|'(?:\\.|[^'])*'|[^\s()]+)")
_OPERATORS = {
    **{"eq": "exact", "ne": "ne", "co": "contains", "sw": "sw", "re": "eq", "pr": "present", "in": "in"},
    **{"ni": "not-in", "identifier": "identifier"},
    **{same: same for same in ("gt", "lt", "ge", "le", "ap", "sa", "eb")},
}
Compiled = tuple[str, tuple[object, ...]]
Compile = Callable[[Filter], Compiled]
_Token = tuple[str, int]  # the text and its column


def compile_filter(text: str, compile_one: Compile) -> Compiled:
    """The SQL of an expression and its arguments; ``compile_one`` gives those of one comparison.

    Text after a complete expression is ignored.
    """
    return _expression([(found[1], found.start(1)) for found in _TOKEN.finditer(text)], compile_one)


def _expression(tokens: list[_Token], compile_one: Compile) -> Compiled:
    if _next(tokens) in ("(", "not"):
        negation = "NOT " if _take(tokens) == "not" else ""
        if negation:
            _take(tokens, "(")
        sql, arguments = _expression(tokens, compile_one)
        _take(tokens, ")")
        sql = f"{negation}({sql})"
    else:
        code, operator = _take(tokens), _take(tokens)
        if operator not in _OPERATORS:
            raise bad_request(f"Invalid operator: {operator}")
        value = _take(tokens)
        value = value[1:-1] if value[:1] in ("'", '"') else value
        sql, arguments = compile_one(Filter(code, value, _OPERATORS[operator]))
    if _next(tokens) not in ("and", "or"):
        return f"({sql})", arguments
    keyword = _take(tokens).upper()
    rest, more = _expression(tokens, compile_one)
    return f"(({sql}) {keyword} {rest})", (*arguments, *more)


def _next(tokens: list[_Token]) -> str:
    return tokens[0][0] if tokens else ""


def _take(tokens: list[_Token], expected: str | None = None) -> str:
    if not tokens:
        raise bad_request("Cant consume unknown more tokens.")
    text, column = tokens.pop(0)
    if expected is not None and text != expected:
        raise bad_request(f'Expected {expected} but got "Symbol" ({text}) at line 1 column {column}.')
    return text
