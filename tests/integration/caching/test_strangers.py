"""Who is unlike another never gets its rows: users under row-level security, databases, groups, settings, roles.

Each session through the proxy has a twin that talks to the server and says the same without hints. The data never
changes, so every answer can be compared with the twin's, whoever asked the same question before.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import psycopg
import pytest

from tests.integration.batching.crowd import reply
from tests.integration.caching.places import backend, cached
from tests.integration.wire import SYNC, Wire, bind, describe, execute, parse, query
from tests.proxies import HOST, RunningProxy, start_proxy
from tqdbproxy.embedded import EmbeddedServer

USERS = ("postgres", "alice", "bob")
HERE, ALSO_HERE, THERE = "flat", "house", "garden"
"""Databases; the last one is another group's."""
TABLES = """
CREATE TABLE d (k int, owner text, tenant int, body text);
INSERT INTO d SELECT i, (ARRAY['alice', 'bob', 'carol'])[i % 3 + 1], i % 4, 'NAME public ' || i
    FROM generate_series(1, 24) i;
ALTER TABLE d ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON d USING (owner = current_user
    AND tenant = coalesce(nullif(current_setting('app.tenant', true), '')::int, tenant));
CREATE SCHEMA s2;
CREATE TABLE s2.d AS SELECT k, 'none' AS owner, 0 AS tenant, 'NAME s2 ' || k AS body FROM d;
CREATE VIEW mine AS SELECT k, body, current_user::text FROM d WHERE owner = current_user;
CREATE VIEW dated AS SELECT '2026-11-20 10:00+00'::timestamptz AS at, chr(233) AS e, 1 / 3.0::float8 AS f;
GRANT USAGE ON SCHEMA public, s2 TO PUBLIC;
GRANT SELECT ON d, s2.d, mine, dated TO PUBLIC;
"""
OPTIONS: list[dict[str, str]] = [
    {},
    {},
    {"search_path": "s2, public"},
    {"options": "-c app.tenant=2"},
    {"options": "-c app.tenant=3 -c DateStyle=German"},
    {"client_encoding": "LATIN1"},
    {"application_name": "other"},
    {"DateStyle": "German"},
    {"database": THERE},
    {"database": ALSO_HERE},
]
# Where it isn't seen what was set (DO), it isn't a setting of the user's own: DISCARD ALL makes such a session known
# again, but leaves these behind, empty.
SETTINGS = [
    "SET app.tenant = 1", "SET app.tenant = '2'", "SELECT set_config('app.tenant', '3', false)", "RESET app.tenant",
    "SET search_path = s2", "SET search_path TO public", "SET search_path TO DEFAULT", "RESET ALL", "DISCARD ALL",
    "SET ROLE alice", "SET ROLE bob", "RESET ROLE", "SET SESSION AUTHORIZATION alice", "RESET SESSION AUTHORIZATION",
    "SET TimeZone = 'Asia/Tokyo'", "SET DateStyle = 'SQL, DMY'", "SET client_encoding = 'LATIN1'",
    "SET client_encoding = 'UTF8'", "SET extra_float_digits = -5", "BEGIN", "COMMIT", "ROLLBACK",
    "SET LOCAL app.tenant = 1", "BEGIN; SET LOCAL app.tenant = 2; COMMIT", "BEGIN; SET DateStyle = SQL; ROLLBACK",
    "BEGIN; SET DateStyle = SQL; COMMIT", "SELECT 1/0", "SET DateStyle = SQL; SELECT 1/0", "SET row_security = off",
    "CREATE TEMP TABLE d AS SELECT 1 AS k, 'x' AS owner, 1 AS tenant, 'temporary' AS body",
    "DO $$ BEGIN PERFORM set_config('DateStyle', 'SQL', false); END $$", "DEALLOCATE ALL",
    "SELECT set_config('app.tenant', '2', true)", "SELECT set_config('role', 'bob', false)",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "set local role bob",
    "SELECT 1/0; SET LOCAL app.tenant = 1", "SET app.tenant = 2; SELECT 1/0", "SET app.tenant FROM CURRENT",
    "SELECT set_config('app.tenant', '1', true) WHERE false", "SELECT 1; SET app.tenant = 3",
]  # fmt: skip
QUESTIONS = [
    "SELECT k, owner, tenant, body FROM d ORDER BY k",
    "SELECT count(*), current_user, session_user FROM d",
    "SELECT * FROM mine ORDER BY 1",
    "SELECT * FROM dated",
    "SELECT body FROM public.d ORDER BY k",
    "SELECT current_setting('app.tenant', true), current_database(), current_schema",
    "SELECT current_setting('app.tenant', true) IS NULL",
    "SELECT now() - now(), to_char('2026-11-20 10:00+00'::timestamptz, 'TZ HH24')",
    "SELECT current_setting('application_name')",
    "SELECT current_setting('transaction_read_only'), current_setting('role')",
]
HINTS = [
    "ttl:60",
    "ttl:60 tags:a",
    "tags:a+b ttl:60",
    "ttl:60 file:x.py line:3",
    "ttl:0.5",
    "batch:5 ttl:60",
    "ttl:60 key:a",
]


