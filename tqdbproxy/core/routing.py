"""Which way a statement takes: pure, one screen, a table in the tests.

The law of this module: it decides and does nothing; whoever asks carries the decision along.
"""

from __future__ import annotations

from dataclasses import dataclass

from tqdbproxy.core.hints import Hints
from tqdbproxy.core.statement import Reason


@dataclass(frozen=True, slots=True)
class Forward:
    """To the session's own server, untouched. ``reason``: why its hint isn't followed, None if it has none."""

    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Batched:
    """It waits for company, at the longest for ``window_s`` seconds."""

    window_s: float


@dataclass(frozen=True, slots=True)
class Cached:
    """From memory, if there is an answer that isn't older than ``ttl_s`` seconds (see `caching`)."""

    ttl_s: float


Route = Forward | Batched | Cached

UNHINTED = Forward()
BECAUSE = {reason: Forward(reason) for reason in Reason}


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration allows. ``window_s``: that of writes without a hint; None: these aren't batched."""

    batching: bool = True
    caching: bool = True
    max_bytes: int = 8 * 1024 * 1024
    window_s: float | None = None


@dataclass(slots=True)
class Rulebook:
    """The rules that hold now, for all sessions."""

    rules: Rules


def choose(
    hints: Hints | None,
    writes: bool,
    static: Reason | None,
    size: int,
    rules: Rules,
    *,
    not_kept: Reason | None,
    in_transaction: bool,
    alone: bool,
    known: bool,
) -> Route:
    """Decide for one statement.

    :param writes: it is a write.
    :param static: why its text alone can't be batched, if so.
    :param size: bytes that it would add to a batch.
    :param not_kept: why its text alone can't be answered from memory, if so.
    :param in_transaction: one is open on its session.
    :param alone: it is the only statement of its unit, and nothing else is outstanding on its session.
    :param known: the session's settings are known.
    """
    route = _asked(hints, writes, rules)
    if isinstance(route, Forward):
        return route
    reads = isinstance(route, Cached)
    if not (rules.caching if reads else rules.batching):
        return BECAUSE[Reason.DISABLED]
    if in_transaction:
        return BECAUSE[Reason.TRANSACTION]
    because = not_kept if reads else static
    if because is not None:
        return BECAUSE[because]
    if not alone:
        return BECAUSE[Reason.PIPELINE]
    if not known:
        return BECAUSE[Reason.SESSION_STATE]
    if size > rules.max_bytes and not reads:
        return BECAUSE[Reason.NO_CAPACITY]
    return route


def _asked(hints: Hints | None, writes: bool, rules: Rules) -> Route:
    """Where the statement wants to go. One with both hints goes where its kind belongs."""
    asked = hints.batch_ms if hints is not None else None
    window_s = asked / 1000 if asked is not None else rules.window_s if writes else None
    batched = window_s is not None and asked != 0
    if hints is not None and hints.ttl_s and not (writes and batched):
        return Cached(hints.ttl_s)
    return Batched(window_s) if batched and window_s is not None else UNHINTED
