"""In whose company a session's writes run: the same settings, or none that can't be known."""

from __future__ import annotations

import psycopg
import pytest

from tests.integration.compare import Ends
from tests.integration.metrics import Growth, scrape
from tests.integration.test_batches import HINT, TOGETHER, together
from tests.integration.test_limits import StartWith, Wires
from tests.integration.wire import SYNC, Wire, bind, describe, execute, kinds, parse, query
from tests.proxies import RunningProxy

SCHEMA = ("CREATE TABLE t (a int)", "CREATE SEQUENCE s", "DROP ROLE IF EXISTS other", "CREATE ROLE other")
INSERT = query("/* batch:5 */ INSERT INTO t VALUES (1)")

# What nobody can take back but by DISCARD ALL (or can't be known to be taken back).
UNKNOWABLE = {
    "SET in a transaction": [query("BEGIN"), query("SET work_mem = '5MB'"), query("ROLLBACK")],
    "SET in a text with others": [query("SELECT 1; SET work_mem = '5MB'; SELECT 2")],
    "SET in a pipeline": [parse("SET work_mem = '5MB'") + bind() + execute() + parse("SELECT 1") + bind() + SYNC],
    "set_config with what isn't a constant": [query("SELECT set_config('work_mem', '5' || 'MB', false)")],
    "set_config with parameters": [
        parse("SELECT set_config($1, $2, false)") + bind("work_mem", "5MB") + execute() + SYNC
    ],
    "an UPDATE of pg_settings": [query("UPDATE pg_settings SET setting = '5120' WHERE name = 'work_mem'")],
    "SET ROLE": [query("SET ROLE other")],
    "SET SESSION AUTHORIZATION": [query("SET SESSION AUTHORIZATION other")],
    "a temporary table": [query("CREATE TEMP TABLE x (a int)")],
    "a temporary table by SELECT INTO": [query("SELECT 1 AS a INTO TEMP x")],
    "a table in pg_temp": [query("CREATE TABLE pg_temp.x (a int)")],
    "an advisory lock": [query("SELECT pg_advisory_lock(1)")],
    "a prepared statement in SQL": [query("PREPARE p AS SELECT 1")],
    "DO": [query("DO $$BEGIN PERFORM set_config('work_mem', '5MB', false); END$$")],
}


@pytest.mark.parametrize("name", UNKNOWABLE)
def test_sessions_with_something_of_their_own(proxy: RunningProxy, ends: Ends, name: str) -> None:
    ends.prepare(*SCHEMA)
    with Wire(proxy.port).start(ends.database) as wire:
        for said in UNKNOWABLE[name]:
            assert "E" not in kinds(wire.ask(said))
        grown = Growth(proxy)
        wire.ask(INSERT)
        assert grown("write_excluded_total", reason="session_state") == 1
        assert grown("write_batch_size_count") == 0
        wire.ask(query("RESET ROLE"))
        wire.ask(query("DISCARD ALL"))
        wire.ask(INSERT)
        assert grown("write_excluded_total") == 1
        assert grown("write_batch_size_count") == 1
    ends.prepare("DROP ROLE other")


KNOWN = {
    "nothing": [query("SELECT 1")],
    "SET and RESET": [query("SET work_mem = '5MB'"), query("RESET work_mem")],
    "a transaction": [query("BEGIN"), query("INSERT INTO t VALUES (2)"), query("COMMIT")],
    "a failed SET": [query("SET nowhere = 1")],
    "its name": [query("SET application_name = 'x'")],
    "DISCARD ALL": [query("SET work_mem = '5MB'"), query("DISCARD ALL")],
    "RESET ALL": [query("BEGIN"), query("SET work_mem = '5MB'"), query("COMMIT"), query("RESET ALL")],
}


@pytest.mark.parametrize("name", KNOWN)
def test_sessions_that_are_like_new_ones(start_with: StartWith, wires: Wires, name: str) -> None:
    proxy, ends = start_with(TOGETHER.format(2))
    ends.prepare(*SCHEMA)
    one, other = wires(2, proxy.port, ends.database)
    for said in KNOWN[name]:
        one.ask(said)
    answers = together([one, other], [query(f"{HINT} INSERT INTO t VALUES (1)")] * 2)
    assert [kinds(answer) for answer in answers] == ["CZ", "CZ"]
    page = scrape(proxy)
    assert (page.total("write_batch_size_count"), page.total("write_batch_size_sum")) == (1, 2)
    ends.prepare("DROP ROLE other")


BYTES = f"{HINT} INSERT INTO t VALUES (('\\x41'::bytea)::text, $1)"


def test_settings_that_no_server_reports_count(start_with: StartWith, wires: Wires) -> None:
    proxy, ends = start_with(TOGETHER.format(2))
    ends.prepare("CREATE TABLE t (a text, n int)")
    four = wires(4, proxy.port, ends.database)
    for wire in four[::2]:
        wire.ask(query("SET bytea_output = 'escape'"))
    together(four, [parse(BYTES) + bind(str(n)) + execute() + SYNC for n in range(4)])
    assert ends.ask("SELECT a, n FROM t ORDER BY n") == [("A", 0), ("\\x41", 1), ("A", 2), ("\\x41", 3)]
    assert scrape(proxy).total("write_batch_size_count") == 2


