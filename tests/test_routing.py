"""Which way a statement takes, as a table."""

from __future__ import annotations

import pytest

from tqdbproxy.core.hints import Hints
from tqdbproxy.core.routing import Batched, Forward, Rules, choose
from tqdbproxy.core.statement import Reason

BATCH = Hints(batch_ms=10.0)
RULES = Rules(max_bytes=100)
OFF = Rules(batching=False)
FORWARDED = Forward()


def because(reason: str) -> Forward:
    return Forward(Reason(reason))


# hints, why its text can't be batched, size, rules, session: in a Transaction, Alone, settings Known; the route
TABLE = [
    (None, None, 0, RULES, "AK", FORWARDED),
    (None, Reason.UNSAFE, 0, OFF, "T", FORWARDED),
    (Hints(file="x"), None, 0, RULES, "AK", FORWARDED),
    (Hints(batch_ms=0.0), None, 0, RULES, "AK", FORWARDED),
    (Hints(errors=("batch",)), None, 0, RULES, "AK", FORWARDED),
    (BATCH, None, 100, RULES, "AK", Batched(0.01)),
    (Hints(batch_ms=0.5), None, 0, RULES, "AK", Batched(0.0005)),
    (BATCH, None, 101, RULES, "AK", because("no_capacity")),
    (BATCH, None, 0, RULES, "A", because("session_state")),
    (BATCH, None, 0, RULES, "K", because("pipeline")),
    (BATCH, None, 0, RULES, "TAK", because("transaction")),
    (BATCH, None, 0, OFF, "AK", because("disabled")),
    (BATCH, Reason.NOT_A_WRITE, 0, RULES, "AK", because("not_a_write")),
    (BATCH, Reason.UNSAFE, 0, RULES, "AK", because("unsafe")),
    (BATCH, Reason.MULTI_STATEMENT, 0, RULES, "AK", because("multi_statement")),
    # more than one reason: what the configuration says, then the transaction, then the text, then the rest
    (BATCH, Reason.UNSAFE, 101, OFF, "T", because("disabled")),
    (BATCH, Reason.UNSAFE, 101, RULES, "T", because("transaction")),
    (BATCH, Reason.UNSAFE, 101, RULES, "", because("unsafe")),
    (BATCH, None, 101, RULES, "", because("pipeline")),
    (BATCH, None, 101, RULES, "A", because("session_state")),
]


@pytest.mark.parametrize(("hints", "static", "size", "rules", "session", "route"), TABLE)
def test_choose(
    hints: Hints | None, static: Reason | None, size: int, rules: Rules, session: str, route: Forward | Batched
) -> None:
    chosen = choose(
        hints,
        static,
        size,
        rules,
        in_transaction="T" in session,
        alone="A" in session,
        known="K" in session,
    )
    assert chosen == route


def test_every_reason_of_the_router_is_in_the_table() -> None:
    reasons = {route.reason for *_, route in TABLE if isinstance(route, Forward)}
    assert reasons == {None, *Reason} - {Reason.NO_CONNECTION}
