"""The proxy's own prepared statements on one server connection.

They have names under a reserved prefix and are few, so that lending a connection leaves no trace that its client could
trip over. The law of this module: it lists only what the server has confirmed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

PREFIX = b"_tqdb_"
KEPT_STATEMENTS = 64
LIFETIME_S = 30.0
"""A prepared statement keeps the parameter types, and the table, that it was parsed with, whatever ALTER TABLE or a new
table in the search path have made of them since. So none is used for longer."""


class Statements:
    """Names by template, the least recently used first.

    A batch may add more than `KEPT_STATEMENTS`; the next one closes the surplus.
    """

    __slots__ = ("_counter", "_known", "_retired", "_since")

    def __init__(self) -> None:
        self._known: OrderedDict[Hashable, bytes] = OrderedDict()
        self._retired: list[bytes] = []
        self._counter = 0
        self._since: float | None = None

    def __contains__(self, template: Hashable) -> bool:
        return template in self._known

    def __len__(self) -> int:
        return len(self._known)

    def use(self, template: Hashable) -> bytes | None:
        """The name of the statement for ``template``, from now on the most recently used one; None: not there."""
        name = self._known.get(template)
        if name is not None:
            self._known.move_to_end(template)
        return name

    def new_name(self) -> bytes:
        """A name that was never used on this connection."""
        self._counter += 1
        return b"%b%d" % (PREFIX, self._counter)

    def add(self, template: Hashable, name: bytes) -> None:
        """The server has confirmed that it has parsed it."""
        self._known[template] = name

    def surplus(self) -> list[bytes]:
        """Names that are too many or of no use any more; they count as closed from now on."""
        surplus, self._retired = self._retired, []
        return surplus + [self._known.popitem(last=False)[1] for _ in range(len(self._known) - KEPT_STATEMENTS)]

    def expire(self, now: float) -> None:
        """Do without all statements if the oldest may be older than `LIFETIME_S`; ``now`` in seconds."""
        if self._since is None:
            self._since = now
        elif now - self._since >= LIFETIME_S:
            self.retire()
            self._since = now

    def later(self, names: list[bytes]) -> None:
        """These were surplus, but not closed after all."""
        self._retired.extend(names)

    def retire(self, template: Hashable | None = None) -> None:
        """The one for ``template``, or any of them, is of no use any more.

        The session's settings have changed, so a constant in it may mean something else, or a table has.
        """
        if template is None:
            self._retired.extend(self._known.values())
            self._known.clear()
        elif template in self._known:
            self._retired.append(self._known.pop(template))

    def forget(self, template: Hashable | None = None) -> None:
        """The server no longer has the one for ``template``, or any of them."""
        if template is None:
            self._known.clear()
            self._retired.clear()
        else:
            self._known.pop(template, None)
