"""What goes wrong in a batch: everyone gets the error that he alone would have got, and nobody suffers for another."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.compare import Ends
from tests.integration.metrics import scrape
from tests.integration.test_batches import HINT, TOGETHER, extended, simple, together
from tests.integration.test_limits import StartWith, Wires
from tests.integration.waiting import wait_for
from tests.integration.wire import Frame, Wire, kinds

SIZE = 20
SCHEMA = (
    "CREATE TABLE t (a int PRIMARY KEY, b text CHECK (b <> 'bad'), c int NOT NULL DEFAULT 1, d int)",
    "INSERT INTO t VALUES (7, 'old')",
)
Ask = Callable[..., bytes]


def directly(ends: Ends, said: bytes) -> list[Frame]:
    with Wire(ends.direct_port).start(ends.database) as wire:
        return wire.ask(said)


@pytest.fixture
def twenty(start_with: StartWith, wires: Wires) -> tuple[Ends, list[Wire], Callable[[str], float]]:
    """The database, twenty connections whose writes make one batch, and the proxy's metrics."""
    proxy, ends = start_with(TOGETHER.format(SIZE))
    ends.prepare(*SCHEMA)
    return ends, wires(SIZE, proxy.port, ends.database), lambda name: scrape(proxy).total(name)


@pytest.mark.parametrize("returning", ["", " RETURNING a, b"])
@pytest.mark.parametrize("ask", [simple, extended])
def test_one_of_twenty_violates_a_unique_constraint(
    twenty: tuple[Ends, list[Wire], Callable[[str], float]], ask: Ask, returning: str
) -> None:
    ends, wires, total = twenty
    said = [ask(f"{HINT} INSERT INTO t (a, b) VALUES ($1, $2){returning}", n, "new") for n in range(SIZE)]
    expected = directly(ends, said[7])
    assert expected[-2].fields()["C"] == "23505"
    answers = together(wires, said)
    assert answers[7] == expected
    good = [answer for n, answer in enumerate(answers) if n != 7]
    assert all("E" not in kinds(answer) and answer[-2].body == b"INSERT 0 1\0" for answer in good)
    assert ends.ask("SELECT a, b FROM t ORDER BY a") == [(n, "old" if n == 7 else "new") for n in range(SIZE)]
    assert total("write_batch_size_count") == 1
    assert total("write_batch_size_sum") == SIZE


# A column of "typed", and a text that is wrong there.
BAD = {
    "23514": ("b", "bad"),
    "22P02": ("n", "seven"),
    "22007": ("d", "someday"),
    "22001": ("v", "too long"),
    "22003": ("n", "99999999999"),
    "P0001": ("b", "raise"),
}
TYPED = (
    "CREATE TABLE typed (id int, b text CHECK (b <> 'bad'), n int, d date, v varchar(5))",
    "CREATE FUNCTION raises() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.b = ''raise'' THEN"
    " RAISE ''mine'' USING DETAIL = ''d'', HINT = ''h'', COLUMN = ''b''; END IF; RETURN NEW; END'",
    "CREATE TRIGGER raises BEFORE INSERT ON typed FOR EACH ROW EXECUTE FUNCTION raises()",
)


@pytest.mark.parametrize("sqlstate", BAD)
@pytest.mark.parametrize("ask", [simple, extended])
def test_other_errors(twenty: tuple[Ends, list[Wire], Callable[[str], float]], ask: Ask, sqlstate: str) -> None:
    ends, wires, total = twenty
    ends.prepare(*TYPED)
    good = {"b": "x", "n": "5", "d": "2020-01-01", "v": "x"}
    column, wrong = BAD[sqlstate]
    text = f"{HINT} INSERT INTO typed VALUES ($1, $2, $3, $4, $5)"
    places = (0, 7, SIZE - 1)
    rows = [good | {column: wrong} if n in places else good for n in range(SIZE)]
    said = [ask(text, n, *row.values()) for n, row in enumerate(rows)]
    expected = {place: directly(ends, said[place]) for place in places}
    assert expected[7][-2].fields()["C"] == sqlstate
    answers = together(wires, said)
    assert {n: answer for n, answer in enumerate(answers) if "E" in kinds(answer)} == expected
    assert ends.ask("SELECT id FROM typed ORDER BY id") == [(n,) for n in range(SIZE) if n not in places]
    assert total("write_batch_size_count") == 1


@pytest.mark.parametrize("ask", [simple, extended])
def test_all_of_them_fail(twenty: tuple[Ends, list[Wire], Callable[[str], float]], ask: Ask) -> None:
    ends, wires, _total = twenty
    said = [ask(f"{HINT} INSERT INTO t (a, b) VALUES ($1, 'x')", 7) for _ in range(SIZE)]
    expected = directly(ends, said[0])
    assert together(wires, said) == [expected] * SIZE
    assert ends.ask("SELECT count(*) FROM t") == [(1,)]


@pytest.mark.parametrize("ask", [simple, extended])
def test_a_text_that_nobody_can_execute(twenty: tuple[Ends, list[Wire], Callable[[str], float]], ask: Ask) -> None:
    ends, wires, _total = twenty
    said = [ask(f"{HINT} INSERT INTO nowhere VALUES ($1)", 7) for _ in range(SIZE)]
    expected = directly(ends, said[0])
    assert expected[-2].fields()["C"] == "42P01"
    assert together(wires, said) == [expected] * SIZE


