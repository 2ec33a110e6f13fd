"""A write through the proxy, however it is said: who asks when its client knows of it gets nothing older."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Sequence

import pytest

from tests.integration.batching.crowd import reply
from tests.integration.caching.conftest import MakePlace
from tests.integration.caching.places import Gate, Place, backend, cached, cell, told
from tests.integration.waiting import wait_for
from tests.integration.wire import (
    COPY_DONE,
    FLUSH,
    SYNC,
    TERMINATE,
    Wire,
    bind,
    close,
    copy_data,
    describe,
    execute,
    function_call,
    kinds,
    parse,
    query,
)
from tests.proxies import RunningProxy
from tqdbproxy.embedded import EmbeddedServer

Way = Callable[[Wire, str], None]
READ = "SELECT coalesce(sum(v), 0) FROM t"
PREPARED = parse(cached("SELECT coalesce(sum(v), 0) FROM t WHERE k > $1"), "reader", [23])


def say(*texts: str) -> Way:
    """These Queries, one after another. ``%s`` is the schema."""

    def write(wire: Wire, schema: str) -> None:
        told(wire, *(text.replace("%s", schema) for text in texts))

    return write


def send(*messages: bytes, ends: int = 1, before: Sequence[bytes] = ()) -> Way:
    """These messages at once; so many ReadyForQuery. ``before``: units that have their answer first."""

    def write(wire: Wire, _schema: str) -> None:
        for one in before:
            wire.ask(one)
        wire.send(*messages)
        frames = wire.until(count=ends)
        assert "E" not in kinds(frames), frames

    return write


def unit(text: str, *values: str, name: str = "") -> bytes:
    return (b"" if name else parse(text)) + bind(*values, name=name) + execute() + SYNC


ADD = "UPDATE t SET v = v + 1 WHERE k = 1"
WAYS: dict[str, Way] = {
    "update": say(ADD),
    "insert": say("INSERT INTO t VALUES (7, 7)"),
    "insert select": say("insert into T select 8, 8"),
    "delete": say("DELETE FROM t WHERE k = 1"),
    "qualified": say("UPDATE %s.t SET v = v + 1"),
    "quoted": say('UPDATE "t" SET v = v + 1'),
    "quoted schema": say('UPDATE ONLY "%s" . "t" AS x SET v = v + 1'),
    "of the catalog": say("UPDATE pantry.%s.t SET v = v + 1"),
    "comments": say("/* a */ UPDATE -- b\n /* c */ t SET v = v + 1 -- d"),
    "hint for metrics": say("/* file:a.py line:1 */ UPDATE t SET v = v + 1"),
    "two texts alike": say("UPDATE t SET v = 1 WHERE k = 9", "UPDATE t SET v = 77 WHERE k = 1"),
    "newer syntax": say("UPDATE t SET v = v + 1 RETURNING old.v, new.v"),
    "in a with": say("WITH x AS (UPDATE t SET v = v + 1 RETURNING v) SELECT * FROM x"),
    "with behind it": say("WITH x AS (SELECT 5 AS n) INSERT INTO t SELECT n, n FROM x"),
    "merge": say("MERGE INTO t USING (VALUES (1)) n(k) ON t.k = n.k WHEN MATCHED THEN UPDATE SET v = 50"),
    "upsert": say("INSERT INTO t VALUES (1, 1) ON CONFLICT (k) DO UPDATE SET v = t.v + 9"),
    "truncate": say("TRUNCATE t"),
    "truncate many": say("TRUNCATE TABLE other, t"),
    "drop": say("DROP TABLE t; CREATE TABLE t (k int PRIMARY KEY, v int)"),
    "rename": say("ALTER TABLE t RENAME TO t2; ALTER TABLE other RENAME TO t"),
    "retype": say("ALTER TABLE t ALTER v TYPE int USING v + 3"),
    "do": say("DO $$ BEGIN UPDATE t SET v = v + 1; END $$"),
    "call": say("CREATE PROCEDURE p() LANGUAGE sql AS 'UPDATE t SET v = v + 1'", "CALL p()"),
    "call that commits": say(
        "CREATE PROCEDURE q() LANGUAGE plpgsql AS 'BEGIN UPDATE t SET v = v + 1; COMMIT; END'", "CALL q()"
    ),
    "function by hint": say(
        "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'UPDATE t SET v = v + 1'", "/* purge:table:t */ SELECT f()"
    ),
    "explain analyze": say("EXPLAIN ANALYZE UPDATE t SET v = v + 1"),
    "sql prepared": say("PREPARE w AS UPDATE t SET v = v + 1", "EXECUTE w"),
    "several statements": say("SELECT 1; UPDATE t SET v = v + 1; SELECT 2"),
    "transaction in one query": say("BEGIN; UPDATE t SET v = v + 1; COMMIT"),
    "transaction": say("BEGIN", ADD, "SELECT 1", "COMMIT"),
    "end": say("begin work", ADD, "END"),
    "savepoint": say("BEGIN", "SAVEPOINT a", ADD, "RELEASE a", "COMMIT"),
    "savepoint undone": say("BEGIN", ADD, "SAVEPOINT a", "TRUNCATE t", "ROLLBACK TO a", "COMMIT"),
    "rolled back": say("BEGIN", ADD, "ROLLBACK"),
    "commit and chain": say("BEGIN", ADD, "COMMIT AND CHAIN"),
    "end and chain": say("BEGIN", ADD, "end work and chain"),
    "commit and begin": say("BEGIN", ADD, "COMMIT; BEGIN"),
    "all and begin": say("BEGIN; UPDATE t SET v = v + 1; COMMIT; BEGIN"),
    "after a rollback": say("BEGIN", "ROLLBACK", ADD),
    "declared": say("BEGIN", "DECLARE c CURSOR FOR SELECT 1 FROM t FOR UPDATE", "FETCH c", ADD, "COMMIT"),
    "where current of": say(
        "BEGIN",
        "DECLARE c CURSOR FOR SELECT k FROM t FOR UPDATE",
        "FETCH c",
        "UPDATE t SET v = 5 WHERE CURRENT OF c",
        "COMMIT",
    ),
    "select into": say("DROP TABLE t", "SELECT 1 AS k, 5 AS v INTO t"),
    "create as": say("DROP TABLE t", "CREATE TABLE t AS SELECT 1 AS k, 6 AS v"),
    "view replaced": say("ALTER TABLE t RENAME TO u", "CREATE VIEW t AS SELECT 1 AS k, 60 AS v"),
    "long": say(f"UPDATE t SET v = v + 1 WHERE k = 1 AND '{'x' * 40_000}' <> ''"),
    "very long": say(f"UPDATE t SET v = v + 1 WHERE k = 1 AND '{'x' * 1_200_000}' <> ''"),
    "batched": say("/* batch:5 */ " + ADD),
    "batched insert": say("/* batch:5 */ INSERT INTO t VALUES (12, 12)"),
    "batched with purge": say("/* batch:5 purge:x */ UPDATE t SET v = 3 WHERE k = 1"),
    "batched in a transaction": say("BEGIN", "/* batch:5 */ " + ADD, "COMMIT"),
    "batched without a window": say("/* batch:0 */ " + ADD),
    "batched and cached": say("/* batch:5 ttl:5 */ " + ADD),
    "extended": send(unit("UPDATE t SET v = v + $1", "1")),
    "extended, no parse": send(bind() + execute() + SYNC, before=[parse(ADD) + SYNC]),
    "extended, flushed": send(bind() + FLUSH + execute() + FLUSH + SYNC, before=[parse(ADD) + FLUSH + SYNC]),
    "extended, batched": send(unit("/* batch:5 */ UPDATE t SET v = v + $1", "1")),
    "named": send(unit("", name="w"), before=[parse(ADD, "w") + SYNC]),
    "named, batched": send(unit("", name="w"), before=[parse("/* batch:5 */ " + ADD, "w") + SYNC]),
    "named, described": send(
        bind(name="w") + describe() + execute() + SYNC, before=[parse(ADD, "w") + describe("w", "S") + SYNC]
    ),
    "named twice": send(
        unit("", name="w"), before=[parse("SELECT 1", "w") + SYNC, close("w") + parse(ADD, "w") + SYNC]
    ),
    "named, closing failed": send(
        unit("", name="w"), before=[parse(ADD, "w") + SYNC, bind(name="none") + close("w") + SYNC]
    ),
    "named, parsed again in vain": send(
        unit("", name="w"), before=[parse(ADD, "w") + SYNC, parse("DELETE FROM other", "w") + SYNC]
    ),
    "named, deallocated in vain": send(
        unit("", name="w"),
        before=[parse(ADD, "w") + SYNC, query("BEGIN"), query("SELECT 1/0"), query("DEALLOCATE w"), query("ROLLBACK")],
    ),
    "named, discarded in vain": send(
        unit("", name="w"), before=[parse(ADD, "w") + SYNC, query("BEGIN"), query("DISCARD ALL"), query("ROLLBACK")]
    ),
    "unnamed, replaced in vain": send(
        bind() + execute() + SYNC, before=[parse(ADD) + SYNC, bind(name="none") + parse("SELECT 1") + SYNC]
    ),
    "named by execute": send(query("EXECUTE w"), before=[parse(ADD, "w") + SYNC]),
    "portal": send(
        execute("p") + SYNC + query("COMMIT"), ends=2, before=[query("BEGIN"), parse(ADD) + bind(portal="p") + SYNC]
    ),
    "large parameter": send(
        bind("x" * 1_200_000, name="w") + execute() + SYNC,
        before=[parse("UPDATE t SET v = v + 1 WHERE $1::text <> ''", "w") + SYNC],
    ),
    "large parameter, unnamed": send(unit("UPDATE t SET v = v + 1 WHERE $1::text <> ''", "x" * 1_200_000)),
    "large parameter, batched": send(
        unit("/* batch:5 */ UPDATE t SET v = v + 1 WHERE $1::text <> ''", "x" * 1_200_000)
    ),
    "large statement": send(unit(f"UPDATE t SET v = v + 1 WHERE '{'x' * 1_200_000}' <> ''")),
    "large statement, named": send(
        unit("", name="w"), before=[parse(f"UPDATE t SET v = v + 1 WHERE '{'x' * 1_200_000}' <> ''", "w") + SYNC]
    ),
    "large statement of another": send(
        unit("", name="w"), before=[parse(ADD, "w") + SYNC, parse(f"SELECT '{'x' * 1_200_000}'", "v") + SYNC]
    ),
    "pipeline": send(unit(ADD), unit("SELECT 1"), unit(ADD), ends=3),
    "pipeline of queries": send(query(ADD), query("SELECT 1"), ends=2),
    "pipeline of one transaction": send(unit(ADD)[:-5] + unit("SELECT 1")),
    "pipeline that ends in a transaction": send(
        unit("BEGIN")[:-5] + unit(ADD)[:-5] + unit("COMMIT")[:-5] + unit("BEGIN")
    ),
}


def _copy(wire: Wire, _schema: str) -> None:
    wire.send(query("COPY t FROM STDIN"))
    wire.until("G")
    assert "E" not in kinds(wire.ask(copy_data(b"20\t20\n"), COPY_DONE))


def _copy_extended(wire: Wire, _schema: str) -> None:
    wire.send(parse("COPY t (k, v) FROM STDIN"), bind(), execute(), SYNC)
    wire.until("G")
    assert "E" not in kinds(wire.ask(copy_data(b"20\t20\n"), COPY_DONE, SYNC))


def _function_call(wire: Wire, _schema: str) -> None:
    oid = int(cell(told(wire, "SELECT 'raise_all'::regproc::oid")))
    assert kinds(wire.ask(function_call(oid))) == "VZ"


def _large_in_pieces(wire: Wire, _schema: str) -> None:
    """The beginning of a message shows only half of its name."""
    large = parse(f"UPDATE t SET v = v + 1 WHERE '{'x' * 1_200_000}' <> ''", "writer")
    wire.send(parse("SELECT 1", "one"), FLUSH, large[:8])
    wire.until("1")
    wire.ask(large[8:], SYNC)
    told(wire, "SELECT 1")
    assert kinds(wire.ask(bind(name="writer"), execute(), SYNC)) == "2CZ"


WAYS["function call"] = _function_call
WAYS["large statement in pieces"] = _large_in_pieces
WAYS["copy"] = _copy
WAYS["copy, extended"] = _copy_extended


class Readers:
    """Sessions that ask the same in three ways, again and again."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._wires = [place.session() for _ in range(3)]
        for wire in self._wires:
            assert not reply(wire.ask(PREPARED, SYNC)).sqlstate
        self._asked = [
            query(cached(READ)),
            parse(cached(READ)) + bind() + describe() + execute() + SYNC,
            bind("0", name="reader") + execute() + SYNC,
            query(cached(f"SELECT coalesce(sum(v), 0) FROM {place.schema}.t")),
        ]

    def see(self, *, backend_is: str = "") -> set[str]:
        """What they are told; the first of a way to ask may fetch it."""
        found: set[str] = set()
        for asked in self._asked:
            for number, wire in enumerate(self._wires):
                found.add(cell(reply(wire.ask(asked))))
                assert not (backend_is and number) or backend(wire) == backend_is
        return found

    def truth(self) -> set[str]:
        """What they should be told."""
        return {cell(self._place.do(READ)[0])}