@pytest.fixture(scope="module")
def garden() -> Iterator[EmbeddedServer]:
    """Another group's server."""
    with EmbeddedServer() as server:
        yield server


@pytest.fixture(scope="module")
def streets(postgres: EmbeddedServer, garden: EmbeddedServer) -> Iterator[None]:
    """The databases and users."""
    with (
        psycopg.connect(postgres.dsn(), autocommit=True) as here,
        psycopg.connect(garden.dsn(), autocommit=True) as there,
    ):
        databases = {HERE: (here, postgres), ALSO_HERE: (here, postgres), THERE: (there, garden)}
        for connection in (here, there):
            connection.execute("CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN; GRANT bob TO alice")
        for name, (connection, server) in databases.items():
            connection.execute(f"CREATE DATABASE {name}".encode())
            with psycopg.connect(server.dsn(name), autocommit=True) as inside:
                inside.execute(TABLES.replace("NAME", name).encode())
        yield
        for name, (connection, _) in databases.items():
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
        here.execute("DROP ROLE alice, bob")


@pytest.fixture(scope="module")
def estate(
    postgres: EmbeddedServer, garden: EmbeddedServer, streets: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningProxy]:
    """The proxy in front of both."""
    text = f"[postgres.garden]\nprimary = {HOST}:{garden.port}\ndatabases = {THERE}\n"
    proxy = start_proxy(tmp_path_factory.mktemp("estate"), f"{postgres.host}:{postgres.port}", text)
    yield proxy
    proxy.stop()
    assert "Traceback" not in proxy.log


class Pair:
    """A session through the proxy and its twin."""

    def __init__(self, proxy: int, server: int, user: str, options: dict[str, str]) -> None:
        options = dict(options)
        database = options.pop("database", HERE)
        self._said: list[str] = [f"{user} {options}"]
        self.proxied, self.direct = Wire(proxy), Wire(server)
        for wire in (self.proxied, self.direct):
            wire.start(database, user, **options)

    def close(self) -> None:
        self.proxied.socket.close()
        self.direct.socket.close()

    def both(self, text: str) -> None:
        """Say this to both; whatever comes of it, it is the same."""
        self._said.append(text)
        replies = [reply(wire.ask(query(text))) for wire in (self.proxied, self.direct)]
        assert replies[0] == replies[1], text

    def ask(self, question: str, hints: str, chance: random.Random) -> bool:
        """The same question, with hints and without; whether the answer was kept."""
        hinted = f"/* {hints} */ {question}"
        forms = [
            (query(hinted), query(question)),
            tuple(parse(text) + bind() + describe() + execute() + SYNC for text in (hinted, question)),
            tuple(parse(text) + bind(results=[1]) + describe() + execute() + SYNC for text in (hinted, question)),
        ]
        asked, plain = chance.choice(forms)
        said, truth = reply(self.proxied.ask(asked)), reply(self.direct.ask(plain))
        kept = reply_is_kept(self.proxied)
        assert said == truth, (self._said, hinted, kept)
        return not truth.sqlstate and kept


def reply_is_kept(wire: Wire) -> bool:
    """Whether the last answer came from memory, as far as that can be asked in a transaction that failed."""
    frames = wire.ask(query("SELECT * FROM pg_tqdb_status"))
    return any(row[0] == b"Backend" and (row[1] or b"").startswith(b"cache") for row in reply(frames).rows)


@pytest.mark.parametrize("seed", range(4))
def test_everybody_gets_his_own(
    estate: RunningProxy, postgres: EmbeddedServer, garden: EmbeddedServer, seed: int
) -> None:
    chance = random.Random(seed)
    pairs: list[Pair] = []

    def another() -> Pair:
        options = chance.choice(OPTIONS)
        server = garden if options.get("database") == THERE else postgres
        return Pair(estate.port, server.port, chance.choice(USERS), options)

    try:
        pairs += [another() for _ in range(24)]
        kept = 0
        for _ in range(1500):
            number = chance.randrange(len(pairs))
            what = chance.random()
            if what < 0.08:
                pairs[number].both(chance.choice(SETTINGS))
            elif what < 0.16:
                pairs[number].both("ROLLBACK")
                pairs[number].both("RESET SESSION AUTHORIZATION; RESET ROLE")
                pairs[number].both("DISCARD ALL")
            elif what < 0.18:
                pairs[number].close()
                pairs[number] = another()
            else:
                kept += pairs[number].ask(chance.choice(QUESTIONS), chance.choice(HINTS), chance)
        assert kept > 100
    finally:
        for pair in pairs:
            pair.close()


def test_two_users_one_question(estate: RunningProxy) -> None:
    """The plainest case, said in one breath: the second asks in the same bytes, and gets his own rows."""
    text = query(cached("SELECT DISTINCT owner FROM d"))
    wires = {user: Wire(estate.port).start(HERE, user) for user in ("alice", "bob")}
    try:
        for _ in range(3):
            for user, wire in wires.items():
                assert reply(wire.ask(text)).rows == ((user.encode(),),)
        assert {backend(wire) for wire in wires.values()} == {"cache"}
    finally:
        for wire in wires.values():
            wire.socket.close()
