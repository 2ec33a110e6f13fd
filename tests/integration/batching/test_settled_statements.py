"""Statements that clients prepared once and execute often: in a batch, too, they are what they were then."""

from __future__ import annotations

import pytest

from tests.integration.batching.conftest import MakeCrowd, Place
from tests.integration.batching.crowd import COUNT, Reply, hinted, reply
from tests.integration.metrics import Growth
from tests.integration.waiting import wait_for
from tests.integration.wire import SYNC, Wire, bind, close, execute, parse, query
from tests.proxies import RunningProxy

INSERT = "INSERT INTO t VALUES ($1, $2)"
RETURNING = f"{INSERT} RETURNING *"
INSERTED = [Reply(tag="INSERT 0 1")] * COUNT
PREPARED = ["1", "Z"]


@pytest.fixture
def plain(place: Place) -> Place:
    place.make("CREATE TABLE t (a int, b text)")
    return place


def bound(*values: str | bytes | None, name: str = "mine") -> bytes:
    return bind(*values, name=name) + execute() + SYNC


def prepare(wire: Wire, text: str, name: str = "mine") -> None:
    assert [frame.kind for frame in wire.ask(parse(text, name) + SYNC)] == PREPARED


@pytest.mark.parametrize(
    ("before", "after", "value"),
    [("int", "text", "007"), ("text", "int", "007"), ("date", "timestamp", "2020-01-01 10:00")],
)
@pytest.mark.parametrize("used", [True, False])
def test_a_column_of_another_type(
    place: Place, crowds: MakeCrowd, before: str, after: str, value: str, used: bool
) -> None:
    """Its parameter is read as one of the type that the column had, if that can still be stored."""
    place.make(f"CREATE TABLE t (a {before}, b text)")
    crowd = crowds()
    with Wire(place.direct_port).start(place.database, search_path=place.here) as direct:
        for wire in (direct, *crowd.wires):
            prepare(wire, hinted(INSERT))
        if used:
            assert crowd.send(lambda n: bound("2020-01-01" if before == "date" else "1", "x")) == INSERTED
        place.directly(place.here, "DELETE FROM t", f"ALTER TABLE t ALTER a TYPE {after} USING NULL")
        expected = reply(direct.ask(bound(value, "x")))
        stored = place.rows("SELECT a FROM t")
    place.directly(place.here, "DELETE FROM t")
    assert crowd.send(lambda n: bound(value, "x")) == [expected] * COUNT
    assert place.rows("SELECT DISTINCT a FROM t") == stored


