"""How a write is said on the wire.

The law of this module: the same write, whatever the way; values travel as constants, as text or as binary parameters.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import Enum

from tests.books.ledger import Write
from tests.integration import wire

INT8, TEXT = 20, 25
Prepared = dict[tuple[str, bool], str]
"""Names of a connection's statements, by their text and whether their parameters are binary."""

PLACE = re.compile(r"\$(\d)")


class Way(Enum):
    """The protocol's ways to say a statement."""

    SIMPLE = "constants in a Query"
    UNNAMED = "parsed each time"
    NAMED = "prepared once"


@dataclass(frozen=True, slots=True)
class Phrase:
    """``prepare`` is to be sent and answered first, unless empty."""

    prepare: bytes
    raw: bytes


def phrase(write: Write, hint: str, way: Way, prepared: Prepared, *, binary: bool, behind: bool) -> Phrase:
    """The bytes for ``write``.

    :param prepared: a new statement's name is added.
    :param behind: the hint stands behind the statement.
    """
    text = f"{write.sql} {hint}" if behind else f"{hint} {write.sql}"
    if way is Way.SIMPLE:
        literals = [_literal(value) for value in write.values]
        return Phrase(b"", wire.query(PLACE.sub(lambda found: literals[int(found[1]) - 1], text)))
    types = [INT8 if isinstance(value, int) else TEXT for value in write.values] if binary else []
    name, prepare = "", b""
    if way is Way.NAMED:
        name = prepared.get((text, binary), "")
        if not name:
            name = prepared[text, binary] = f"s{len(prepared)}"
            prepare = wire.parse(text, name, types) + wire.describe(name, "S") + wire.SYNC
    parts = [wire.parse(text, types=types)] if way is Way.UNNAMED else []
    parts.append(_bind(write, name, binary=binary))
    if way is Way.UNNAMED:
        parts.append(wire.describe())
    return Phrase(prepare, b"".join([*parts, wire.execute(), wire.SYNC]))


def _bind(write: Write, name: str, *, binary: bool) -> bytes:
    if not binary:
        return wire.bind(*map(str, write.values), name=name)
    raw = [struct.pack("!q", value) if isinstance(value, int) else value.encode() for value in write.values]
    formats = [int(isinstance(value, int)) for value in write.values]
    return wire.bind(*raw, name=name, formats=formats)


def _literal(value: int | str) -> str:
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