def test_texts_of_one_key_of_which_one_is_wrong(twenty: tuple[Ends, list[Wire], Callable[[str], float]]) -> None:
    ends, wires, _total = twenty
    hint = "/* batch:20000 key:x */"
    said = [extended(f"{hint} INSERT INTO t (a, b) VALUES ($1, '{n}')", n + 100) for n in range(SIZE)]
    said[3] = extended(f"{hint} INSERT INTO nowhere VALUES ($1)", 3)
    said[5] = extended(f"{hint} INSERT INTO t (a) VALUES ($1)", 7)
    wrong = {place: directly(ends, said[place]) for place in (3, 5)}
    answers = together(wires, said)
    assert {n: answer for n, answer in enumerate(answers) if "E" in kinds(answer)} == wrong
    assert ends.ask("SELECT count(*) FROM t") == [(SIZE - 1,)]


def test_a_deferred_constraint_fails_at_the_commit(twenty: tuple[Ends, list[Wire], Callable[[str], float]]) -> None:
    ends, wires, _total = twenty
    ends.prepare("CREATE TABLE late (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)", "INSERT INTO late VALUES (7)")
    said = [extended(f"{HINT} INSERT INTO late VALUES ($1)", n) for n in range(SIZE)]
    expected = directly(ends, said[7])
    assert expected[-2].fields()["C"] == "23505"
    answers = together(wires, said)
    assert [n for n, answer in enumerate(answers) if "E" in kinds(answer)] == [7]
    assert answers[7] == expected
    assert ends.ask("SELECT count(*), count(DISTINCT a) FROM late") == [(SIZE, SIZE)]


SLOW = (
    "DROP ROLE IF EXISTS hurried",
    "CREATE ROLE hurried LOGIN",
    "ALTER ROLE hurried SET statement_timeout = '1200ms'",
    "CREATE TABLE slow (a int)",
    "GRANT ALL ON slow TO hurried",
    "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
    " 'BEGIN PERFORM pg_sleep(NEW.a / 1000.0); RETURN NEW; END'",
    "CREATE TRIGGER waits BEFORE INSERT ON slow FOR EACH ROW EXECUTE FUNCTION wait()",
)


@pytest.mark.parametrize(("waits", "too_slow"), [((1, 60_000, 2, 3, 4), [1]), ((300, 301, 302, 303, 304), [])])
def test_a_statement_timeout_is_for_each_statement(
    start_with: StartWith, wires: Wires, waits: tuple[int, ...], too_slow: list[int]
) -> None:
    """The second case: five statements of 300 ms take longer together than each of them may."""
    proxy, ends = start_with(TOGETHER.format(5))
    ends.prepare(*SLOW)
    five = wires(5, proxy.port)
    for wire in five:
        wire.start(ends.database, user="hurried")
    answers = together(five, [simple(f"{HINT} INSERT INTO slow VALUES ($1)", wait) for wait in waits])
    failed = {n: answer[0].fields() for n, answer in enumerate(answers) if "E" in kinds(answer)}
    assert list(failed) == too_slow
    assert [said["M"] for said in failed.values()] == ["canceling statement due to statement timeout"] * len(failed)
    assert ends.ask("SELECT a FROM slow ORDER BY a") == [(w,) for n, w in enumerate(waits) if n not in too_slow]
    for wire in five:
        wire.socket.close()
    ends.prepare("DROP OWNED BY hurried", "DROP ROLE hurried")


def test_a_deadlock_is_nobodys_fault(start_with: StartWith, wires: Wires) -> None:
    """The server ends the batch's transaction; its members are executed one by one, where there is no deadlock."""
    proxy, ends = start_with(TOGETHER.format(2))
    ends.prepare("CREATE TABLE t (a int PRIMARY KEY, b int)", "INSERT INTO t VALUES (1, 0), (2, 0)")
    one, two = wires(2, proxy.port, ends.database)
    waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with Wire(ends.direct_port).start(ends.database) as rival:
        rival.ask(simple("SET deadlock_timeout = '1h'; BEGIN; UPDATE t SET b = b + 1 WHERE a = 2"))
        for wire in (one, two):
            wire.ask(simple("SET deadlock_timeout = '500ms'"))
        one.send(simple(f"{HINT} UPDATE t SET b = b + 10 WHERE a = $1", 1))
        two.send(simple(f"{HINT} UPDATE t SET b = b + 10 WHERE a = $1", 2))
        wait_for(lambda: ends.ask(waits))
        assert kinds(rival.ask(simple("UPDATE t SET b = b + 1 WHERE a = 1"))) == "CZ"
        rival.ask(simple("COMMIT"))
        assert [kinds(wire.until()) for wire in (one, two)] == ["CZ", "CZ"]
    assert ends.ask("SELECT a, b FROM t ORDER BY a") == [(1, 11), (2, 11)]
    assert scrape(proxy).total("write_batch_retries_total", way="forward") == 2