def shop(place: Place) -> Place:
    """The tables."""
    place.do(
        "CREATE TABLE t (k int PRIMARY KEY, v int)",
        "CREATE TABLE other (k int PRIMARY KEY, v int)",
        "INSERT INTO t VALUES (1, 10), (2, 20)",
        "INSERT INTO other VALUES (1, 1000)",
        "CREATE FUNCTION raise_all() RETURNS int LANGUAGE sql AS 'UPDATE t SET v = v + 1; SELECT 1'",
    )
    return place


@pytest.mark.parametrize("way", WAYS)
def test_written_and_read_again(place: Place, way: str) -> None:
    readers, writer = Readers(shop(place)), place.session()
    before = readers.truth()
    assert readers.see() == before
    assert readers.see(backend_is="cache") == before
    WAYS[way](writer, place.schema)
    assert readers.see() == readers.truth()
    assert (readers.truth() != before) == (way != "rolled back"), "what is this way for?"
    assert readers.see(backend_is="cache") == readers.truth()


def test_acknowledged_in_a_pipeline_whose_rest_takes_its_time(place: Place) -> None:
    """Each unit of a pipeline counts when its own ReadyForQuery has come, not when the last one has."""
    readers, writer = Readers(shop(place)), place.session()
    readers.see()
    gate = Gate(place)
    gate.shut()
    writer.send(unit(ADD), unit(ADD + " AND held() IS NOT NULL"))
    writer.until()
    assert readers.see() == readers.truth() == {"31"}
    gate.open()
    writer.until()
    assert readers.see() == readers.truth() == {"32"}


