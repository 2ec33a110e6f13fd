"""Whose row it probably was that made a many-row INSERT fail.

PostgreSQL names the values in an error's detail: ``Key (k)=(5) already exists.``, ``Failing row contains (5, x).``, in
every language with the same parentheses (manual, "Error and Notice Message Fields", D). The law of this module: it only
guesses. Whoever it names is executed alone, which is right whatever he did; a good guess spares the others a round.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from tqdbproxy.postgres.framing import length_at
from tqdbproxy.postgres.servers.merging import NULL
from tqdbproxy.postgres.unit import Unit

_KEY = re.compile(r"\)=\((.*)\)", re.DOTALL)
_ROW = re.compile(r"\((.*)\)", re.DOTALL)
_INTEGER = re.compile(r"-?[0-9]{1,19}")
LENGTH = struct.Struct("!I")
ALIKE = 3
"""If more members than this fit equally well, the values say nothing."""
_INTEGERS = {2: struct.Struct("!h"), 4: struct.Struct("!i"), 8: struct.Struct("!q")}


def culprit(units: Sequence[Unit], detail: str) -> int | None:
    """The index of the member that has most of the values in ``detail``; None if none has, or too many have as many."""
    found = _KEY.search(detail) or _ROW.search(detail)
    if found is None:
        return None
    values = set(found[1].split(", "))
    # Whom to look at more closely: reading all parameters of all members costs a tenth of the batch.
    named = re.compile(b"|".join(map(re.escape, _raw(values)))).search
    suspects = [number for number, unit in enumerate(units) if named(unit.tail)] or range(len(units))
    scores = [len(values & texts(units[number].tail)) for number in suspects]
    best = max(scores)
    return suspects[scores.index(best)] if best and scores.count(best) <= ALIKE else None


def _raw(values: Iterable[str]) -> Iterator[bytes]:
    """How parameters with these values begin: the length, and then the value as text or as an integer."""
    for value in values:
        text = value.encode(errors="replace")
        yield LENGTH.pack(len(text)) + text
        if _INTEGER.fullmatch(value):
            for size, packed in _INTEGERS.items():
                with suppress(struct.error):  # too large for this one
                    yield LENGTH.pack(size) + packed.pack(int(value))


def texts(tail: bytes) -> set[str]:
    """The parameters in a Bind's tail as a detail would show them; those in binary format as integers."""
    (codes,) = struct.unpack_from("!H", tail)
    formats = struct.unpack_from(f"!{codes}H", tail, 2)
    at = 2 + 2 * codes
    (count,) = struct.unpack_from("!H", tail, at)
    at += 2
    shown: set[str] = set()
    for number in range(count):
        size: int = length_at(tail, at)[0]
        at += 4
        if size == NULL:
            continue
        raw = tail[at : at + size]
        at += size
        binary = codes > 0 and formats[number if codes > 1 else 0] == 1
        if not binary:
            shown.add(raw.decode(errors="replace"))
        elif size in _INTEGERS:
            shown.add(str(_INTEGERS[size].unpack(raw)[0]))
    return shown
