"""When inserts that could be merged are not, what they may carry, and what happens while tables change under them."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from tests.integration.batching.conftest import MakeCrowd, Place
from tests.integration.batching.crowd import COUNT, Crowd, Reply, crowd, extended, hinted, reply, simple, status
from tests.integration.test_limits import StartWith
from tests.integration.waiting import wait_for
from tests.integration.wire import SYNC, Wire, bind, describe, execute, parse, query

INSERT = "INSERT INTO t VALUES ($1, $2)"
INSERT_ONE = "INSERT INTO t VALUES ($1)"
INSERTED = [Reply(tag="INSERT 0 1")] * COUNT
INT2, INT4, INT8, TEXT, FLOAT8 = 21, 23, 20, 25, 701


def rows(number: int) -> tuple[str, str]:
    return str(number), f"text {number}"


@pytest.fixture
def plain(place: Place) -> Place:
    place.make("CREATE TABLE t (a int, b text)")
    return place


# Not merged


def test_a_hint_keeps_inserts_apart(plain: Place, crowds: MakeCrowd) -> None:
    crowd = crowds()
    assert crowd.send(lambda n: extended(INSERT, *rows(n), more="merge:off")) == INSERTED
    assert crowd.together == "prepared"
    assert crowd.send(lambda n: extended(INSERT, *rows(n), more="merge:off" if n == 3 else "")) == INSERTED
    assert crowd.together == "prepared"
    assert crowd.send(lambda n: extended(INSERT, *rows(n))) == INSERTED
    assert crowd.together == "merged"


def test_the_configuration_keeps_inserts_apart(start_with: StartWith) -> None:
    config = f"[write_batch]\nearly_quorum = off\nmax_batch_size = {COUNT}\nmerge_inserts = "
    proxy, ends = start_with(config + "off\n")
    ends.prepare("CREATE TABLE IF NOT EXISTS apart (a int, b text)")
    with crowd(proxy, ends.database) as writers:
        insert = INSERT.replace(" t ", " apart ")
        assert writers.send(lambda n: extended(insert, *rows(n))) == INSERTED
        assert writers.together == "prepared"
        proxy.config_path.write_text(config + "auto\n")
        proxy.process.send_signal(1)
        wait_for(lambda: "configuration reloaded" in proxy.log)
        assert writers.send(lambda n: extended(insert, *rows(n))) == INSERTED
        assert writers.together == "merged"


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_few_are_not_worth_it(plain: Place, crowds: MakeCrowd, count: int) -> None:
    crowd = crowds(count)
    assert crowd.send(lambda n: extended(INSERT, *rows(n))) == INSERTED[:count]
    assert crowd.together == ("single" if count == 1 else "prepared" if count < 4 else "merged")


@pytest.mark.parametrize(
    "options",
    [
        {"track_counts": "off"},
        {"default_transaction_isolation": "repeatable read"},
        {"default_transaction_isolation": "serializable"},
    ],
)
def test_where_the_guard_can_not_know(plain: Place, crowds: MakeCrowd, options: dict[str, str]) -> None:
    crowd = crowds(**options)
    for _ in range(2):
        assert crowd.send(lambda n: extended(INSERT, *rows(n))) == INSERTED
        assert crowd.together == "prepared"
    assert len(plain.rows("SELECT * FROM t")) == 2 * COUNT


def test_a_table_that_is_refused_is_left_alone_and_others_are_not(plain: Place, crowds: MakeCrowd) -> None:
    """The same text may name another table elsewhere."""
    plain.directly(plain.there, "ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    refused, merged = crowds(search_path=plain.there), crowds()
    for _ in range(2):
        assert refused.send(lambda n: extended(INSERT, *rows(n))) == INSERTED
        assert merged.send(lambda n: extended(INSERT, *rows(n))) == INSERTED
    assert (refused.together, merged.together) == ("prepared", "merged")


def test_row_level_security_is_that_of_the_role(place: Place, crowds: MakeCrowd, role: str) -> None:
    place.directly(
        place.here,
        "CREATE TABLE t (a int, b text, who name DEFAULT current_user)",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY p ON t FOR INSERT WITH CHECK (a < 6 AND who = current_user)",
        f"GRANT INSERT ON t TO {role}; GRANT USAGE ON SCHEMA {place.here} TO {role}",
    )
    crowd = crowds(user=role)
    replies = crowd.send(lambda n: extended("INSERT INTO t (a, b) VALUES ($1, $2)", *rows(n)))
    assert replies == [Reply(tag="INSERT 0 1")] * 6 + [Reply(sqlstate="42501")] * 2
    assert place.rows("SELECT count(*), min(who) FROM t") == ((b"6", role.encode()),)


@pytest.fixture
def role(place: Place) -> Iterator[str]:
    name = f"role_of_{place.here}"
    place.prepare(f"CREATE ROLE {name} LOGIN")
    yield name
    place.prepare(f"DROP OWNED BY {name}; DROP ROLE {name}")


# What the rows are made of


def test_nulls(plain: Place, crowds: MakeCrowd) -> None:
    crowd = crowds()
    assert crowd.send(lambda n: extended(INSERT, None if n % 2 else str(n), None if n % 3 else "")) == INSERTED
    assert crowd.together == "merged"
    question = "SELECT count(*), count(a), count(b), sum(length(b)) FROM t"
    assert plain.rows(question) == ((b"8", b"4", b"3", b"0"),)


BINARY = struct.Struct("!i")


@pytest.mark.parametrize(
    ("formats", "value"),
    [
        ((), lambda n: (str(n), f"text {n}")),
        ((0,), lambda n: (str(n), f"text {n}")),
        ((0, 0), lambda n: (str(n), f"text {n}")),
        ((1,), lambda n: (BINARY.pack(n), f"text {n}")),
        ((1, 0), lambda n: (BINARY.pack(n), f"text {n}")),
        ((0, 1), lambda n: (str(n), f"text {n}".encode())),
        ((1, 1), lambda n: (BINARY.pack(n), None if n == 5 else f"text {n}")),
    ],
)
def test_formats(
    plain: Place, crowds: MakeCrowd, formats: tuple[int, ...], value: Callable[[int], tuple[bytes | str, ...]]
) -> None:
    crowd = crowds()
    for _ in range(2):
        assert crowd.send(lambda n: extended(INSERT, *value(n), formats=formats)) == INSERTED
        assert crowd.together == "merged"
    expected = [(b"%d" % n, value(n)[1] and b"text %d" % n) for n in range(COUNT)]
    assert plain.rows("SELECT DISTINCT * FROM t ORDER BY a") == tuple(expected)


def test_mixed_formats_are_not_merged(plain: Place, crowds: MakeCrowd) -> None:
    crowd = crowds()
    for _ in range(70):  # what would have been closed on the way is closed by another one
        replies = crowd.send(
            lambda n: extended(INSERT, BINARY.pack(n), "x", formats=(1, 0)) if n % 2 else extended(INSERT, str(n), "x")
        )
        assert replies == INSERTED
    assert crowd.together == "prepared"
    assert plain.rows("SELECT count(*), sum(a) FROM t") == ((b"560", b"1960"),)


def test_declared_types(place: Place, crowds: MakeCrowd) -> None:
    """Writes with other types are others, even if their text is the same."""
    place.make("CREATE TABLE t (a float8, b text)")
    crowd = crowds()
    for layout, types in (("!q", (INT8,)), ("!d", (FLOAT8, TEXT))):
        said = [extended(INSERT, struct.pack(layout, n), "x", types=types, formats=(1, 0)) for n in range(COUNT)]
        assert crowd.send(said.__getitem__) == INSERTED
        assert crowd.together == "merged"
    halves = crowd.send(lambda n: extended(INSERT, str(n), "y", types=(INT8,) if n % 2 else (INT2, TEXT)))
    assert halves == INSERTED
    assert set(crowd.statuses()) == {("merged", "4", "")}
    assert place.rows("SELECT b, sum(a) FROM t GROUP BY b ORDER BY b") == ((b"x", b"56"), (b"y", b"28"))


def test_drivers_ways_to_say_it(plain: Place, crowds: MakeCrowd) -> None:
    """Named statements, unnamed ones that were there before, Describe or not, a Query: all meet that mean the same."""
    crowd = crowds()
    text = hinted(INSERT)

    def name(n: int) -> str:
        return "mine" if n < 4 else ""

    for n, wire in enumerate(crowd.wires):
        assert [f.kind for f in wire.ask(parse(text, name(n)) + SYNC)] == ["1", "Z"]

    def prepared(n: int) -> bytes:
        return bind(*rows(n), name=name(n)) + (describe() if n % 2 else b"") + execute() + SYNC

    def parsed(n: int) -> bytes:
        return parse(text) + bind(*rows(n)) + (describe() if n % 2 else b"") + execute() + SYNC

    for say in (prepared, parsed, lambda n: simple(f"INSERT INTO t VALUES ({n}, 'it''s {n}')")):
        assert crowd.send(say) == INSERTED
        assert crowd.together == "merged"
    assert plain.rows("SELECT count(*), count(DISTINCT b) FROM t") == ((b"24", b"16"),)


def test_wide_rows_are_cut_by_the_limit_of_parameters(place: Place, start_with: StartWith) -> None:
    """50 rows of 1,500 parameters are more than one Bind can carry."""
    proxy, _ends = start_with("[write_batch]\nearly_quorum = off\nmax_batch_size = 50\n")
    columns = ", ".join(f"c{n} int2" for n in range(1500))
    place.directly(place.here, f"CREATE TABLE t ({columns})")
    insert = "INSERT INTO t VALUES ({})".format(", ".join(f"${n + 1}" for n in range(1500)))
    with crowd(proxy, place.database, 50, search_path=place.here) as writers:
        replies = writers.send(lambda n: extended(insert, *[str((n + c) % 1000) for c in range(1500)]))
        assert replies == [Reply(tag="INSERT 0 1")] * 50
        assert writers.together == "merged"
    assert place.rows("SELECT count(*), sum(c0), sum(c1499) FROM t") == ((b"50", b"1225", b"26175"),)


def test_big_values(plain: Place, crowds: MakeCrowd) -> None:
    crowd = crowds()
    patient = 10_000  # for these the proxy isn't held while they come
    assert crowd.send(lambda n: extended(INSERT, str(n), chr(97 + n) * 300_000, window_ms=patient)) == INSERTED
    assert crowd.together == "merged"
    found = plain.rows("SELECT a, length(b), b = repeat(chr(97 + a), 300000) FROM t ORDER BY a")
    assert found == tuple((b"%d" % n, b"300000", b"t") for n in range(COUNT))


def test_paths(plain: Place, crowds: MakeCrowd) -> None:
    """What a name means depends on the session."""
    one, other = crowds(4), crowds(4, search_path=plain.there)
    both = Crowd([wire for pair in zip(one.wires, other.wires, strict=True) for wire in pair], one.proxy)
    assert both.send(lambda n: extended(INSERT, *rows(n))) == INSERTED
    assert set(both.statuses()) == {("merged", "4", "")}
    assert plain.rows("SELECT sum(a) FROM t") == ((b"12",),)
    assert plain.rows("SELECT sum(a) FROM t", plain.there) == ((b"16",),)


def test_one_who_fails_does_not_take_the_others_along(place: Place, crowds: MakeCrowd) -> None:
    place.make("CREATE TABLE t (a int PRIMARY KEY, b text CHECK (b <> 'bad'))", "INSERT INTO t VALUES (5, 'old')")
    crowd = crowds()
    replies = crowd.send(lambda n: extended(INSERT, str(n), "bad" if n == 2 else "good"))
    assert [said.sqlstate for said in replies] == ["", "", "23514", "", "", "23505", "", ""]
    found = place.rows("SELECT string_agg(a || b, ' ' ORDER BY a) FROM t")
    assert found == ((b"0good 1good 3good 4good 5old 6good 7good",),)


# While tables change


def test_a_table_that_gets_another_type(place: Place, crowds: MakeCrowd) -> None:
    """The prepared statements have the old type; they are made anew."""
    place.make("CREATE TABLE t (a int, b text)")
    crowd = crowds()
    for ddl in ("", "ALTER TABLE t ALTER b TYPE jsonb USING NULL", "ALTER TABLE t ALTER b TYPE bytea USING NULL"):
        place.directly(place.here, *([ddl] if ddl else []))
        for _ in range(2):
            assert crowd.send(lambda n: extended(INSERT, str(n), "5")) == INSERTED
        assert crowd.together == "merged"


def test_a_table_that_is_another_one(plain: Place, crowds: MakeCrowd) -> None:
    crowd = crowds()
    assert crowd.send(lambda n: extended(INSERT, *rows(n))) == INSERTED
    plain.directly(plain.here, "ALTER TABLE t RENAME TO old", "CREATE TABLE t (a int, b text, c int DEFAULT 5)")
    assert crowd.send(lambda n: extended(INSERT, *rows(n))) == INSERTED
    assert crowd.together == "merged"
    plain.directly(plain.here, "DROP TABLE t", "CREATE VIEW t AS SELECT * FROM old")
    assert crowd.send(lambda n: extended(INSERT, *rows(n))) == INSERTED
    assert crowd.together == "prepared"
    assert plain.rows("SELECT count(*) FROM old") == ((b"16",),)


def test_statements_that_clients_prepared_before_a_table_changed(place: Place, crowds: MakeCrowd) -> None:
    """They keep the types that they had; drivers like asyncpg send binary values of these, and declare nothing."""
    place.make("CREATE TABLE t (a int8, b text)")
    crowd = crowds()
    for wire in crowd.wires:
        wire.ask(parse(hinted(INSERT), "mine") + describe("mine", "S") + SYNC)
    place.directly(place.here, "ALTER TABLE t ALTER a TYPE float8")
    said = [bind(struct.pack("!q", n), "x", name="mine", formats=(1, 0)) + execute() + SYNC for n in range(COUNT)]
    assert crowd.send(said.__getitem__) == INSERTED
    assert place.rows("SELECT sum(a) FROM t") == ((b"28",),)


@contextmanager
def behind(place: Place, *ddl: str) -> Iterator[None]:
    """What is sent inside waits for a transaction with this DDL, which is committed then."""
    with psycopg.connect(place.direct, options=f"-c search_path={place.here}") as connection:
        for statement in ddl:
            connection.execute(statement.encode())
        committer = threading.Thread(target=_commit_when_awaited, args=(place, connection))
        committer.start()
        yield
        committer.join()


def _commit_when_awaited(place: Place, connection: psycopg.Connection[object]) -> None:
    pid = connection.info.backend_pid
    wait_for(lambda: place.ask(f"SELECT 1 FROM pg_stat_activity WHERE {pid} = ANY(pg_blocking_pids(pid))"))
    connection.commit()


COUNTS = """CREATE FUNCTION counts() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO log VALUES (TG_LEVEL); RETURN NEW; END'"""
CHANGES = {
    "rule": ("CREATE RULE r AS ON INSERT TO t DO ALSO INSERT INTO log VALUES ('rule')", "rule"),
    "statement trigger": ("CREATE TRIGGER x AFTER INSERT ON t EXECUTE FUNCTION counts()", "STATEMENT"),
    "BEFORE trigger": ("CREATE TRIGGER x BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION counts()", "ROW"),
}


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_is_committed_while_the_batch_waits_for_it(
    plain: Place, crowds: MakeCrowd, change: str, isolation: str
) -> None:
    """With one snapshot for the whole transaction, the guard would look at the table as it was before."""
    ddl, said = CHANGES[change]
    plain.make("CREATE TABLE log (said text)", COUNTS)
    crowd = crowds(default_transaction_isolation=isolation)
    assert crowd.send(lambda n: extended(INSERT, *rows(n))) == INSERTED
    with behind(plain, ddl):
        assert crowd.send(lambda n: extended(INSERT, *rows(n))) == INSERTED
    assert crowd.together == "prepared"
    assert plain.rows("SELECT said, count(*) FROM log GROUP BY said") == ((said.encode(), b"8"),)


