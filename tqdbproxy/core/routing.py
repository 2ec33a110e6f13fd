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


Route = Forward | Batched

UNHINTED = Forward()
BECAUSE = {reason: Forward(reason) for reason in Reason}


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration allows. ``window_s``: that of writes without a hint; None: these aren't batched."""

    batching: bool = True
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
    in_transaction: bool,
    alone: bool,
    known: bool,
) -> Route:
    """Decide for one statement.

    :param writes: it is a write.
    :param static: why its text alone can't be batched, if so.
    :param size: bytes that it would add to a batch.
    :param in_transaction: one is open on its session.
    :param alone: it is the only statement of its unit, and nothing else is outstanding on its session.
    :param known: the session's settings are known.
    """
    asked = hints.batch_ms if hints is not None else None
    window_s = asked / 1000 if asked is not None else rules.window_s if writes else None
    if window_s is None or asked == 0:
        return UNHINTED
    if not rules.batching:
        return BECAUSE[Reason.DISABLED]
    if in_transaction:
        return BECAUSE[Reason.TRANSACTION]
    if static is not None:
        return BECAUSE[static]
    if not alone:
        return BECAUSE[Reason.PIPELINE]
    if not known:
        return BECAUSE[Reason.SESSION_STATE]
    if size > rules.max_bytes:
        return BECAUSE[Reason.NO_CAPACITY]
    return Batched(window_s)
