"""The prepared statements of a session that the proxy has to know.

Those are the ones whose text is of interest, and the unnamed one where the server doesn't have what its client
believes, because the unit that changed it was batched. The law of this module: it lists a statement only if the server
has confirmed it; where it is forgotten too early, a write is forwarded that could have been batched.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tqdbproxy.core.statement import Identity
from tqdbproxy.postgres.described import Described
from tqdbproxy.postgres.sql import Text
from tqdbproxy.postgres.unit import NO_TYPES


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


class Prepared:
    """By name; the unnamed statement's name is empty.

    ``interesting``: whether a Bind has to be looked at. ``unsent``: messages that the server has to get before the
    unnamed statement is used; they have one reply.
    """

    __slots__ = ("_known", "_pending", "interesting", "unsent")

    def __init__(self) -> None:
        self._known: dict[bytes, PreparedStatement] = {}
        self._pending: list[tuple[int, bytes, PreparedStatement]] = []
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

    def parsed(self, unit: int, name: bytes, statement: PreparedStatement | None) -> None:
        """A Parse is on its way in the unit with this number; ``statement`` is None if it is of no interest."""
        self.dropped(name)
        if statement is not None:
            self._pending.append((unit, name, statement))
            self.interesting = True

    def dropped(self, name: bytes | None) -> None:
        """A Close or DEALLOCATE of ``name`` (None: of all) is on its way, or what does the same."""
        if not self.interesting:
            return
        if not name:
            self.unsent = b""
        if name is None:
            self._known.clear()
            self._pending.clear()
        else:
            self._known.pop(name, None)
            self._pending = [entry for entry in self._pending if entry[1] != name]
        self._look_again()

    def unit_done(self, unit: int, failed: bool) -> None:
        """The unit with this number is over: what it prepared is there, or can't be relied upon."""
        while self._pending and self._pending[0][0] <= unit:
            _unit, name, statement = self._pending.pop(0)
            if not failed:
                self._known[name] = statement
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

    def _look_again(self) -> None:
        self.interesting = bool(self._known or self._pending or self.unsent)