def test_not_before_it_is_committed(place: Place) -> None:
    """What others read while a transaction is open is old, and gone with its COMMIT."""
    readers, writer = Readers(shop(place)), place.session()
    told(writer, "BEGIN", ADD, "SAVEPOINT a", ADD)
    assert readers.see() == {"30"}
    assert readers.see(backend_is="cache") == {"30"}
    told(writer, "RELEASE a", "COMMIT")
    assert readers.see() == {"32"}


def test_the_writer_reads_its_own_writes(place: Place) -> None:
    wire = shop(place).session()
    for value in range(20):
        told(wire, f"/* batch:1 */ UPDATE t SET v = {value} WHERE k = 1" if value % 2 else f"UPDATE t SET v = {value}")
        told(wire, cached("SELECT v FROM t WHERE k = 1"))
        assert cell(told(wire, cached("SELECT v FROM t WHERE k = 1"))) == str(value)
        assert backend(wire) == "cache"


@pytest.mark.parametrize("end", ["terminate", "close", "reset"])
@pytest.mark.parametrize("hint", ["", "/* batch:50 */ "])
def test_a_writer_that_vanishes(place: Place, hint: str, end: str) -> None:
    """Nobody acknowledged it; when the row is there, nobody gets the old one."""
    readers = Readers(shop(place))
    readers.see()
    writer = place.session()
    slow = "" if hint else " AND pg_sleep(0.3) IS NOT NULL"
    writer.send(query(f"{hint}UPDATE t SET v = v + 1 WHERE k = 1{slow}"), TERMINATE if end == "terminate" else b"")
    if end == "reset":
        writer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if end != "terminate":
        writer.socket.close()
    wait_for(lambda: readers.truth() == {"31"})
    wait_for(
        lambda: (
            not place.do("SELECT 1 FROM pg_stat_activity WHERE query LIKE '%v + 1%' AND pid <> pg_backend_pid()")[
                0
            ].rows
        )
    )
    wait_for(lambda: readers.see() == {"31"})


