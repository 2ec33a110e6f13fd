"""Hinted writes of many clients are executed together, and everyone gets exactly what is his."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.integration.compare import Ends
from tests.integration.metrics import Growth, scrape
from tests.integration.test_limits import StartWith, Wires
from tests.integration.wire import SYNC, Frame, Wire, bind, describe, execute, kinds, parse, query
from tests.proxies import RunningProxy

CONNECTIONS, ROWS = 50, 200
# A group is executed when so many are there, and not before: the batch is what the test says.
TOGETHER = "[write_batch]\nearly_quorum = off\nmax_hint_ms = 20000\nmax_batch_size = {}\n"
HINT = "/* batch:20000 */"


def simple(text: str, *values: Any) -> bytes:
    """The statement with its parameters as constants."""
    for number, value in enumerate(values, 1):
        text = text.replace(f"${number}", f"'{value}'" if isinstance(value, str) else str(value))
    return query(text)


def extended(text: str, *values: Any) -> bytes:
    return parse(text) + bind(*map(str, values)) + describe() + execute() + SYNC


def together(wires: list[Wire], said: list[bytes]) -> list[list[Frame]]:
    """Everyone says his, then everyone listens."""
    for wire, message in zip(wires, said, strict=True):
        wire.send(message)
    return [wire.until() for wire in wires]


# Fifty connections


@pytest.mark.parametrize("simply", [True, False], ids=["simple text", "parameters"])
def test_fifty_connections(start_with: StartWith, simply: bool) -> None:
    proxy, ends = start_with("")
    ends.prepare("CREATE TABLE t (id serial PRIMARY KEY, who int, n int, said text)")
    insert = "/* batch:100 */ INSERT INTO t (who, n, said) VALUES (%s, %s, %s) RETURNING id"
    kind = psycopg.ClientCursor if simply else psycopg.Cursor
    all_there = threading.Barrier(CONNECTIONS, timeout=60)

    def write(who: int) -> list[int]:
        with psycopg.connect(ends.proxied, autocommit=True, cursor_factory=kind) as connection:
            all_there.wait()
            answers = (connection.execute(insert, (who, n, f"it's {n}")).fetchall() for n in range(ROWS))
            return [number for ((number,),) in answers]

    with ThreadPoolExecutor(CONNECTIONS) as threads:
        answers = list(threads.map(write, range(CONNECTIONS)))
    told = {(number, who, n, f"it's {n}") for who, ids in enumerate(answers) for n, number in enumerate(ids)}
    rows = ends.ask("SELECT id, who, n, said FROM t")
    assert len(rows) == len(told) == CONNECTIONS * ROWS
    assert set(rows) == told
    page = scrape(proxy)
    assert page.total("write_batch_size_sum") == CONNECTIONS * ROWS
    assert page.total("write_batch_size_sum") / page.total("write_batch_size_count") > 5


def test_every_user_writes_as_himself(start_with: StartWith, wires: Wires) -> None:
    """The same text from two users, and from two databases' worth of search paths."""
    proxy, ends = start_with("[write_batch]\nearly_quorum = off\nmax_batch_size = 5\n")
    ends.prepare(
        "DROP ROLE IF EXISTS alice, bob",
        "CREATE ROLE alice LOGIN",
        "CREATE ROLE bob LOGIN",
        "CREATE TABLE t (who text DEFAULT current_user, said text)",
        "GRANT ALL ON t TO PUBLIC",
    )
    writers = wires(10, proxy.port)
    for number, wire in enumerate(writers):
        wire.start(ends.database, user=("alice", "bob")[number % 2])
    text = "/* batch:500 */ INSERT INTO t (said) VALUES ($1)"
    said = [(simple, extended)[n % 4 > 1](text, ("alice", "bob")[n % 2]) for n in range(10)]
    assert [kinds(answer)[-2:] for answer in together(writers, said)] == ["CZ"] * 10
    assert ends.ask("SELECT who, count(*) FROM t WHERE who = said GROUP BY 1 ORDER BY 1") == [("alice", 5), ("bob", 5)]
    for wire in writers:
        wire.socket.close()
    ends.prepare("DROP OWNED BY alice, bob", "DROP ROLE alice, bob")