STORM = (
    "CREATE TRIGGER x AFTER INSERT ON t EXECUTE FUNCTION counts()",
    "DROP TRIGGER x ON t",
    "CREATE RULE r AS ON INSERT TO t DO ALSO INSERT INTO log VALUES ('rule')",
    "DROP RULE r ON t",
    "ALTER TABLE t ADD c int DEFAULT 5",
    "ALTER TABLE t DROP c",
    "ALTER TABLE t ALTER b TYPE varchar(50)",
    "ALTER TABLE t ALTER b TYPE text",
    "BEGIN; ALTER TABLE t RENAME TO u; CREATE TABLE t (LIKE u); INSERT INTO t SELECT * FROM u; DROP TABLE u; COMMIT",
    "CREATE INDEX ON t (a)",
    "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE t DISABLE ROW LEVEL SECURITY",
)


def test_tables_that_change_all_the_time(plain: Place, crowds: MakeCrowd) -> None:
    """Nobody sees an error that he wouldn't see directly, nothing is lost, nothing is there twice."""
    plain.make("CREATE TABLE log (said text)", COUNTS)
    crowd = crowds()
    written, strategies = 0, set()

    def write() -> None:
        nonlocal written
        said = [extended("INSERT INTO t (a, b) VALUES ($1, $2)", *rows(written + n)) for n in range(COUNT)]
        assert crowd.send(said.__getitem__) == INSERTED
        written += COUNT
        strategies.add(status(crowd.wires[0]).strategy)

    write()
    assert strategies == {"merged"}
    done = threading.Event()
    changes = threading.Thread(target=_change_until, args=(plain, done))
    changes.start()
    try:
        while written < 250 * COUNT or "prepared" not in strategies:
            write()
    finally:
        done.set()
        changes.join()
    assert plain.rows("SELECT count(*), count(DISTINCT a), count(DISTINCT b) FROM t") == ((b"%d" % written,) * 3,)


def _change_until(place: Place, done: threading.Event) -> None:
    with Wire(place.direct_port).start(place.database, search_path=place.here) as wire:
        while not done.is_set():
            for ddl in STORM:
                said = reply(wire.ask(query(ddl)))
                assert not said.sqlstate or said.sqlstate == "40P01", (ddl, said)
