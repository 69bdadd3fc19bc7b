"""Scopes: which types they allow this client to read, and which to request next.

One refused scope fails the whole request, often without saying which. So all scopes are requested at once in the newer
style, then in the older; if both fail, halves are tried until the refused scopes are isolated.
https://hl7.org/fhir/smart-app-launch/scopes-and-launch-context.html
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from bot_layer.bulk_sync.rules.smart import SCOPE, ScopeRefused, Style, Token


def scope(resource_type: str, style: Style) -> str:
    """``system/Patient.rs`` (SMART v2) or ``system/Patient.read`` (v1)."""
    return f"system/{resource_type}.{style}"


def granted_types(scopes: frozenset[str], asked: Iterable[str]) -> frozenset[str]:
    """The requested types that the granted scopes allow this client to read."""
    readable = {match[1] for each in scopes if (match := SCOPE.fullmatch(each)) and _reads(match[2])}
    return frozenset(asked) if "*" in readable else frozenset(asked) & readable


def types_of(scopes: Iterable[str], wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The wanted types that the scopes name; all of them if the scopes name no types."""
    given = frozenset(scopes)
    if not any(each.startswith("system/") for each in given):
        return wanted
    readable = granted_types(given, wanted)
    return tuple(each for each in wanted if each in readable)


def _reads(permissions: str) -> bool:
    letters = permissions.partition("?")[0]
    return letters in ("read", "*") or ("r" in letters and set(letters) <= set("cruds"))


@dataclass(frozen=True)
class Negotiation:
    """The state of the search for the granted scopes. ``queue`` has the requests still to make, in order."""

    queue: tuple[tuple[Style, tuple[str, ...]], ...]
    accepted: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    style: Style = "rs"
    probing: bool = True

    @property
    def settled(self) -> bool:
        """True when nothing is left to request."""
        return not self.queue

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes of the next request; when settled, those of every later one."""
        style, types = self.queue[0] if self.queue else (self.style, self.accepted)
        return tuple(scope(each, style) for each in types)


def start_negotiation(types: Iterable[str], advertised: Iterable[str] = ()) -> Negotiation:
    """Request all types; those that the server does not advertise are requested separately, afterwards."""
    wanted = tuple(dict.fromkeys(types))
    offered = granted_types(frozenset(advertised), wanted)
    first = tuple(each for each in wanted if each in offered) or wanted
    rest = tuple(each for each in wanted if each not in first)
    later: tuple[tuple[Style, tuple[str, ...]], ...] = (("rs", rest),) if rest else ()
    return Negotiation((("rs", first), ("read", first), *later))


def answered(state: Negotiation, answer: Token | ScopeRefused) -> Negotiation:
    """The next state, after the answer to ``state.scopes``."""
    (style, types), queue = state.queue[0], state.queue[1:]
    if isinstance(answer, Token):
        got = granted_types(answer.scopes, types) if answer.scopes is not None else frozenset(types)
        return replace(
            state,
            queue=_after_grant(queue, style, probing=state.probing),
            accepted=state.accepted + tuple(each for each in types if each in got),
            refused=state.refused + tuple(each for each in types if each not in got),
            style=style,
            probing=False,
        )
    if state.probing:
        return _after_refused_probe(state, style, types, queue, answer)
    return _narrowed(state, style, types, queue, answer)


def _after_grant(
    queue: tuple[tuple[Style, tuple[str, ...]], ...], style: Style, *, probing: bool
) -> tuple[tuple[Style, tuple[str, ...]], ...]:
    left = queue[1:] if probing and queue and queue[0][0] == "read" and style == "rs" else queue
    return tuple((style, types) for _, types in left)


def _after_refused_probe(
    state: Negotiation,
    style: Style,
    types: tuple[str, ...],
    queue: tuple[tuple[Style, tuple[str, ...]], ...],
    answer: ScopeRefused,
) -> Negotiation:
    if answer.types & set(types):
        # The answer named some: the server understands the style.
        left = queue[1:] if style == "rs" else queue
        return _narrowed(replace(state, probing=False, style=style), style, types, left, answer)
    if style == "rs":
        return replace(state, queue=queue)
    # Neither style succeeded for all types: find the refused ones, in the newer style first.
    halves = _halves("rs", types)
    return replace(state, queue=(*halves, *queue), probing=False, refused=types if not halves else ())


def _narrowed(
    state: Negotiation,
    style: Style,
    types: tuple[str, ...],
    queue: tuple[tuple[Style, tuple[str, ...]], ...],
    answer: ScopeRefused,
) -> Negotiation:
    named = answer.types & set(types)
    if named:
        left = tuple(each for each in types if each not in named)
        more: tuple[tuple[Style, tuple[str, ...]], ...] = ((style, left),) if left else ()
        return replace(state, queue=(*more, *queue), refused=state.refused + tuple(e for e in types if e in named))
    if len(types) == 1:
        return _last_chance(replace(state, queue=queue, refused=state.refused + types))
    return replace(state, queue=(*_halves(style, types), *queue))


def _last_chance(state: Negotiation) -> Negotiation:
    """If the newer style got no scope at all, search the older one too."""
    if state.queue or state.accepted or state.style == "read":
        return state
    return replace(state, queue=(("read", state.refused),), refused=(), style="read")


def _halves(style: Style, types: tuple[str, ...]) -> tuple[tuple[Style, tuple[str, ...]], ...]:
    if len(types) < 2:
        return ()
    middle = len(types) // 2
    return (style, types[:middle]), (style, types[middle:])