def test_two_databases_do_not_meet(start_with: StartWith, wires: Wires) -> None:
    proxy, ends = start_with(TOGETHER.format(2))
    ends.prepare("CREATE TABLE test_apart (a int)")
    with psycopg.connect(f"{ends.direct} dbname=postgres", autocommit=True) as other:
        other.execute("CREATE TABLE test_apart (a int)")
    here, there = wires(2, proxy.port, ends.database), wires(2, proxy.port, "postgres")
    said = [query(f"{HINT} INSERT INTO test_apart VALUES ({n})") for n in range(4)]
    together([here[0], there[0], here[1], there[1]], said)
    assert ends.ask("SELECT a FROM test_apart ORDER BY a") == [(0,), (2,)]
    with psycopg.connect(f"{ends.direct} dbname=postgres", autocommit=True) as other:
        assert other.execute("DELETE FROM test_apart RETURNING a").fetchall() == [(1,), (3,)]
        other.execute("DROP TABLE test_apart")


# Everyone's own reply


@pytest.mark.parametrize("ask", [simple, extended])
def test_tags_and_rows_are_ones_own(start_with: StartWith, wires: Wires, ask: Callable[..., bytes]) -> None:
    proxy, ends = start_with(TOGETHER.format(6))
    ends.prepare("CREATE TABLE t (a int, b int)", "INSERT INTO t SELECT n / 2, n FROM generate_series(0, 11) n")
    six = wires(6, proxy.port, ends.database)
    grown = Growth(proxy)
    answers = together(six, [ask(f"{HINT} UPDATE t SET b = b + 1 WHERE a < $1", n) for n in range(6)])
    assert [answer[-2].body for answer in answers] == [b"UPDATE %d\0" % (2 * n) for n in range(6)]
    answers = together(
        six, [ask(f"{HINT} DELETE FROM t WHERE a = $1 AND a > 1 RETURNING b - b, a", n) for n in range(6)]
    )
    assert [kinds(answer).count("D") for answer in answers] == [0, 0, 2, 2, 2, 2]
    for n, answer in enumerate(answers):
        row = b"".join(struct.pack("!I", 1) + digit for digit in (b"0", b"%d" % n))
        assert all(frame.body == struct.pack("!H", 2) + row for frame in answer if frame.kind == "D")
    assert grown("write_batch_size_count") == 2
    assert grown("write_batch_method_total", method="prepared") == 2


def test_notices_go_to_the_member_whose_row_raised_them(start_with: StartWith, wires: Wires) -> None:
    proxy, ends = start_with(TOGETHER.format(4))
    ends.prepare(
        "CREATE TABLE t (a int)",
        "CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN IF NEW.a > 1 THEN RAISE NOTICE ''told of %'', NEW.a; END IF; RETURN NEW; END'",
        "CREATE TRIGGER noise BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION told()",
    )
    answers = together(
        wires(4, proxy.port, ends.database), [query(f"{HINT} INSERT INTO t VALUES ({n})") for n in range(4)]
    )
    assert [kinds(answer) for answer in answers] == ["CZ", "CZ", "NCZ", "NCZ"]
    assert [answer[0].fields()["M"] for answer in answers[2:]] == ["told of 2", "told of 3"]
    assert scrape(proxy).total("write_batch_size_count") == 1


@pytest.mark.parametrize("ask", [simple, extended])
def test_a_key_makes_a_group_of_different_texts(start_with: StartWith, wires: Wires, ask: Callable[..., bytes]) -> None:
    proxy, ends = start_with(TOGETHER.format(4))
    ends.prepare(
        "CREATE TABLE t (a int PRIMARY KEY, b text)", "CREATE TABLE u (a int)", "INSERT INTO t VALUES (9, 'nine')"
    )
    hint = "/* batch:20000 key:orders */"
    said = [
        ask(f"{hint} INSERT INTO t VALUES ($1, $2)", 1, "one"),
        ask(f"{hint} INSERT INTO u VALUES ($1), ($2) RETURNING a", 5, 6),
        ask(f"{hint} UPDATE t SET b = $1 WHERE a = $2 RETURNING b, a", "new", 9),
        ask(f"{hint} DELETE FROM u WHERE a = $1", 77),
    ]
    four = wires(4, proxy.port, ends.database)
    answers = together(four, said)
    assert [answer[-2].body for answer in answers] == [b"INSERT 0 1\0", b"INSERT 0 2\0", b"UPDATE 1\0", b"DELETE 0\0"]
    assert [kinds(answer).count("D") for answer in answers] == [0, 2, 1, 0]
    page = scrape(proxy)
    assert page.total("write_batch_method_total", method="transaction") == 1
    assert page.total("write_batch_size_count") == 1
    assert b"LastStrategy" in b"".join(f.body for f in four[0].ask(query("SELECT * FROM pg_tqdb_status")))