def test_from_before_anybody_asked(
    postgres: EmbeddedServer, places: MakePlace, start: Callable[..., RunningProxy]
) -> None:
    """Statements prepared, transactions begun and writes under way when the first read of all is kept."""
    place = shop(places(start(f"{postgres.host}:{postgres.port}")))
    named, open_one, portal, running, batch = (place.session() for _ in range(5))
    named.ask(parse(ADD, "w"), SYNC)
    told(open_one, "BEGIN", "UPDATE t SET v = v + 1 WHERE k = 2")
    portal.ask(query("BEGIN"))
    portal.ask(parse("INSERT INTO t VALUES (3, 100)"), bind(portal="p"), SYNC)
    gate = Gate(place)
    gate.shut()
    running.send(query("INSERT INTO t SELECT 4, 1000 FROM held()"))
    told(batch, "SELECT 1")
    readers = Readers(place)
    assert readers.see() == {"30"}
    assert readers.see(backend_is="cache") == {"30"}
    gate.open()
    running.until()
    assert readers.see() == readers.truth() == {"1030"}
    told(open_one, "COMMIT")
    assert readers.see() == readers.truth() == {"1031"}
    portal.ask(execute("p"), SYNC)
    told(portal, "COMMIT")
    assert readers.see() == readers.truth() == {"1131"}
    named.ask(bind(name="w"), execute(), SYNC)
    assert readers.see() == readers.truth() == {"1132"}


