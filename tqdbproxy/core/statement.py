"""What the lanes know of a statement, in words that no wire owns.

The law of this module: records only; nothing here decides.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """The ``query_type`` of the metrics."""

    SELECT = "select"
    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    MERGE = "merge"
    OTHER = "other"

    @property
    def is_write(self) -> bool:
        """Whether one statement of this kind may be batched."""
        return self in WRITES


WRITES = frozenset({Kind.INSERT, Kind.UPDATE, Kind.DELETE, Kind.MERGE})


class Reason(Enum):
    """Why a hint was not followed: the ``reason`` of the metrics and of the status view."""

    TRANSACTION = "transaction"
    PIPELINE = "pipeline"
    SESSION_STATE = "session_state"
    MULTI_STATEMENT = "multi_statement"
    NOT_A_WRITE = "not_a_write"
    NOT_A_READ = "not_a_read"
    UNSAFE = "unsafe"
    DISABLED = "disabled"
    NO_CAPACITY = "no_capacity"
    NO_CONNECTION = "no_connection"


class Strategy(Enum):
    """How a group of writes was executed (``docs``, "How a batch is executed")."""

    SINGLE = "single"
    PREPARED = "prepared"
    MERGED = "merged"
    TRANSACTION = "transaction"


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Identity:
    """What two sessions must share before one may run the other's write.

    Compared by identity: `Identities` hands out one object for equal values, so that a batch key is cheap to hash.
    ``settings`` holds what a session has changed since its start, ``reported`` what its server says of its settings,
    ``place`` where this server is: a group may have several, one after another at least.
    """

    group: str
    database: bytes
    user: bytes
    options: tuple[tuple[bytes, bytes], ...]
    settings: tuple[tuple[bytes, bytes], ...] = ()
    reported: tuple[tuple[bytes, bytes], ...] = ()
    place: Hashable = ""

    @property
    def size(self) -> int:
        """Bytes of what its sessions have said of themselves; whoever keeps many identities counts them."""
        return sum(len(name) + len(value) for name, value in self.options + self.settings)


class BatchKey(NamedTuple):
    """Writes with one batch key may be executed together: a template, or the name that a ``key:`` hint gives."""

    identity: Identity
    template: Hashable


class CacheKey(NamedTuple):
    """Reads with one cache key have one answer: a statement with its parameters and the formats of its results."""

    identity: Identity
    statement: Hashable
