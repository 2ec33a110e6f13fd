"""A prepared batch of single-row INSERTs as a few many-row INSERTs, where nobody can notice.

The rows are cut into pieces of fixed sizes, so that each piece's statement is parsed once per connection; a piece's
Bind is put together from the members' raw parameter bytes. Behind them, in the same transaction and round trip, runs
a guard: a query that fails, and so takes everything back, unless the table is an ordinary one without rules, row-level
security or triggers (but those of foreign keys to other tables: rows that refer to each other may come in any order
only if they come at once), without STABLE functions of the user's in defaults and checks (they don't see the rows
before theirs), and at least as many rows were inserted as there are members; without triggers it can't be more. (The
server counts insertions since it last reported its statistics, hence "at least"; with track_counts off the guard always
fails.) The INSERTs hold a lock on the table that keeps all of that from changing until the commit, so the guard can't
be overtaken: there is no knowledge of the catalogue that could go stale. Only the guard's snapshot could be older than
the lock, where a transaction has but one; so it fails unless each statement has its own (READ COMMITTED). The law of
this module: no I/O.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from tqdbproxy.postgres.framing import HEADER, FramingError, length_at
from tqdbproxy.postgres.mergeable import Mergeable
from tqdbproxy.postgres.unit import Unit

MAX_PARAMETERS = 65535
"""A Bind's parameter count has two bytes."""

LARGEST_PIECE = 256
NULL = 0xFFFFFFFF

_GUARD = (
    b"SELECT 1 / (pg_catalog.pg_stat_get_xact_tuples_inserted(c.oid) >= $1"
    b" AND c.relkind = 'r' AND NOT c.relhasrules AND NOT c.relrowsecurity AND NOT c.relispartition"
    b" AND NOT (c.relhastriggers AND EXISTS (SELECT FROM pg_catalog.pg_trigger t"
    b" WHERE t.tgrelid = c.oid AND (NOT t.tgisinternal OR t.tgconstrrelid = c.oid)))"
    b" AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend o, pg_catalog.pg_depend d, pg_catalog.pg_proc p"
    b" WHERE o.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND o.refobjid = c.oid"
    b" AND o.classid IN ('pg_catalog.pg_attrdef'::pg_catalog.regclass, 'pg_catalog.pg_constraint'::pg_catalog.regclass)"
    b" AND d.classid = o.classid AND d.objid = o.objid"
    b" AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND p.oid = d.refobjid AND p.provolatile = 's')"
    b" AND pg_catalog.current_setting('transaction_isolation') = 'read committed')::pg_catalog.int4"
    b" FROM pg_catalog.pg_class c WHERE c.oid = '%b'::pg_catalog.regclass"
)
GUARD_TYPES = struct.pack("!HI", 1, 20)
DIVISION_BY_ZERO = "22012"
"""How the guard fails."""


def guard(mergeable: Mergeable) -> bytes:
    """The query that fails unless merging could not be noticed; its parameter is the number of members (int8)."""
    return _GUARD % mergeable.table.replace(b"'", b"''")


def guard_tail(members: int) -> bytes:
    """The raw tail of the guard's Bind: one binary int8, no result worth a format."""
    return struct.pack("!HHHIqH", 1, 1, 1, 8, members, 0)


def pieces(members: int, parameters: int) -> list[int]:
    """Sizes whose sum is ``members``: powers of two, the largest first, none with too many parameters."""
    size = min(LARGEST_PIECE, 1 << (MAX_PARAMETERS // max(1, parameters)).bit_length() - 1)
    sizes: list[int] = []
    while members:
        while size > members:
            size >>= 1
        sizes.append(size)
        members -= size
    return sizes


def piece_types(types: bytes, parameters: int, rows: int) -> bytes:
    """The declared parameter types of a piece: those of one row again and again; 0 where nothing was declared."""
    (count,) = struct.unpack_from("!H", types)
    row = types[2 : 2 + 4 * min(count, parameters)].ljust(4 * parameters, b"\0")
    if not any(row):
        return b"\0\0"
    return struct.pack("!H", parameters * rows) + row * rows


def rows_of(units: Sequence[Unit], parameters: int) -> tuple[bytes, list[bytes]] | None:
    """The members' parameter formats, and the parameters of each, all raw; None if they don't fit together.

    The lengths inside are checked, so that nobody's parameters can reach into another's row.
    """
    first = parameters_of(units[0].tail, parameters)
    if first is None:
        return None
    formats = first[0]
    begin = len(formats) + 2
    head = units[0].tail[:begin]
    rows: list[bytes] = []
    for unit in units:
        tail = unit.tail
        if not tail.startswith(head):
            return None
        at = begin
        for _ in range(parameters):
            size = length_at(tail, at)[0]
            at += 4 if size == NULL else 4 + size
        if at + 2 > len(tail):
            return None
        rows.append(tail[begin:at])
    return formats, rows


def parameters_of(tail: bytes, expected: int) -> tuple[bytes, bytes] | None:
    """A Bind's parameter formats and its parameters, both raw; None if there are not as many as expected.

    The formats are made independent of the number of parameters: one code, or none, for all.
    """
    (codes,) = struct.unpack_from("!H", tail)
    at = 2 + 2 * codes
    formats = tail[:at]
    if struct.unpack_from("!H", tail, at)[0] != expected:
        return None
    begin = at = at + 2
    for _ in range(expected):
        size: int = length_at(tail, at)[0]
        at += 4 if size == NULL else 4 + size
    if at + 2 > len(tail):
        raise FramingError("a Bind message that ends too early")
    return formats, tail[begin:at]


def binds(units: Sequence[Unit], parameters: int, names: Sequence[bytes], sizes: Sequence[int]) -> list[bytes] | None:
    """One Bind frame for each piece; None if the members' parameters don't fit together."""
    try:
        found = rows_of(units, parameters)
    except (FramingError, struct.error):
        return None
    if found is None:
        return None
    formats, rows = found
    frames: list[bytes] = []
    done = 0
    for name, size in zip(names, sizes, strict=True):
        body = b"".join(rows[done : done + size])
        head = b"\0%b\0%b%b" % (name, _formats(formats, size), struct.pack("!H", size * parameters))
        frames.append(HEADER.pack(b"B", len(head) + len(body) + 6) + head + body + b"\0\0")
        done += size
    return frames


def _formats(formats: bytes, rows: int) -> bytes:
    """Parameter formats for so many rows: a code for each parameter is repeated, none or one holds for all."""
    (codes,) = struct.unpack_from("!H", formats)
    if codes < 2:
        return formats
    return struct.pack("!H", codes * rows) + formats[2:] * rows
