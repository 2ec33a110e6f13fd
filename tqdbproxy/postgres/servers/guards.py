"""Queries that run with a batch, and that fail, and so take everything back, if something isn't as it must be.

*Tables are what they were.* A prepared statement keeps the parameter types, and the tables, that it was parsed with,
whatever ALTER TABLE or a new table earlier in the search path have made of its text since. So the tables that a
statement names have a *fingerprint*: their OIDs and their columns' row versions in the catalogue, which are new after
every change. It is read before the statement is parsed, and compared behind each batch that uses the statement, in the
same transaction and round trip. The batch's locks keep its tables' columns as they are from before the comparison until
the commit; a table that takes another one's name after the comparison belongs after the batch.

*Merging can't be noticed*: see `MERGING`.

Only a guard's snapshot could be older than the locks, where a transaction has but one. So nothing is merged, and there
is no fingerprint, unless each statement has its own (READ COMMITTED).

The law of this module: no I/O; names of the catalogue are qualified, those of tables are looked up at each execution.
"""

from __future__ import annotations

import struct

from tqdbproxy.postgres.framing import HEADER_SIZE, frame
from tqdbproxy.postgres.messages import EXECUTE_ALL_FRAME
from tqdbproxy.postgres.tables import Tables, literal

CHANGED = "2201F"
"""How a fingerprint fails: the square root of a negative number."""
NOT_MERGEABLE = "22012"
"""How merging fails: a division by zero."""

_NULL = b"\xff\xff\xff\xff"
_BYTEA, _INT8 = 17, 20

_OWN_SNAPSHOT = b"pg_catalog.current_setting('transaction_isolation') = 'read committed'"

_FINGERPRINT = (
    b"SELECT f, pg_catalog.sqrt((f IS NOT DISTINCT FROM coalesce($1, f))::pg_catalog.int4 - 1) FROM (SELECT CASE WHEN "
    + _OWN_SNAPSHOT
    + b" THEN (SELECT pg_catalog.string_agg(pg_catalog.oidsend(a.attrelid) || pg_catalog.xidsend(a.xmin), '')"
    b" FROM pg_catalog.pg_attribute a WHERE a.attrelid IN (%b) AND a.attnum > 0) END OFFSET 0) s(f)"
)
FINGERPRINT_TYPES = struct.pack("!HI", 1, _BYTEA)

_COUNT = b"pg_catalog.pg_stat_get_xact_tuples_inserted(%b) >= $1"
_FACTS = (
    b"c.relkind = 'r' AND NOT c.relhasrules AND NOT c.relrowsecurity AND NOT c.relispartition"
    b" AND NOT (c.relhastriggers AND EXISTS (SELECT FROM pg_catalog.pg_trigger t"
    b" WHERE t.tgrelid = c.oid AND (NOT t.tgisinternal OR t.tgconstrrelid = c.oid)))"
    b" AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend o, pg_catalog.pg_depend d, pg_catalog.pg_proc p"
    b" WHERE o.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND o.refobjid = c.oid"
    b" AND o.classid IN ('pg_catalog.pg_attrdef'::pg_catalog.regclass, 'pg_catalog.pg_constraint'::pg_catalog.regclass)"
    b" AND d.classid = o.classid AND d.objid = o.objid"
    b" AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND p.oid = d.refobjid AND p.provolatile = 's')"
    b" AND " + _OWN_SNAPSHOT
)
_OF_TABLE = b" FROM pg_catalog.pg_class c WHERE c.oid = %b::pg_catalog.regclass"

MERGING = b"SELECT 1 / (" + _COUNT % b"c.oid" + b" AND " + _FACTS + b")::pg_catalog.int4" + _OF_TABLE
"""Fails unless the table is an ordinary one without rules, row-level security or triggers (but those of foreign keys to
other tables: rows that refer to each other may come in any order only if they come at once), without STABLE functions
of the user's in defaults and checks (they don't see the rows before theirs), and at least as many rows were inserted as
there are members; without triggers it can't be more. (The server counts insertions since it last reported its
statistics, hence "at least"; with track_counts off it always fails.) The INSERTs hold a lock on the table that keeps
all of that from changing until the commit, so there is no knowledge of the catalogue that could go stale."""

COUNT = b"SELECT 1 / (" + _COUNT % b"%b::pg_catalog.regclass" + b")::pg_catalog.int4"
"""The end of a batch that was begun early (`beginnings`). `MERGING` has followed its first part: the lock is held since
then, nothing of what is true of the table has changed, and only the rows of all parts are to be counted."""
MERGING_TYPES = struct.pack("!HI", 1, _INT8)


def fingerprint_query(tables: Tables) -> bytes:
    """It returns the fingerprint of ``tables``, and fails if that isn't its parameter; a parameter of NULL will do."""
    names = b", ".join(b"pg_catalog.to_regclass(%b)" % literal(table) for table in tables)
    return _FINGERPRINT % names


def merging_query(table: bytes) -> bytes:
    """See `MERGING`; its parameter is the number of members (int8)."""
    return MERGING % literal(table)


def count_query(table: bytes) -> bytes:
    """See `COUNT`; its parameter is the number of members (int8)."""
    return COUNT % literal(table)


def fingerprint_execution(name: bytes, known: bytes | None) -> bytes:
    """Bind and Execute of the query that is prepared as ``name``: does the fingerprint still equal ``known``?"""
    return _execution(name, _NULL if known is None else struct.pack("!I", len(known)) + known)


def merging_execution(name: bytes, members: int) -> bytes:
    """Bind and Execute of the query that is prepared as ``name``: `merging_query` or `count_query`."""
    return _execution(name, struct.pack("!Iq", 8, members))


def _execution(name: bytes, parameter: bytes) -> bytes:
    """One parameter, all in binary format."""
    return frame(b"B", b"\0%b\0\0\1\0\1\0\1%b\0\1\0\1" % (name, parameter)) + EXECUTE_ALL_FRAME


def fingerprint_of(row: bytes) -> bytes | None:
    """What a DataRow of `fingerprint_query` says; None: NULL."""
    at = HEADER_SIZE + 2
    (size,) = struct.unpack_from("!i", row, at)
    return None if size < 0 else row[at + 4 : at + 4 + size]
