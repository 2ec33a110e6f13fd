"""The tables that are written to, and where a write leaves its mark.

The law of this module: a mark that is written twice is there twice (no table that only collects marks has a key), and
every page can be checked by its queries alone.
"""

from __future__ import annotations

from dataclasses import dataclass

COUNTERS = 24
PARENTS = 10
STOCK = 30_000
SLOTS = 4
"""Tallies of one client."""

ROLES = {"hasty": "statement_timeout = '40ms'", "picky": "default_transaction_isolation = 'repeatable read'"}
"""Users with settings of their own: an identity each."""

LOGGED = """
CREATE FUNCTION {0}_logged() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN INSERT INTO {0}_log VALUES (NEW.last, NEW.k); RETURN NULL; END$$;
CREATE TABLE {0}_log (w bigint, k bigint);
CREATE TRIGGER logged AFTER INSERT OR UPDATE ON {0} FOR EACH ROW WHEN (NEW.last > 0) EXECUTE FUNCTION {0}_logged();
"""

TABLES = f"""
CREATE TABLE plain (w bigint, v text, who text DEFAULT current_user);
CREATE TABLE keyed (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, w bigint, u bigint UNIQUE);
CREATE TABLE paired (w bigint, u bigint UNIQUE);
CREATE TABLE checked (w bigint, v int CHECK (v >= 0));
CREATE TABLE parents (p bigint PRIMARY KEY);
INSERT INTO parents SELECT generate_series(1, {PARENTS});
CREATE TABLE child (w bigint, parent bigint REFERENCES parents);
CREATE TABLE orphan (w bigint, parent bigint REFERENCES parents DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE postponed (w bigint, u bigint UNIQUE DEFERRABLE INITIALLY DEFERRED);

CREATE TABLE timed (w bigint, action text, at timestamptz);
CREATE FUNCTION timed_before() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
    NEW.at = clock_timestamp();
    CASE NEW.action
        WHEN 'sleep' THEN PERFORM pg_sleep(0.08);
        WHEN 'skip' THEN RETURN NULL;
        WHEN 'notice' THEN RAISE NOTICE 'timed %', NEW.w;
        WHEN 'raise' THEN RAISE EXCEPTION 'raised %', NEW.w USING ERRCODE = 'TQ001';
        ELSE NULL;
    END CASE;
    RETURN NEW;
END$$;
CREATE TRIGGER before_it BEFORE INSERT ON timed FOR EACH ROW EXECUTE FUNCTION timed_before();

CREATE TABLE noted (last bigint, k bigint);
{LOGGED.format("noted")}
CREATE TABLE ruled (w bigint);
CREATE TABLE ruled_log (w bigint);
CREATE RULE also AS ON INSERT TO ruled DO ALSO INSERT INTO ruled_log VALUES (NEW.w);
CREATE TABLE chained (w bigint);
CREATE TABLE chained_to (w bigint);
CREATE TABLE merged (w bigint);

CREATE TABLE counters (k bigint PRIMARY KEY, n bigint DEFAULT 0, last bigint DEFAULT 0) WITH (fillfactor = 20);
{LOGGED.format("counters")}
INSERT INTO counters SELECT generate_series(1, {COUNTERS});
CREATE TABLE upserted (k bigint PRIMARY KEY, n bigint, last bigint) WITH (fillfactor = 20);
{LOGGED.format("upserted")}
CREATE TABLE duel_left (k bigint PRIMARY KEY, n bigint DEFAULT 0, last bigint DEFAULT 0) WITH (fillfactor = 20);
{LOGGED.format("duel_left")}
CREATE TABLE duel_right (k bigint PRIMARY KEY, n bigint DEFAULT 0, last bigint DEFAULT 0) WITH (fillfactor = 20);
{LOGGED.format("duel_right")}
INSERT INTO duel_left SELECT generate_series(1, 4);
INSERT INTO duel_right SELECT generate_series(1, 4);

CREATE TABLE tallies (k bigint PRIMARY KEY, n bigint DEFAULT 0, last bigint) WITH (fillfactor = 20);
CREATE TABLE stock (s bigint PRIMARY KEY);
INSERT INTO stock SELECT generate_series(1, {STOCK});
ANALYZE;
"""


@dataclass(frozen=True, slots=True)
class Page:
    """Where the marks of a page are. All of its queries must return the same marks, one row for each effect.

    A query's second column, if it has one, is what the second column of RETURNING was, or the write's ``proof``.
    ``laws`` return no row.
    """

    queries: tuple[str, ...]
    laws: tuple[str, ...] = ()


def _counted(table: str) -> Page:
    """Counters with a log: each counter tells how many lines the log has of it."""
    logged = f"(SELECT k, count(*) AS n FROM {table}_log GROUP BY k) log"
    law = f"SELECT k, {table}.n, log.n FROM {table} LEFT JOIN {logged} USING (k) WHERE {table}.n <> coalesce(log.n, 0)"
    return Page((f"SELECT w FROM {table}_log",), (law,))


PAGES = {
    "plain": Page(("SELECT w, concat(v, who) FROM plain",)),
    "keyed": Page(("SELECT w, id FROM keyed",)),
    "paired": Page(("SELECT w FROM paired",)),
    "checked": Page(("SELECT w FROM checked",)),
    "child": Page(("SELECT w FROM child",)),
    "orphan": Page(("SELECT w FROM orphan",)),
    "postponed": Page(("SELECT w FROM postponed",)),
    "timed": Page(("SELECT w FROM timed",)),
    "noted": Page(("SELECT last FROM noted", "SELECT w FROM noted_log")),
    "ruled": Page(("SELECT w FROM ruled", "SELECT w FROM ruled_log")),
    "chained": Page(("SELECT w FROM chained", "SELECT w FROM chained_to")),
    "merged": Page(("SELECT w FROM merged",)),
    "counters": _counted("counters"),
    "upserted": _counted("upserted"),
    "duel_left": _counted("duel_left"),
    "duel_right": _counted("duel_right"),
    "stock": Page((f"SELECT s FROM generate_series(1, {STOCK}) s WHERE s NOT IN (SELECT s FROM stock)",)),
}
"""Tallies are apart: they have no marks but sums (`audit.tallies`)."""

COLLIDING = ("keyed", "paired", "postponed")
"""Pages with a column ``u`` from which nothing is deleted: who was told 23505 wanted a value that is there."""


def roles() -> str:
    """The users; superusers, so that nothing else is in their way. They belong to the server, not to the database."""
    return "".join(
        f"CREATE ROLE {role} LOGIN SUPERUSER; ALTER ROLE {role} SET {what};\n" for role, what in ROLES.items()
    )


def tallies(clients: int) -> str:
    """A few counters for each client, which nobody else writes to."""
    return f"INSERT INTO tallies (k) SELECT generate_series(0, {clients * SLOTS - 1})"
