"""Which way a statement takes, as a table."""

from __future__ import annotations

import pytest

from tqdbproxy.core.hints import Hints
from tqdbproxy.core.routing import Batched, Cached, Forward, Route, Rules, choose
from tqdbproxy.core.statement import Reason

BATCH = Hints(batch_ms=10.0)
RULES = Rules(max_bytes=100)
OFF = Rules(batching=False)
FORWARDED = Forward()


def because(reason: str) -> Forward:
    return Forward(Reason(reason))


ADAPTIVE = Rules(max_bytes=100, window_s=0.02)

# hints, why its text can't be batched, size, rules, letters, route. The letters say of the statement that it is a
# Write, and of its session that it is in a Transaction, Alone, with settings Known
TABLE = [
    (None, None, 0, RULES, "WAK", FORWARDED),
    (None, Reason.UNSAFE, 0, OFF, "WT", FORWARDED),
    (Hints(file="x"), None, 0, RULES, "WAK", FORWARDED),
    (Hints(batch_ms=0.0), None, 0, RULES, "WAK", FORWARDED),
    (Hints(errors=("batch",)), None, 0, RULES, "WAK", FORWARDED),
    (BATCH, None, 100, RULES, "WAK", Batched(0.01)),
    (Hints(batch_ms=0.5), None, 0, RULES, "WAK", Batched(0.0005)),
    (BATCH, None, 101, RULES, "WAK", because("no_capacity")),
    (BATCH, None, 0, RULES, "WA", because("session_state")),
    (BATCH, None, 0, RULES, "WK", because("pipeline")),
    (BATCH, None, 0, RULES, "WTAK", because("transaction")),
    (BATCH, None, 0, OFF, "WAK", because("disabled")),
    (BATCH, Reason.NOT_A_WRITE, 0, RULES, "WAK", because("not_a_write")),
    (BATCH, Reason.UNSAFE, 0, RULES, "WAK", because("unsafe")),
    (BATCH, Reason.MULTI_STATEMENT, 0, RULES, "WAK", because("multi_statement")),
    # writes without a hint, where the configuration wants these batched too
    (None, None, 0, ADAPTIVE, "WAK", Batched(0.02)),
    (Hints(file="x"), None, 0, ADAPTIVE, "WAK", Batched(0.02)),
    (None, None, 0, ADAPTIVE, "AK", FORWARDED),
    (Hints(batch_ms=0.0), None, 0, ADAPTIVE, "WAK", FORWARDED),
    (BATCH, None, 0, ADAPTIVE, "WAK", Batched(0.01)),
    (BATCH, Reason.NOT_A_WRITE, 0, ADAPTIVE, "AK", because("not_a_write")),
    (None, None, 0, ADAPTIVE, "WTAK", because("transaction")),
    # more than one reason: what the configuration says, then the transaction, then the text, then the rest
    (BATCH, Reason.UNSAFE, 101, OFF, "WT", because("disabled")),
    (BATCH, Reason.UNSAFE, 101, RULES, "WT", because("transaction")),
    (BATCH, Reason.UNSAFE, 101, RULES, "W", because("unsafe")),
    (BATCH, None, 101, RULES, "W", because("pipeline")),
    (BATCH, None, 101, RULES, "WA", because("session_state")),
]


@pytest.mark.parametrize(("hints", "static", "size", "rules", "session", "route"), TABLE)
def test_choose(
    hints: Hints | None, static: Reason | None, size: int, rules: Rules, session: str, route: Forward | Batched
) -> None:
    chosen = choose(
        hints,
        "W" in session,
        static,
        size,
        rules,
        not_kept=Reason.NOT_A_READ,
        in_transaction="T" in session,
        alone="A" in session,
        known="K" in session,
    )
    assert chosen == route


READ = Hints(ttl_s=2.0)
NEVER = Rules(caching=False)

# hints, why its text can't be answered from memory, rules, letters as above, route
READS: list[tuple[Hints, Reason | None, Rules, str, Route]] = [
    (READ, None, RULES, "AK", Cached(2.0)),
    (Hints(ttl_s=0.0), None, RULES, "AK", FORWARDED),
    (Hints(ttl_s=2.0, batch_ms=0.0), None, RULES, "AK", Cached(2.0)),
    (READ, None, NEVER, "AK", because("disabled")),
    (READ, None, OFF, "AK", Cached(2.0)),
    (READ, None, RULES, "A", because("session_state")),
    (READ, None, RULES, "K", because("pipeline")),
    (READ, None, RULES, "TAK", because("transaction")),
    (READ, Reason.UNSAFE, RULES, "AK", because("unsafe")),
    (READ, Reason.MULTI_STATEMENT, RULES, "AK", because("multi_statement")),
    (READ, Reason.NOT_A_READ, RULES, "WAK", because("not_a_read")),
    # both hints: the statement goes where its kind belongs
    (Hints(ttl_s=2.0, batch_ms=10.0), None, RULES, "AK", Cached(2.0)),
    (Hints(ttl_s=2.0, batch_ms=10.0), Reason.NOT_A_READ, RULES, "WAK", Batched(0.01)),
    (READ, Reason.NOT_A_READ, ADAPTIVE, "WAK", Batched(0.02)),
    (Hints(ttl_s=2.0, batch_ms=0.0), Reason.NOT_A_READ, RULES, "WAK", because("not_a_read")),
]


@pytest.mark.parametrize(("hints", "not_kept", "rules", "session", "route"), READS)
def test_choose_for_reads(hints: Hints, not_kept: Reason | None, rules: Rules, session: str, route: Route) -> None:
    chosen = choose(
        hints,
        "W" in session,
        None if "W" in session else Reason.NOT_A_WRITE,
        1000 if "W" not in session else 0,
        rules,
        not_kept=not_kept,
        in_transaction="T" in session,
        alone="A" in session,
        known="K" in session,
    )
    assert chosen == route


def test_every_reason_of_the_router_is_in_the_table() -> None:
    routes = [route for *_, route in (*TABLE, *READS)]
    reasons = {route.reason for route in routes if isinstance(route, Forward)}
    assert reasons == {None, *Reason} - {Reason.NO_CONNECTION}
