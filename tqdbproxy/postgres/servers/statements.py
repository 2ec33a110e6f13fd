"""The proxy's own prepared statements on one server connection.

They have names under a reserved prefix and are few, so that lending a connection leaves no trace that its client could
trip over. The law of this module: it lists only what the server has confirmed, and what is meant today.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from tqdbproxy.postgres.tables import Tables

PREFIX = b"_tqdb_"
KEPT_STATEMENTS = 64
OFTEN = 3
"""A statement that saves others is parsed when it was wished for so many times, ..."""
MOST_GRANTED, MOST_WISHED = 16, 256
"""... and no more such ones on a connection, as long as what it has lives; so many wishes are remembered."""
LIFETIME_S = 30.0
"""A prepared statement keeps the functions and operators that it was parsed with, whatever stands first in the search
path since. So none is used for longer. (What became of its tables is asked with each batch: `guards`.)"""


@dataclass(slots=True)
class Known:
    """A statement that the server has: its name, and the tables whose fingerprint it depends on.

    ``fit``: what it takes and returns was looked at, and is as it should be (True) or not; None: not looked at.
    """

    name: bytes
    tables: Tables | None = None
    fit: bool | None = None


class Statements:
    """By template, the least recently used first.

    A batch may add more than `KEPT_STATEMENTS`; the next one closes the surplus. ``blind``: the server can't tell
    fingerprints, so statements that would need one aren't kept.
    """

    __slots__ = ("_counter", "_fingerprints", "_granted", "_retired", "_since", "_wishes", "blind", "known")

    def __init__(self) -> None:
        self.known: OrderedDict[Hashable, Known] = OrderedDict()
        self._fingerprints: dict[Tables, bytes] = {}
        self._retired: list[bytes] = []
        self._wishes: dict[Hashable, int] = {}
        self._granted = 0
        self._counter = 0
        self._since: float | None = None
        self.blind = False

    def __contains__(self, template: Hashable) -> bool:
        return template in self.known

    def __len__(self) -> int:
        return len(self.known)

    def use(self, template: Hashable) -> bytes | None:
        """The name of the statement for ``template``, from now on the most recently used one; None: not there."""
        known = self.known.get(template)
        if known is None:
            return None
        self.known.move_to_end(template)
        return known.name

    def grants(self, template: Hashable) -> bool:
        """Whether to use a statement that one could do without: it is there, or was often wished for by such a call."""
        if template in self.known:
            return True
        times = self._wishes.get(template, 0) + 1
        if times == OFTEN:
            if self._granted >= MOST_GRANTED:
                return False
            self._granted += 1
        if len(self._wishes) >= MOST_WISHED:
            self._wishes.clear()
        self._wishes[template] = times
        return times >= OFTEN

    def new_name(self) -> bytes:
        """A name that was never used on this connection."""
        self._counter += 1
        return b"%b%d" % (PREFIX, self._counter)

    def add(self, template: Hashable, name: bytes, tables: Tables | None = None) -> None:
        """The server has confirmed that it has parsed it; ``tables``: those whose fingerprint it depends on.

        If that isn't known, the statement is of no use any more.
        """
        if tables is None or tables in self._fingerprints:
            self.known[template] = Known(name, tables)
        else:
            self._retired.append(name)

    def fit(self, template: Hashable) -> bool | None:
        """See `Known`; None, too, if there is no statement for ``template``."""
        known = self.known.get(template)
        return None if known is None else known.fit

    def judge(self, template: Hashable, fit: bool) -> None:
        """What the statement for ``template`` takes and returns was looked at."""
        known = self.known.get(template)
        if known is not None:
            known.fit = fit

    def fingerprint(self, tables: Tables) -> bytes | None:
        """What these tables were when the statements that depend on them were parsed; None: it isn't known."""
        return self._fingerprints.get(tables)

    def learn(self, tables: Tables, fingerprint: bytes | None) -> None:
        """What these tables are; statements that depend on them are parsed from now on only. None: it can't be told."""
        self.changed(tables)
        if fingerprint:
            self._fingerprints[tables] = fingerprint

    def changed(self, tables: Tables) -> None:
        """The statements that depend on these tables may mean something else by now."""
        self._fingerprints.pop(tables, None)
        for template in [template for template, known in self.known.items() if known.tables == tables]:
            self.retire(template)

    def give_up_fingerprints(self) -> None:
        """The server doesn't know what they are made of: statements that would need one aren't kept."""
        self.retire()
        self.blind = True

    def surplus(self) -> list[bytes]:
        """Names that are too many or of no use any more; they count as closed from now on."""
        surplus, self._retired = self._retired, []
        surplus += [self.known.popitem(last=False)[1].name for _ in range(len(self.known) - KEPT_STATEMENTS)]
        if len(self._fingerprints) > KEPT_STATEMENTS:
            used = {known.tables for known in self.known.values()}
            self._fingerprints = {tables: found for tables, found in self._fingerprints.items() if tables in used}
        return surplus

    def expire(self, now: float) -> None:
        """Do without all statements if the oldest may be older than `LIFETIME_S`; ``now`` in seconds."""
        if self._since is None:
            self._since = now
        elif now - self._since >= LIFETIME_S:
            self.retire()
            self.blind = False
            self._since = now

    def later(self, names: list[bytes]) -> None:
        """These were surplus, but not closed after all."""
        self._retired.extend(names)

    def retire(self, template: Hashable | None = None) -> None:
        """The one for ``template``, or any of them, is of no use any more.

        The session's settings have changed, so a constant in it may mean something else, or a table has.
        """
        if template is None:
            self._retired.extend(known.name for known in self.known.values())
            self.known.clear()
            self._fingerprints.clear()
            self._forget_wishes()
        elif template in self.known:
            self._retired.append(self.known.pop(template).name)

    def forget(self) -> None:
        """The server no longer has any of them."""
        self.known.clear()
        self._fingerprints.clear()
        self._retired.clear()
        self._forget_wishes()

    def _forget_wishes(self) -> None:
        self._wishes.clear()
        self._granted = 0