def test_statements_live_through_discards_and_changes_of_their_tables(start_with: StartWith, wires: Wires) -> None:
    """The proxy's own prepared statements are gone, or their result has another shape: nobody notices."""
    proxy, ends = start_with(TOGETHER.format(3))
    ends.prepare("CREATE TABLE t (a int)")
    three = wires(3, proxy.port, ends.database)

    def write() -> list[str]:
        return [kinds(a) for a in together(three, [query(f"{HINT} INSERT INTO t VALUES (1) RETURNING *")] * 3)]

    for between in ("SELECT 1", "DISCARD ALL", "DEALLOCATE ALL", "DISCARD PLANS"):
        assert write() == ["TDCZ"] * 3
        for wire in three:
            wire.ask(query(between))
    for change in ("ADD COLUMN b int DEFAULT 5", "ALTER a TYPE bigint", "DROP COLUMN b"):
        ends.prepare(f"ALTER TABLE t {change}")
        assert write() == ["TDCZ"] * 3
    ends.prepare("DROP TABLE t", "CREATE TABLE t (a text, c int, d int)")
    assert write() == ["TDCZ"] * 3
    assert scrape(proxy).total("write_batch_size_sum") == 24


# Not batched


@pytest.mark.parametrize(
    "said",
    [
        [query("BEGIN"), query("/* batch:10 */ INSERT INTO t VALUES (1)"), query("COMMIT")],
        [query("BEGIN; /* batch:10 */ INSERT INTO t VALUES (1); COMMIT")],
        [query("begin work"), extended("/* batch:10 */ INSERT INTO t VALUES ($1)", 1), query("END")],
    ],
    ids=["three queries", "one query", "extended"],
)
def test_not_in_transactions(proxy: RunningProxy, ends: Ends, said: list[bytes]) -> None:
    ends.prepare("CREATE TABLE t (a int)")
    grown = Growth(proxy)
    with Wire(proxy.port).start(ends.database) as wire:
        for message in said:
            assert "E" not in kinds(wire.ask(message))
    assert grown("write_excluded_total", reason="transaction") == 1
    assert grown("write_excluded_total") == 1
    assert grown("write_batched_total") == grown("write_batch_size_count") == 0
    assert ends.ask("SELECT a FROM t") == [(1,)]


EXCLUDED: dict[str, tuple[str, bytes]] = {
    "a second unit behind it": ("pipeline", extended("/* batch:10 */ INSERT INTO t VALUES ($1)", 1) * 2),
    "two statements": ("multi_statement", query("/* batch:10 */ INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)")),
    "no write": ("not_a_write", query("/* batch:10 */ SELECT 1")),
    "DDL": ("not_a_write", query("/* batch:10 */ CREATE TABLE u (a int)")),
    "its own process": ("unsafe", query("/* batch:10 */ INSERT INTO t VALUES (pg_backend_pid())")),
    "its session's last id": ("unsafe", query("/* batch:10 */ INSERT INTO t SELECT 1 WHERE lastval() > 0")),
}


@pytest.mark.parametrize("name", EXCLUDED)
def test_what_else_is_not_batched(proxy: RunningProxy, ends: Ends, name: str) -> None:
    ends.prepare("CREATE TABLE t (a int)")
    reason, said = EXCLUDED[name]
    grown = Growth(proxy)
    with Wire(proxy.port).start(ends.database) as wire:
        wire.send(said)
        wire.until("Z", said.count(SYNC) or 1)
    assert grown("write_excluded_total") == grown("write_excluded_total", reason=reason) >= 1
    assert grown("write_batched_total") == grown("write_batch_size_count") == 0


def test_a_hint_in_a_literal_is_none(proxy: RunningProxy, ends: Ends) -> None:
    ends.prepare("CREATE TABLE t (a text)")
    grown = Growth(proxy)
    with Wire(proxy.port).start(ends.database) as wire:
        for text in ("'/* batch:10 */'", "$$/* batch:10 */$$", "E'\\'/* batch:10 */'"):
            wire.ask(query(f"INSERT INTO t VALUES ({text})"))
        wire.ask(query("/* batch:0 */ INSERT INTO t VALUES ('x')"))
    assert grown("write_batch_size_count") == grown("write_excluded_total") == 0
