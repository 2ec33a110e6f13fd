"""The prepared statements of a session that the proxy has to know.

Those are the ones whose text is of interest, and the unnamed one where the server doesn't have what its client
believes, because the unit that changed it was batched. The law of this module: it lists a statement only if the server
has confirmed it; where it is forgotten too early, a write is forwarded that could have been batched. But a name that
may still mean a statement that changes its session is in doubt until the server has confirmed that it doesn't.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tqdbproxy.core.statement import Identity
from tqdbproxy.postgres.described import Described
from tqdbproxy.postgres.effects import Change
from tqdbproxy.postgres.messages import close_statement
from tqdbproxy.postgres.sql import Text
from tqdbproxy.postgres.unit import NO_TYPES

CLOSE_UNNAMED = close_statement(b"")
MAX_DOUBTS = 100
"""Names in doubt; if there are more, all are."""
LONGEST_NAME = 62
"""PostgreSQL cuts names after 63 bytes, if it was built as usual: longer ones may mean the same statement."""


@dataclass(frozen=True, slots=True)
class PreparedStatement:
    """Its text, the parameter types that its Parse declared, raw, and what its session was like then.

    That is the ``identity``, or None where it can't be told: constants of some types were read under the settings of
    that moment (``DateStyle``), and are not read again.

    If it is *settled*, ``types`` are those that the server has resolved, and ``columns`` is what it says that the
    statement returns, raw; that is what its client was told, or could have been, and it holds as long as the statement.
    """

    text: Text
    types: bytes = NO_TYPES
    identity: Identity | None = None
    columns: bytes | None = None

    @property
    def matters(self) -> bool:
        """Whether it must not be forgotten before it is gone: whoever executes it changes his session."""
        return self.text.effect.change is not Change.NONE or self.text.deallocates is not None


class Prepared:
    """By name; the unnamed statement's name is empty.

    ``interesting``: whether a Bind has to be looked at. ``unsent``: messages that the server has to get before the
    unnamed statement is used; they have one reply.
    """

    __slots__ = ("_doubts", "_known", "_pending", "_plans", "_unsent_gone", "interesting", "unsent")

    def __init__(self) -> None:
        self._known: dict[bytes, PreparedStatement] = {}
        self._pending: list[tuple[int, bytes, PreparedStatement]] = []
        self._doubts: set[bytes | None] = set()
        """Names that may mean a statement that matters, and may not; None: all."""
        self._plans: list[tuple[int, bytes | None]] = []
        """Whose doubts (None: all) are over if the unit with this number succeeds, in the order sent."""
        self._unsent_gone = 0
        """The unit that makes ``unsent`` needless if it succeeds."""
        self.unsent = b""
        self.interesting = False

    def get(self, name: bytes) -> PreparedStatement | None:
        """The statement of interest called ``name``, if the server has confirmed it."""
        return self._known.get(name)

    def bound(self, name: bytes) -> PreparedStatement | None:
        """The same for a Bind in a unit that may have prepared it just before."""
        for _unit, pending, statement in reversed(self._pending):
            if pending == name:
                return statement
        return self._known.get(name)

    def in_doubt(self, unit: int, name: bytes | None) -> bool:
        """Whether a Bind in this unit may execute a statement that matters, and not the one that `bound` tells.

        What was parsed or closed in the same unit is certain, since the server skips the Bind if that failed. ``name``
        None: it isn't known.
        """
        if name is None or len(name) > LONGEST_NAME:
            return bool(self._doubts) or self._any_matters()
        if not self._doubts or (unit, name) in self._plans:
            return False
        return name in self._doubts or None in self._doubts

    def parsed(self, unit: int, name: bytes, statement: PreparedStatement | None, first: bool = False) -> None:
        """A Parse is on its way in the unit with this number; ``statement`` is None if it is of no interest.

        :param first: nothing in its unit stands before it: then the unnamed statement goes even if it fails.
        """
        self.dropped(name, None if first and not name else unit)
        if statement is not None:
            self._pending.append((unit, name, statement))
            self.interesting = True
            if len(name) > LONGEST_NAME and statement.matters:
                self._doubts.add(None)

    def dropped(self, name: bytes | None, unit: int | None = None) -> None:
        """A Close or DEALLOCATE of ``name`` is on its way, or what does the same; None: of all, but for the unnamed.

        :param unit: with this number; it is gone if that succeeds. 0: nothing will tell. None: it is gone in any case.
        """
        if not self.interesting:
            return
        if name is None:
            for one in self._names() - {b""}:
                self._drop(one, 0)
        else:
            if not name and self.unsent:
                self.unsent = b""
                self._unsent_gone = unit or 0
            self._drop(name, unit)
        if unit and self._doubts:
            self._plans.append((unit, name))
        self._look_again()

    def lost(self) -> None:
        """Something went by that wasn't looked at: any name may mean anything."""
        for name in tuple(self._names()):
            self._drop(name, 0)
        self.unsent = b""
        self._look_again()

    def unit_done(self, unit: int, failed: bool) -> None:
        """The unit with this number is over: what it prepared is there, or can't be relied upon."""
        if not (self._pending or self._plans or self._unsent_gone):
            return
        while self._pending and self._pending[0][0] <= unit:
            _unit, name, statement = self._pending.pop(0)
            if not failed:
                self._known[name] = statement
            elif statement.matters:
                self._doubt(name)
        if self._unsent_gone and self._unsent_gone <= unit:
            if failed and not self.unsent:
                # Skipped or not: what the server has is older than what the client could mean.
                self.unsent = CLOSE_UNNAMED
            self._unsent_gone = 0
        while self._plans and self._plans[0][0] <= unit:
            name_or_all = self._plans.pop(0)[1]
            if not failed:
                self._settle_doubts(name_or_all)
        self._look_again()

    def kept_back(self, unsent: bytes, statement: PreparedStatement | None) -> None:
        """The unnamed statement was changed by a unit that the server didn't see: to ``statement``, or it is gone."""
        self._known.pop(b"", None)
        if statement is not None:
            self._known[b""] = statement
        self.unsent = unsent
        self.interesting = True

    def unsent_before(self, name: bytes) -> bytes:
        """What the server has to get before it is asked about the statement ``name``."""
        return b"" if name else self.unsent

    def settle(self, name: bytes, described: Described) -> None:
        """The server has told what the statement ``name`` is; so it has what had to be sent before."""
        self._known[name] = replace(self._known[name], types=described.types, columns=described.columns)
        if not name:
            self.unsent = b""

    def take_unsent(self) -> bytes:
        """What has to be sent now, since the unnamed statement is about to be used."""
        unsent, self.unsent = self.unsent, b""
        self._look_again()
        return unsent

    def _names(self) -> set[bytes]:
        return {*self._known, *(name for _unit, name, _statement in self._pending)}

    def _any_matters(self) -> bool:
        pending = (statement for _unit, _name, statement in self._pending)
        return any(statement.matters for statement in (*self._known.values(), *pending))

    def _drop(self, name: bytes, unit: int | None) -> None:
        gone = [statement for _unit, pending, statement in self._pending if pending == name]
        if gone:
            self._pending = [entry for entry in self._pending if entry[1] != name]
        if (known := self._known.pop(name, None)) is not None:
            gone.append(known)
        if unit is None:
            self._doubts.discard(name)
        elif any(statement.matters for statement in gone):
            self._doubt(name)

    def _doubt(self, name: bytes) -> None:
        self._doubts.add(name if not name or len(self._doubts) < MAX_DOUBTS else None)

    def _settle_doubts(self, name: bytes | None) -> None:
        """The server has confirmed it, unless there is something newer on its way that concerns the same name."""
        later = {other for _unit, other in self._plans}
        if None in later:
            return
        if name is None:
            self._doubts &= later | {b""}
        elif name not in later:
            self._doubts.discard(name)

    def _look_again(self) -> None:
        self.interesting = bool(self._known or self._pending or self.unsent or self._doubts or self._unsent_gone)