SETTINGS = {
    "DateStyle": ("date", "01/02/2020", "iso, dmy", "iso, mdy"),
    "TimeZone": ("timestamptz", "2020-01-01 00:00", "UTC", "Asia/Tokyo"),
    "IntervalStyle": ("interval", "-1 2:03", "postgres", "sql_standard"),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_constant_that_is_read_by_a_setting(place: Place, crowds: MakeCrowd, setting: str) -> None:
    """It was read when the statement was prepared; the setting has changed since, and then changes back."""
    kind, constant, then, now = SETTINGS[setting]
    place.make(f"CREATE TABLE t (a {kind}, b text)")
    crowd = crowds()
    insert = f"INSERT INTO t VALUES ('{constant}', $1)"
    with Wire(place.direct_port).start(place.database, search_path=place.here) as direct:
        everybody = (direct, *crowd.wires)
        for wire in everybody:
            wire.ask(query(f"SET {setting} = '{then}'"))
            prepare(wire, hinted(insert))
        for value, reason in ((now, "session_state"), (then, "")):
            for wire in everybody:
                wire.ask(query(f"SET {setting} = '{value}'"))
            direct.ask(bound("x"))
            assert crowd.send(lambda _: bound("x")) == INSERTED
            assert {one.reason for one in crowd.statuses()} == {reason}
        assert crowd.together == "merged"
    assert place.rows("SELECT count(*), count(DISTINCT a) FROM t") == ((b"%d" % (2 * COUNT + 2), b"1"),)


def test_other_columns_are_an_error(plain: Place, crowds: MakeCrowd) -> None:
    """Who was told of two columns gets no three; until he prepares it again."""
    crowd = crowds()
    for wire in crowd.wires:
        prepare(wire, hinted(RETURNING))
    returned = [Reply(((b"%d" % n, b"x"),), "INSERT 0 1") for n in range(COUNT)]
    assert crowd.send(lambda n: bound(str(n), "x")) == returned
    assert crowd.together == "prepared"
    plain.directly(plain.here, "ALTER TABLE t ADD c int DEFAULT 7")
    for _ in range(2):
        assert crowd.send(lambda n: bound(str(n), "x")) == [Reply(sqlstate="0A000")] * COUNT
    assert plain.rows("SELECT count(*) FROM t") == ((b"%d" % COUNT,),)
    for wire in crowd.wires:
        wire.ask(close("mine") + parse(hinted(RETURNING), "mine") + SYNC)
    assert crowd.send(lambda n: bound(str(n), "x")) == [
        Reply(((b"%d" % n, b"x", b"7"),), "INSERT 0 1") for n in range(COUNT)
    ]
    assert crowd.together == "prepared"


def test_old_and_new_do_not_meet(plain: Place, crowds: MakeCrowd) -> None:
    """Half of the sessions prepared it before the change."""
    crowd = crowds()
    old, new = crowd.wires[::2], crowd.wires[1::2]
    for wire in old:
        prepare(wire, hinted(INSERT))
    plain.directly(plain.here, "ALTER TABLE t ALTER a TYPE text")
    for wire in new:
        prepare(wire, hinted(INSERT))
    assert crowd.send(lambda n: bound("007", str(n % 2))) == INSERTED
    assert plain.rows("SELECT DISTINCT a, b FROM t ORDER BY b") == ((b"7", b"0"), (b"007", b"1"))
    assert {one.size for one in crowd.statuses()} == {str(COUNT // 2)}


@pytest.mark.parametrize(
    "again", [close("mine") + SYNC, query("DEALLOCATE mine"), query("DEALLOCATE ALL"), query("DISCARD ALL")]
)
def test_another_statement_of_the_same_name(plain: Place, crowds: MakeCrowd, again: bytes) -> None:
    crowd = crowds()
    for wire in crowd.wires:
        prepare(wire, hinted(INSERT))
    assert crowd.send(lambda n: bound("1", "x")) == INSERTED
    for wire in crowd.wires:
        wire.ask(again)
        if again == query("DISCARD ALL"):
            wire.ask(query(f"SET search_path = {plain.here}"))
        prepare(wire, hinted("INSERT INTO t (b, a) VALUES ($1, $2)"))
    assert crowd.send(lambda n: bound("y", "2")) == INSERTED
    assert crowd.together == "merged"
    assert plain.rows("SELECT a, b, count(*) FROM t GROUP BY 1, 2 ORDER BY 1") == (
        (b"1", b"x", b"%d" % COUNT),
        (b"2", b"y", b"%d" % COUNT),
    )


@pytest.mark.parametrize("name", ["mine", ""])
def test_what_is_sent_behind_it_at_once(plain: Place, crowds: MakeCrowd, name: str) -> None:
    """Units are answered in their order, whether their statement is known by then or not."""
    crowd = crowds()
    for wire in crowd.wires:
        prepare(wire, hinted(INSERT), name)
    reads = query("SELECT count(*) FROM t WHERE b = 'me'")
    replies = crowd.send(
        lambda n: bound(str(n), "x", name=name) + bound(None, "me" if n == 3 else "x", name=name) + reads
    )
    assert replies == INSERTED
    for n, wire in enumerate(crowd.wires):
        assert reply(wire.until()) == INSERTED[0]
        rows = reply(wire.until()).rows
        assert rows == ((b"1",),) or n != 3
    assert plain.rows("SELECT count(*) FROM t") == ((b"%d" % (2 * COUNT),),)


def test_a_client_that_leaves_at_once(plain: Place, crowds: MakeCrowd, batching: RunningProxy) -> None:
    crowd = crowds()
    growth = Growth(batching)
    for wire in crowd.wires:
        prepare(wire, hinted(INSERT))
    for n, wire in enumerate(crowd.wires):
        wire.send(bound(str(n), "x"))
        wire.__exit__()
    wait_for(lambda: plain.rows("SELECT count(DISTINCT a), count(*) FROM t") == ((b"%d" % COUNT,) * 2,))
    wait_for(lambda: growth("query_total") == COUNT)


def test_each_is_counted_once(plain: Place, crowds: MakeCrowd, batching: RunningProxy) -> None:
    crowd = crowds()
    for wire in crowd.wires:
        prepare(wire, hinted(INSERT))
    growth = Growth(batching)
    for _ in range(3):
        assert crowd.send(lambda n: bound("1", "x")) == INSERTED
    assert growth("query_total") == growth("write_batched_total") == 3 * COUNT