def test_sessions_that_said_the_same_are_alike(start_with: StartWith, wires: Wires) -> None:
    """Four sessions on two schemas: two batches, each in its own."""
    proxy, ends = start_with(TOGETHER.format(2))
    ends.prepare(*(s for name in "ab" for s in (f"CREATE SCHEMA {name}", f"CREATE TABLE {name}.t (n int)")))
    four = wires(4, proxy.port, ends.database)
    for number, wire in enumerate(four):
        wire.ask(query(f"SET search_path = {'ab'[number % 2]}"))
    together(four, [query(f"{HINT} INSERT INTO t VALUES ({n})") for n in range(4)])
    assert scrape(proxy).total("write_batch_size_count") == 2
    assert ends.ask("SELECT n FROM a.t ORDER BY n") == [(0,), (2,)]
    assert ends.ask("SELECT n FROM b.t ORDER BY n") == [(1,), (3,)]


def test_start_up_options_count(start_with: StartWith, wires: Wires) -> None:
    proxy, ends = start_with(TOGETHER.format(2))
    ends.prepare("CREATE TABLE t (a text, n int)")
    four = wires(4, proxy.port)
    for number, wire in enumerate(four):
        output = ("escape", "hex")[number % 2]
        wire.start(ends.database, options=f"-c bytea_output={output}", application_name=f"app{number}")
    together(four, [parse(BYTES) + bind(str(n)) + execute() + SYNC for n in range(4)])
    assert ends.ask("SELECT a, n FROM t ORDER BY n") == [("A", 0), ("\\x41", 1), ("A", 2), ("\\x41", 3)]
    assert scrape(proxy).total("write_batch_size_count") == 2


def test_what_a_session_keeps_survives_a_batch_on_its_connection(start_with: StartWith, wires: Wires) -> None:
    """The client's own statements, the unnamed one among them, its settings and what it listens to."""
    proxy, ends = start_with(TOGETHER.format(2))
    ends.prepare("CREATE TABLE t (a int)", "CREATE TABLE u (a int)")
    two = wires(2, proxy.port, ends.database)
    for wire in two:
        wire.ask(query("LISTEN here"))
        wire.ask(parse("SELECT 'mine'", "named"), parse("SELECT 'unnamed'"), SYNC)
    for _ in range(2):
        answers = together(two, [parse(f"{HINT} INSERT INTO u VALUES ($1)", "u") + SYNC] * 2)
        answers = together(two, [bind("1", name="u") + execute() + SYNC] * 2)
        assert [kinds(answer) for answer in answers] == ["2CZ", "2CZ"]
        for wire in two:
            assert b"unnamed" in b"".join(f.body for f in wire.ask(bind(), execute(), SYNC))
            assert b"mine" in b"".join(f.body for f in wire.ask(bind(name="named"), execute(), SYNC))
            wire.ask(parse("SELECT 'unnamed'"), SYNC, parse("DEALLOCATE u") + bind() + execute() + SYNC)
            wire.until()
            wire.ask(parse("SELECT 'unnamed'"), SYNC)
    ends.prepare("NOTIFY here, 'news'")
    for wire in two:
        wire.send(query("SELECT 1"))
        assert "A" in kinds(wire.until())


def test_the_unnamed_statement_is_what_the_client_believes(start_with: StartWith, wires: Wires) -> None:
    """After a unit that was batched, the server of its session has never seen its Parse."""
    proxy, ends = start_with(TOGETHER.format(2))
    ends.prepare("CREATE TABLE t (a int)")
    insert = parse(f"{HINT} INSERT INTO t VALUES ($1) RETURNING a")
    uses = (
        bind("5") + describe() + execute() + SYNC,
        describe("", "S") + SYNC,
        bind("6") + execute("", 1) + execute() + SYNC,
        bind("5", "6") + execute() + SYNC,
        query("SELECT 1"),
    )
    for said in uses:
        heard = []
        for port in (ends.direct_port, proxy.port):
            two = wires(2, port, ends.database)
            rounds = (
                insert + bind("1") + describe() + execute() + SYNC,
                said,
                query(f"{HINT} INSERT INTO t VALUES (1)"),
                bind("7") + execute() + SYNC,
            )
            heard.append([[kinds(answer) for answer in together(two, [message] * 2)] for message in rounds])
        assert heard[1] == heard[0]
        assert heard[0][-1] == ["EZ", "EZ"]


def test_a_notification_that_comes_in_mid_batch_is_delivered(start_with: StartWith, wires: Wires) -> None:
    proxy, ends = start_with(TOGETHER.format(2))
    ends.prepare(
        "CREATE TABLE t (a int)",
        "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_notify(''here'', NEW.a::text); RETURN NEW; END'",
        "CREATE TRIGGER tells AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION tell()",
    )
    two = wires(2, proxy.port, ends.database)
    for wire in two:
        wire.ask(query("LISTEN here"))
    heard = ["", ""]
    for number, wire in enumerate(two):
        wire.send(query(f"{HINT} INSERT INTO t VALUES ({number})"))
    for number, wire in enumerate(two):
        heard[number] += kinds(wire.until())
        while heard[number].count("A") < 2:
            heard[number] += wire.receive().kind
    assert [sorted(said) for said in heard] == [sorted("CZAA")] * 2
    with psycopg.connect(ends.proxied) as connection:
        connection.execute("SELECT 1")
