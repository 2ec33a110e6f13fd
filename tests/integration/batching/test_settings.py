"""Sessions with other settings never share a batch, because the same text does something else in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.integration.batching.conftest import MakeCrowd, Place
from tests.integration.batching.crowd import COUNT, Crowd, Reply, extended, reply, simple
from tests.integration.wire import query

INSERTED = [Reply(tag="INSERT 0 1")] * COUNT
HALF = COUNT // 2
HALVES_MS = 30
"""Two groups that are never full."""


class Setting(NamedTuple):
    """Two values, a column, and a literal whose meaning (or whose reply) depends on the setting."""

    one: str
    other: str
    column: str
    literal: str
    returning: str = ""


SETTINGS = {
    "TimeZone": Setting("Asia/Tokyo", "America/New_York", "timestamptz", "'2020-01-01 00:00'"),
    "DateStyle": Setting("ISO, MDY", "ISO, DMY", "date", "'01/02/2020'"),
    "DateStyle of a reply": Setting("ISO, MDY", "SQL, DMY", "date", "'2020-01-31'", "RETURNING v"),
    "IntervalStyle": Setting("postgres", "sql_standard", "interval", "'-1 2:03:04'"),
    "client_encoding": Setting("UTF8", "LATIN1", "text", "'é'"),
    "standard_conforming_strings": Setting("on", "off", "text", r"'a\\b'"),
    "bytea_output": Setting("hex", "escape", "bytea", r"'abc'", "RETURNING v"),
    "extra_float_digits": Setting("1", "-10", "float8", "0.123456789012345678", "RETURNING v"),
    "array_nulls": Setting("on", "off", "text[]", "'{NULL}'"),
    "transform_null_equals": Setting("on", "off", "text", "((NULL::int = NULL) IS NULL)::text"),
    "default_transaction_isolation": Setting(
        "read committed", "serializable", "text", "current_setting('transaction_isolation')"
    ),
    "my.own": Setting("1", "2", "text", "current_setting('my.own')"),
}


@pytest.mark.parametrize("how", ["at start-up", "by SET"])
@pytest.mark.parametrize("say", [simple, extended])
@pytest.mark.parametrize("name", SETTINGS)
def test_what_means_something_else_does_not_meet(
    place: Place, crowds: MakeCrowd, name: str, say: Callable[..., bytes], how: str
) -> None:
    setting, guc = SETTINGS[name], name.split()[0]
    place.make(f"CREATE TABLE t (v {setting.column})")

    def sessions(port: int, schema: str) -> Crowd:
        halves = []
        for value in (setting.one, setting.other):
            options = {guc: value} if how == "at start-up" else {}
            half = crowds(HALF, port, search_path=schema, escape_string_warning="off", **options)
            if not options:
                half.all(f"SET {guc} = {value}" if "," in value else f"SET {guc} = '{value}'")
            halves.append(half)
        return Crowd([wire for half in halves for wire in half.wires], halves[0].proxy)

    batched, direct = sessions(0, place.here), sessions(place.direct_port, place.there)
    message = say(f"INSERT INTO t (v) VALUES ({setting.literal}) {setting.returning}", window_ms=HALVES_MS)
    for _ in range(2):
        expected = [reply(wire.ask(message)) for wire in direct.wires]
        assert batched.send(lambda _n: message) == expected
    assert {(status.size, status.reason) for status in batched.statuses()} == {(str(HALF), "")}
    question = "SELECT v, count(*) FROM t GROUP BY v ORDER BY v"
    found = place.rows(question)
    assert found == place.rows(question, place.there)
    assert len(found) == 2 or expected[0] != expected[-1]


@pytest.fixture
def plain(place: Place) -> Place:
    place.make("CREATE TABLE t (a int, b text)")
    return place


def writes(n: int) -> bytes:
    return extended("INSERT INTO t VALUES ($1, $2)", str(n), "x")


SET = "SET work_mem = '5MB'"
ALIKE = {
    "the same SETs, in any order": [[SET, "SET jit = off"], ["SET jit = off", SET]],
    "SET twice": [["SET work_mem = '3MB'", SET], [SET]],
    "SET and RESET": [[SET, "RESET work_mem"], []],
    "SET and SET TO DEFAULT": [[SET, "SET work_mem TO DEFAULT"], []],
    "RESET ALL": [[SET, "SET jit = off", "RESET ALL"], []],
    "RESET ALL with others": [["BEGIN", SET, "COMMIT", "SELECT pg_advisory_unlock_all(); UNLISTEN *; RESET ALL"], []],
    "RESET ALL after a SET in a transaction": [["BEGIN", SET, "COMMIT", "RESET ALL"], []],
    "DISCARD ALL": [["SELECT set_config('work_mem', '5MB', false)", "CREATE TEMP TABLE x ()", "DISCARD ALL"], []],
    "DISCARD ALL after SET ROLE": [["SET ROLE pg_monitor", "DISCARD ALL"], []],
    "SET LOCAL": [["BEGIN", "SET LOCAL work_mem = '5MB'", "COMMIT"], []],
    "a SET that failed": [["SET work_mem = 'much'"], []],
    "application_name": [["SET application_name = 'one'"], ["SET application_name = 'other'"]],
    "set_config": [["SELECT set_config('work_mem', '5MB', false)"]] * 2,
    "set_config and RESET": [["SELECT set_config('work_mem', '5MB', false)", "RESET work_mem"], []],
    "SET TIME ZONE": [["SET TIME ZONE 'Asia/Tokyo'"], ["SET timezone = 'Asia/Tokyo'"]],
    "SET NAMES": [["SET NAMES 'LATIN1'"], ["SET client_encoding = 'LATIN1'"]],
    "SESSION CHARACTERISTICS": [["SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE"]] * 2,
}


@pytest.mark.parametrize("name", ALIKE)
def test_sessions_that_are_alike_meet(plain: Place, crowds: MakeCrowd, name: str) -> None:
    crowd = crowds()
    for number, wire in enumerate(crowd.wires):
        for text in ALIKE[name][number % 2]:
            wire.ask(query(text))
    assert crowd.send(writes) == INSERTED
    assert crowd.together == "merged"


UNLIKE = {
    "SET in a transaction": ["BEGIN", SET, "COMMIT"],
    "SET in a transaction, rolled back": ["BEGIN", SET, "ROLLBACK"],
    "set_config": ["SELECT set_config('work_mem', '5' || 'MB', false)"],
    "set_config of the role": ["SELECT set_config('role', 'pg_monitor', false)", "RESET ROLE"],
    "RESET ALL that was rolled back": ["BEGIN", SET, "COMMIT", "RESET ALL; SELECT 1 / 0"],
    "RESET ALL in a transaction": ["BEGIN", SET, "COMMIT", "BEGIN; RESET ALL; ROLLBACK"],
    "SET ROLE": ["SET ROLE pg_monitor", "RESET ROLE"],
    "a temporary table": ["CREATE TEMP TABLE x ()"],
    "RESET ALL after what it does not reset": ["CREATE TEMP TABLE x ()", "RESET ALL"],
}


@pytest.mark.parametrize("name", UNLIKE)
def test_what_can_not_be_known_is_alone_and_says_why(plain: Place, crowds: MakeCrowd, name: str) -> None:
    crowd = crowds()
    for text in UNLIKE[name]:
        crowd.wires[0].ask(query(text))
    assert crowd.send(writes) == INSERTED
    strange, *others = crowd.statuses()
    assert strange == ("", "", "session_state")
    assert set(others) == {("merged", str(COUNT - 1), "")}


def test_what_a_function_has_changed_is_reported(place: Place, crowds: MakeCrowd) -> None:
    """Nobody can tell by the text, but the server says so."""
    place.make(
        "CREATE TABLE t (v timestamptz)",
        "CREATE FUNCTION moves() RETURNS text LANGUAGE sql AS $$ SELECT set_config('TimeZone', 'Asia/Tokyo', false) $$",
    )
    crowd = crowds()
    for wire in crowd.wires[:HALF]:
        wire.ask(query("SELECT moves()"))
    assert crowd.send(lambda _n: simple("INSERT INTO t VALUES ('2020-01-01 00:00')", window_ms=HALVES_MS)) == INSERTED
    assert {status.size for status in crowd.statuses()} == {str(HALF)}
    found = place.rows("SELECT v AT TIME ZONE 'UTC', count(*) FROM t GROUP BY v ORDER BY v")
    assert found == ((b"2019-12-31 15:00:00", b"4"), (b"2020-01-01 00:00:00", b"4"))


def test_what_was_prepared_under_other_settings_is_made_anew(place: Place, crowds: MakeCrowd) -> None:
    """A constant in a prepared statement was read under the settings that held then."""
    place.make("CREATE TABLE t (v timestamptz, w text)")
    crowd = crowds()
    for zone in ("Asia/Tokyo", "America/New_York", "UTC"):
        crowd.all(f"SET timezone = '{zone}'")
        text = f"INSERT INTO t VALUES ('2020-01-01 00:00', '{zone}')"
        assert crowd.send(lambda _n, text=text: simple(text)) == INSERTED  # type: ignore[misc]
        kept = "INSERT INTO t VALUES (timestamptz '2020-01-01 00:00', $1)"
        assert crowd.send(lambda _n, kept=kept, zone=zone: extended(kept, zone)) == INSERTED  # type: ignore[misc]
    found = place.rows("SELECT DISTINCT w, v AT TIME ZONE w FROM t ORDER BY w")
    assert found == tuple((zone, b"2020-01-01 00:00:00") for zone in (b"America/New_York", b"Asia/Tokyo", b"UTC"))


def test_a_search_path_that_changes(plain: Place, crowds: MakeCrowd) -> None:
    crowd = crowds()
    for schema in (plain.here, plain.there, plain.here):
        crowd.all(f"SET search_path = {schema}")
        assert crowd.send(writes) == INSERTED
        assert crowd.together == "merged"
    assert plain.rows("SELECT count(*) FROM t") == ((b"16",),)
    assert plain.rows("SELECT count(*) FROM t", plain.there) == ((b"8",),)


@pytest.mark.parametrize("more", ["", "key:mine"])
def test_intervals_with_fields(place: Place, crowds: MakeCrowd, more: str) -> None:
    """A string is read by the fields of its column as a constant, but not as a parameter: it stays a constant."""
    t = f"t_{len(more)}"  # what has been learned of a text is known to all sessions
    place.make(f"CREATE TABLE {t} (v interval year)", "CREATE TABLE u (v text)")
    crowd = crowds()
    for _ in range(2):
        said = crowd.send(lambda n: simple(f"INSERT INTO {'u' if n < 2 else t} VALUES ('{n}')", more, HALVES_MS))
        assert said == INSERTED
    assert [status.size for status in crowd.statuses()][2:] == [str(COUNT) if more else "1"] * (COUNT - 2)
    found = place.rows(f"SELECT DISTINCT v::text FROM {t}")
    assert {row[0] for row in found} == {_years(n) for n in range(2, COUNT)}


def _years(n: int) -> bytes:
    return b"%d years" % n


def test_the_same_text_with_and_without_an_interval(place: Place, crowds: MakeCrowd) -> None:
    """What was learned of a text in one place says nothing about another."""
    place.directly(place.here, "CREATE TABLE t (v text)")
    place.directly(place.there, "CREATE TABLE t (v interval year)")
    for schema in (place.here, place.there):
        crowd = crowds(search_path=schema)
        assert crowd.send(lambda n: simple(f"INSERT INTO t VALUES ('{n}')")) == INSERTED
    assert place.rows("SELECT sum(v::int) FROM t") == ((b"28",),)
    assert place.rows("SELECT sum(v) FROM t", place.there) == ((b"28 years",),)
