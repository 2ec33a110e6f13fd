"""Whole exchanges, message by message: what the server says directly is what it says through the proxy.

Each exchange is held directly, through the proxy, and through the proxy with a client whose bytes come one by one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import pytest

from tests.integration.compare import Ends
from tests.integration.wire import (
    COPY_DONE,
    FLUSH,
    SYNC,
    Frame,
    Wire,
    bind,
    close,
    copy_data,
    copy_fail,
    describe,
    execute,
    frame,
    function_call,
    kinds,
    parse,
    query,
)

# What the client says, and the type of the message that it then waits for: with a number, for the so-and-so-many-th;
# empty, for the end of the connection.
Turn = tuple[bytes, str]
Exchange = Sequence[Turn]

SCHEMA = (
    "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int UNIQUE, b text CHECK (b <> 'bad'))",
    "CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS"
    " 'BEGIN RAISE NOTICE ''told of %'', NEW.a USING DETAIL = ''some'', HINT = ''none''; RETURN NEW; END'",
    "CREATE TABLE noisy (a int)",
    "CREATE TRIGGER noise BEFORE INSERT ON noisy FOR EACH ROW EXECUTE FUNCTION told()",
)
BINARY_COPY = b"PGCOPY\n\xff\r\n\0" + bytes(8) + struct.pack("!HIIII", 2, 4, 7, 2, 0x7878)[:16] + b"xx\xff\xff"
INT4PL, INT4DIV = 177, 154
INSERT = "/* batch:5 file:a.py line:1 */ INSERT INTO t (a, b) VALUES ($1, $2)"
RETURNING = INSERT + " RETURNING id, a, b"


def pipeline(*units: bytes) -> Turn:
    """Several units without waiting."""
    return b"".join(unit + SYNC for unit in units), f"Z{len(units)}"


def run(text: str, *parameters: str) -> bytes:
    """An unnamed statement without its Sync."""
    return parse(text) + bind(*parameters) + describe() + execute()


EXCHANGES: dict[str, Exchange] = {
    "several in one": [(query("SELECT 1 AS one; SELECT 'two', NULL; INSERT INTO t (a) VALUES (1) RETURNING *"), "Z")],
    "nothing": [(query(""), "Z"), (query(" ; -- x"), "Z"), (run("") + SYNC, "Z")],
    "one of several fails": [
        (query("INSERT INTO t (a) VALUES (1); SELECT 1/0; INSERT INTO t (a) VALUES (2)"), "Z"),
        (query("SELECT a FROM t"), "Z"),
    ],
    "a syntax error": [(query("SELEC 1"), "Z"), (query("SELECT 1 FROM nowhere"), "Z")],
    "a failed transaction": [
        *((query(text), "Z") for text in ("BEGIN", "SELECT 1", "SELECT 1/0", "SELECT 2", "ROLLBACK", "COMMIT")),
    ],
    "extended": [
        (parse("SELECT $1::int4 + 1 AS n, $2::text", types=(23, 25)) + describe("", "S") + SYNC, "Z"),
        (bind(b"\0\0\0\5", "x", formats=(1, 0), results=(1, 0)) + describe() + execute() + SYNC, "Z"),
    ],
    "a named statement": [
        (parse("SELECT generate_series(1, $1::int)", "s") + describe("s", "S") + SYNC, "Z"),
        (bind("3", name="s") + execute() + SYNC, "Z"),
        (bind("2", name="s") + execute() + SYNC, "Z"),
        (parse("SELECT 1", "s") + SYNC, "Z"),
        (close("s") + SYNC, "Z"),
        (bind("2", name="s") + execute() + SYNC, "Z"),
    ],
    "portals with row limits": [
        (query("BEGIN"), "Z"),
        (parse("SELECT generate_series(1, 5)") + bind(portal="p") + describe("p") + execute("p", 2) + SYNC, "Z"),
        (execute("p", 2) + SYNC, "Z"),
        (execute("p", 2) + execute("p", 2) + SYNC, "Z"),
        (close("p", "P") + execute("p") + SYNC, "Z"),
        (query("ROLLBACK"), "Z"),
    ],
    "a row limit of an unnamed portal": [
        (parse("SELECT generate_series(1, 5)") + bind() + execute("", 2) + FLUSH, "s"),
        (execute("", 2) + FLUSH, "s"),
        (execute() + SYNC, "Z"),
    ],
    "Flush without Sync": [
        (parse("SELECT $1::int") + FLUSH, "1"),
        (describe("", "S") + FLUSH, "T"),
        (bind("7") + execute() + FLUSH, "C"),
        (bind("x") + execute() + FLUSH, "E"),
        (bind("8") + execute() + SYNC, "Z"),
    ],
    "a pipeline": [pipeline(run("SELECT 1"), run("INSERT INTO t (a) VALUES ($1)", "5"), run("SELECT count(*) FROM t"))],
    "an error in a pipeline": [
        pipeline(
            run("INSERT INTO t (a) VALUES (1)") + run("SELECT 1/0") + run("INSERT INTO t (a) VALUES (2)"),
            run("INSERT INTO t (a) VALUES (3)"),
            b"",
            run("SELECT a FROM t"),
        ),
    ],
    "several statements before one Sync": [
        (run("INSERT INTO t (a) VALUES (1)") + run("INSERT INTO t (a) VALUES (2)") + SYNC, "Z"),
        (query("BEGIN") + query("SELECT 1") + query("COMMIT"), "Z3"),
    ],
    "errors of the extended protocol": [
        (bind(name="unknown") + SYNC, "Z"),
        (describe("unknown", "P") + SYNC, "Z"),
        (execute("unknown") + SYNC, "Z"),
        (close("unknown") + close("unknown", "P") + SYNC, "Z"),
        (parse("SELECT $1::int") + bind() + SYNC, "Z"),
        (parse("SELECT 1; SELECT 2") + SYNC, "Z"),
        (describe("", "X") + SYNC, "Z"),
    ],
    "COPY out": [
        (query("INSERT INTO t (a, b) SELECT n, 'x\t' || n FROM generate_series(1, 50) n; COPY t TO STDOUT"), "Z"),
        (query("COPY (SELECT a FROM t) TO STDOUT (FORMAT binary)"), "Z"),
        (run("COPY t TO STDOUT") + SYNC, "Z"),
        (query("COPY (SELECT 1/(5 - a) FROM t) TO STDOUT"), "Z"),
    ],
    "COPY in": [
        (query("COPY t (a, b) FROM STDIN; SELECT count(*) FROM t"), "G"),
        (copy_data(b"1\tx\n2") + copy_data(b"\ty\n") + COPY_DONE, "Z"),
        (query("COPY t (a, b) FROM STDIN (FORMAT binary)"), "G"),
        (copy_data(BINARY_COPY) + COPY_DONE, "Z"),
        (query("SELECT a, b FROM t"), "Z"),
    ],
    "COPY in fails": [
        (query("COPY t (a, b) FROM STDIN"), "G"),
        (copy_data(b"1\tx\n") + copy_fail("the client has changed its mind"), "Z"),
        (query("COPY t (a, b) FROM STDIN"), "G"),
        (copy_data(b"1\tx\nx\ty\n") + copy_data(b"2\tz\n") + COPY_DONE, "Z"),
        (copy_data(b"nobody is listening") + COPY_DONE + query("SELECT count(*) FROM t"), "Z"),
    ],
    "a Query in a COPY": [(query("COPY t (a, b) FROM STDIN"), "G"), (query("SELECT 1"), "")],
    "a Bind that is wrong inside": [(frame("B", b"no end") + SYNC, "Z"), (query("SELECT 1"), "Z")],
    "a Query that is wrong inside": [(frame("Q", b"no end"), "Z"), (query("SELECT 1"), "Z")],
    "a Parse that is wrong inside": [(frame("P", b"x\0no end") + SYNC, "Z"), (query("SELECT 1"), "Z")],
    "an Execute that is wrong inside": [(frame("E", b"x") + SYNC, "Z"), (query("SELECT 1"), "Z")],
    "a Close that is wrong inside": [(frame("C", b"") + SYNC, "Z"), (query("SELECT 1"), "Z")],
    "COPY in by the extended protocol": [
        (parse("COPY t (a, b) FROM STDIN") + bind() + execute() + FLUSH, "G"),
        (copy_data(b"1\tx\n") + COPY_DONE + SYNC, "Z"),
        (parse("COPY t (a, b) FROM STDIN") + bind() + execute() + SYNC, "G"),
        (copy_data(b"2\tx\n") + SYNC + COPY_DONE + SYNC, "Z"),
        (parse("COPY t (a, b) FROM STDIN") + bind() + execute() + FLUSH, "G"),
        (copy_data(b"3\tbad\n") + COPY_DONE + SYNC, "Z"),
        (query("SELECT a, b FROM t"), "Z"),
    ],
    "a function call": [
        (function_call(INT4PL, "2", "3"), "Z"),
        (function_call(INT4DIV, "1", "0"), "Z"),
        (query("BEGIN") + function_call(INT4PL, "2", "3"), "Z2"),
    ],
    "notices and settings": [
        (query("DO $$BEGIN RAISE WARNING 'w' USING DETAIL = 'd', HINT = 'h', ERRCODE = '01ABC'; END$$"), "Z"),
        (query("INSERT INTO noisy VALUES (1), (2)"), "Z"),
        (query("SET application_name = 'x'; SET DateStyle = 'German'; SET TimeZone = 'Europe/Zurich'"), "Z"),
        (query("SET client_encoding = 'LATIN1'; SELECT chr(228)"), "Z"),
        (query("COMMIT"), "Z"),
    ],
    "notifications": [
        (query("LISTEN here"), "Z"),
        (query("NOTIFY here, 'news'"), "Z"),
        (query("BEGIN; NOTIFY here, 'one'; NOTIFY here, 'two'"), "Z"),
        (run("COMMIT") + SYNC, "Z"),
    ],
    "long rows": [(query("SELECT repeat('x', 3000000), 1 FROM generate_series(1, 2)"), "Z")],
    "a hinted write alone": [
        (query("/* batch:5 */ INSERT INTO t (a, b) VALUES (1, 'x')"), "Z"),
        (query("INSERT INTO t (a, b) VALUES (2, 'it''s') RETURNING id, b /*batch=5*/"), "Z"),
        (query("/* batch:5 */ INSERT INTO t (a, b) VALUES (1, 'y')"), "Z"),
        (query("/* batch:5 */ INSERT INTO t (a, b) VALUES (3, 'bad')"), "Z"),
        (query("/* batch:5 */ INSERT INTO t (a, nowhere) VALUES (3, 'bad')"), "Z"),
        (query("/* batch:5 */ INSERT INTO t (a, b) VALUES (3, 'x', )"), "Z"),
        (query("/* batch:5 */ UPDATE t SET b = 'z' WHERE a < 3"), "Z"),
        (query("/* batch:5 */ DELETE FROM t WHERE a = 1 RETURNING *"), "Z"),
        (query("/* batch:5 */ INSERT INTO noisy VALUES (1)"), "Z"),
        (query("SELECT * FROM t"), "Z"),
    ],
    "a hinted write of the extended protocol": [
        (parse(INSERT) + bind("1", "x") + execute() + SYNC, "Z"),
        (run(RETURNING, "2", "y") + SYNC, "Z"),
        (bind("3", "z", results=(1,)) + execute() + SYNC, "Z"),
        (run(RETURNING, "2", "y") + SYNC, "Z"),
        (run(RETURNING, "4", "bad") + SYNC, "Z"),
        (run(RETURNING, "x", "y") + SYNC, "Z"),
        (bind("5", "z") + execute() + SYNC, "Z"),
        (query("SELECT * FROM t"), "Z"),
        (bind("6", "z") + execute() + SYNC, "Z"),
    ],
    "a hinted named statement": [
        (parse(RETURNING, "s", (23, 25)) + describe("s", "S") + SYNC, "Z"),
        (bind(b"\0\0\0\1", "x", name="s", formats=(1, 0)) + describe() + execute() + close("", "P") + SYNC, "Z"),
        (bind("2", "x", name="s", results=(1, 1, 0)) + describe() + execute() + SYNC, "Z"),
        (bind("2", "x", name="s") + describe("s", "S") + execute() + SYNC, "Z"),
        (bind("3", "x", name="s") + execute("", 1) + SYNC, "Z"),
        (bind("4", "x", name="s", portal="p") + describe("p") + execute("p") + SYNC, "Z"),
        (close("s") + SYNC, "Z"),
        (bind("5", "x", name="s") + execute() + SYNC, "Z"),
        (query("SELECT * FROM t"), "Z"),
    ],
    "hinted writes in pipelines and transactions": [
        pipeline(run(INSERT, "1", "x"), run(INSERT, "1", "y"), run(RETURNING, "2", "z")),
        (run(INSERT, "3", "x") + run(INSERT, "4", "y") + SYNC, "Z"),
        (query("BEGIN") + run(INSERT, "5", "x") + SYNC + query("ROLLBACK"), "Z3"),
        (query("/* batch:5 */ INSERT INTO t (a) VALUES (6); SELECT a FROM t"), "Z"),
        (query("BEGIN; /* batch:5 */ INSERT INTO t (a) VALUES (7); COMMIT"), "Z"),
        (query("SELECT * FROM t"), "Z"),
    ],
}


def hold(port: int, database: str, exchange: Exchange, send: Callable[[Wire, bytes], None]) -> list[list[Frame]]:
    """Have the exchange; what the server said in each turn, process ids left out."""
    answers = []
    with Wire(port).start(database) as wire:
        wire.ask(query("TRUNCATE t, noisy RESTART IDENTITY"))
        for said, waits_for in exchange:
            send(wire, said)
            heard = wire.until(waits_for[0], int(waits_for[1:] or 1)) if waits_for else wire.to_end()
            answers.append([_known(message) for message in heard])
    return answers


def _known(message: Frame) -> Frame:
    return Frame("A", message.body[4:]) if message.kind == "A" else message


@pytest.mark.parametrize("name", EXCHANGES)
def test_the_server_says_the_same(ends: Ends, name: str) -> None:
    ends.prepare(*SCHEMA)
    direct = hold(ends.direct_port, ends.database, EXCHANGES[name], Wire.send)
    whole = hold(ends.proxied_port, ends.database, EXCHANGES[name], Wire.send)
    assert [kinds(frames) for frames in whole] == [kinds(frames) for frames in direct]
    assert whole == direct
    assert hold(ends.proxied_port, ends.database, EXCHANGES[name], Wire.dribble) == direct