def test_every_write_batched_by_load(
    postgres: EmbeddedServer, places: MakePlace, start: Callable[..., RunningProxy]
) -> None:
    """``mode = adaptive``: writes without hints wait for company, too."""
    config = "[write_batch]\nmode = adaptive\ninitial_delay_ms = 5\nmin_delay_ms = 5\nmetrics_interval = 60\n"
    place = shop(places(start(f"{postgres.host}:{postgres.port}", config)))
    readers, writer = Readers(place), place.session()
    for way in ("update", "insert", "delete", "qualified", "extended", "named", "merge", "transaction", "copy"):
        readers.see()
        WAYS[way](writer, place.schema)
        assert readers.see() == readers.truth(), way


def test_the_hints_of_another(place: Place) -> None:
    """The same question with other tags is another one: what purges one must not miss the other."""
    one, writer = shop(place).session(), place.session()
    tagged, plain = cached("SELECT v FROM t WHERE k = 1", "tags:a"), cached("SELECT v FROM t WHERE k = 1")
    other = cached("SELECT v FROM t WHERE k = 1", "tags:b+c")
    for first, second in ((tagged, plain), (plain, tagged)):
        told(one, first, second, other)
        told(writer, ADD)
        assert cell(told(one, plain)) == cell(place.do("SELECT v FROM t WHERE k = 1")[0])
        told(one, first, second, other)
        told(writer, "/* purge:c */ SELECT 1")
        assert cell(told(one, other)) == cell(place.do("SELECT v FROM t WHERE k = 1")[0])
        told(writer, "/* purge:a */ " + ADD)
        for text in (plain, tagged):
            assert cell(told(one, text)) == cell(place.do("SELECT v FROM t WHERE k = 1")[0])


@pytest.mark.parametrize(
    "write",
    ["UPDATE other SET v = 0", "/* purge:none */ SELECT 1", "/* batch:5 */ INSERT INTO other VALUES (9, 9)", "VACUUM"],
)
def test_what_others_keep(place: Place, write: str) -> None:
    """A write to another table purges nothing of this one."""
    readers, writer = Readers(shop(place)), place.session()
    readers.see()
    told(writer, write)
    assert readers.see(backend_is="cache") == {"30"}


@pytest.mark.parametrize("purge", ["/* purge:a */ SELECT 1", "/* purge:b+a batch:5 */ UPDATE other SET v = 2"])
@pytest.mark.parametrize("way", ["alone", "transaction", "rolled back", "extended"])
def test_tags_that_are_said(place: Place, way: str, purge: str) -> None:
    shop(place)
    reader, writer = place.session(), place.session()
    read = cached("SELECT v FROM t WHERE k = 1", "tags:a+c")
    told(reader, read)
    told(writer, ADD)
    assert cell(told(reader, read)) == "10", "its tables don't count"
    if way == "alone":
        told(writer, purge)
    elif way == "extended":
        assert "E" not in kinds(writer.ask(unit(purge)))
    else:
        told(writer, "BEGIN", purge)
        assert cell(told(reader, read)) == "10"
        told(writer, "COMMIT" if way == "transaction" else "ROLLBACK")
    assert cell(told(reader, read)) == "11"
