"""Tables that are changed between two batches: each text means what it would mean if it were parsed now."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.batching.conftest import MakeCrowd, Place
from tests.integration.batching.crowd import COUNT, Reply, extended, reply, simple
from tests.integration.wire import SYNC, Wire, bind, close, describe, execute, kinds, parse

INSERT = "INSERT INTO t VALUES ($1, $2)"
UPDATE = "UPDATE t SET a = $2 WHERE k = $1 RETURNING a"
MERGE = "MERGE INTO t USING (SELECT 1) x ON k = $1 WHEN MATCHED THEN UPDATE SET a = $2"
DELETE_AND_INSERT = "WITH gone AS (DELETE FROM t WHERE k = $1 RETURNING k) INSERT INTO t SELECT k, $2 FROM gone"

CHANGES = {
    "int to text": ("a int", "ALTER TABLE t ALTER a TYPE text", "007", b"007"),
    "date to timestamp": (
        "a date",
        "ALTER TABLE t ALTER a TYPE timestamp",
        "2020-01-01 10:00:00",
        b"2020-01-01 10:00:00",
    ),
    "int to bigint": ("a int", "ALTER TABLE t ALTER a TYPE bigint", "3000000000", b"3000000000"),
    "another table": ("a int", "DROP TABLE t; CREATE TABLE t AS SELECT 0 AS k, '' AS a", "007", b"007"),
    "columns in another order": (
        "a int",
        "ALTER TABLE t RENAME a TO b; ALTER TABLE t ADD a text; UPDATE t SET b = 0; ALTER TABLE t DROP b",
        "007",
        b"007",
    ),
}
STRATEGIES = {INSERT: "merged", UPDATE: "prepared", MERGE: "prepared", DELETE_AND_INSERT: "prepared"}


def as_query(text: str, *values: str) -> bytes:
    constants = (values[0], f"'{values[1]}'")
    for number, constant in enumerate(constants, 1):
        text = text.replace(f"${number}", constant)
    return simple(text)


# Constants of MERGE and WITH stay where they are, so that these texts have no company as queries.
WAYS = [(extended, text) for text in STRATEGIES] + [(as_query, INSERT), (as_query, UPDATE)]


@pytest.mark.parametrize(("say", "text"), WAYS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_table(place: Place, crowds: MakeCrowd, change: str, say: Callable[..., bytes], text: str) -> None:
    column, ddl, value, stored = CHANGES[change]
    place.make(f"CREATE TABLE t (k int, {column})")
    place.directly(place.here, f"INSERT INTO t SELECT n, NULL FROM generate_series(0, {COUNT - 1}) n")
    crowd = crowds()
    before = "5" if "int" in column else "2020-01-01"
    for _ in range(2):
        assert {one.sqlstate for one in crowd.send(lambda n: say(text, str(n), before))} == {""}
        assert crowd.together == STRATEGIES[text]
    place.directly(place.here, ddl)
    fill = "DELETE FROM t" if text is INSERT else f"INSERT INTO t (k) SELECT n FROM generate_series(0, {COUNT - 1}) n"
    place.directly(place.here, "DELETE FROM t", fill)
    expected = [Reply(((stored,),), "UPDATE 1")] if text is UPDATE else None
    for _ in range(2):
        replies = crowd.send(lambda n: say(text, str(n), value))
        assert {one.sqlstate for one in replies} == {""}
        assert expected is None or replies == expected * COUNT
    assert crowd.together == STRATEGIES[text], "what it was parsed for is learned, not avoided"
    assert place.rows("SELECT DISTINCT a FROM t") == ((stored,),)


@pytest.mark.parametrize("say", [as_query, extended])
@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
def test_a_table_that_comes_before_another_one(
    place: Place, crowds: MakeCrowd, isolation: str, say: Callable[..., bytes]
) -> None:
    """With one snapshot for each transaction there is no fingerprint, but nothing that was parsed is used again."""
    place.directly(place.here, "CREATE TABLE t (a int, b text)")
    crowd = crowds(search_path=f"{place.there}, {place.here}", default_transaction_isolation=isolation)
    inserted = [Reply(tag="INSERT 0 1")] * COUNT
    assert crowd.send(lambda n: say(INSERT, str(n), "x")) == inserted
    place.directly(place.there, "CREATE TABLE t (a int, b text)")
    assert crowd.send(lambda n: say(INSERT, str(n), "x")) == inserted
    assert crowd.together == ("merged" if isolation == "read committed" else "prepared")
    assert place.rows("SELECT count(*) FROM t", place.there) == ((b"8",),)
    place.directly(place.there, "DROP TABLE t")
    assert crowd.send(lambda n: say(INSERT, str(n), "x")) == inserted
    assert place.rows("SELECT count(*) FROM t", place.here) == ((b"16",),)


UNITS = {
    "another statement": bind(name="mine") + execute() + SYNC,
    "prepared": parse("SELECT 43", "other") + SYNC,
    "described": describe("mine", "S") + SYNC,
    "closed": close("mine") + SYNC,
    "nothing": SYNC,
    "two units": (bind(name="mine") + execute() + SYNC) * 2,
    "itself": bind("1", "x") + execute() + SYNC,
    "itself, behind another one": bind(name="mine") + execute() + SYNC + bind("1", "x") + execute() + SYNC,
}


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_who_does_not_use_the_unnamed_statement_does_not_hear_of_it(
    place: Place, crowds: MakeCrowd, unit: bytes
) -> None:
    """It was batched, so its own server has never seen it, and by now couldn't parse it."""
    place.make("CREATE TABLE t (a int, b text)")
    crowd = crowds()
    with Wire(place.direct_port).start(place.database, search_path=place.here) as direct:
        for wire in (direct, *crowd.wires):
            wire.ask(parse("SELECT 42", "mine") + SYNC)
        direct.ask(extended("INSERT INTO t (a, b) VALUES ($1, $2)", "1", "x"))
        crowd.send(lambda n: extended("INSERT INTO t (a, b) VALUES ($1, $2)", str(n), "x"))
        assert crowd.together == "merged"
        place.directly(place.here, "ALTER TABLE t RENAME a TO c")
        for wire in (direct, crowd.wires[0]):
            wire.send(unit)
        for _ in range(unit.count(SYNC)):
            expected, said = direct.until(), crowd.wires[0].until()
            assert kinds(said) == kinds(expected)
            assert reply(said) == reply(expected)
