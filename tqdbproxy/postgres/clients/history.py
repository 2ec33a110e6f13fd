"""What a session has changed about itself, as far as it decides in whose company its writes may run.

Two sessions that have said the same SETs, outside of transactions, and whose servers report the same settings are
alike. What can't be known (SET in a transaction, set_config, SET ROLE, temporary tables ...) makes the session unlike
any other until DISCARD ALL. The law of this module: in doubt, unlike.
"""

from __future__ import annotations

from collections.abc import Hashable
from weakref import WeakValueDictionary

from tqdbproxy.core.statement import Identity
from tqdbproxy.postgres.messages import StartupMessage
from tqdbproxy.postgres.sql import HIDDEN, Change, Effect

UNCOUNTED = frozenset({b"application_name"})
"""Settings that no write depends on."""
EMPTY = b""
"""The value of a setting of the user's own (``app.tenant``) that was set once, and isn't any more."""
ANY = HIDDEN.name
"""Stands for all that may have been set, or not: sessions that have it are alike among themselves alone."""


class Identities:
    """One `Identity` object for equal values, so that batch keys compare and hash quickly.

    It lasts as long as somebody has it: a session, a statement that one has prepared, a group of writes, an answer that
    is kept. So two that live are never equal, and settings that nobody has any more take no memory.
    """

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[object, ...], Identity] = WeakValueDictionary()

    def of(self, *values: object) -> Identity:
        """The identity with these fields, in the order of `Identity`."""
        identity = self._known.get(values)
        if identity is None:
            identity = self._known[values] = Identity(*values)  # type: ignore[arg-type]
        return identity


class History:
    """The changes of one session."""

    __slots__ = (
        "_base",
        "_coming",
        "_identities",
        "_identity",
        "_place",
        "_reported",
        "_set",
        "_spoilt",
        "database",
        "group",
        "known",
        "settings_known",
    )

    def __init__(self, identities: Identities, group: str, startup: StartupMessage, place: Hashable = "") -> None:
        """``place``: where the session's server is, as its connection's other end says."""
        user = startup.option(b"user")
        # Of two values for one setting the server takes the last, and names are equal whatever their case.
        options = {name.lower(): value for name, value in startup.options}
        counted = sorted(options.keys() - UNCOUNTED - {b"user", b"database"})
        self.group = group
        self.database = startup.option(b"database") or user
        self._base = (group, self.database, user, tuple((name, options[name]) for name in counted))
        self._place = place
        self._identities = identities
        self._identity: Identity | None = None
        self._set: dict[bytes, bytes] = {}
        self._coming: list[bytes] = []
        """Settings of the user's own that are there when what is on its way has succeeded."""
        self._reported: dict[bytes, bytes] = {}
        self.known = True
        """False: something was said whose consequences can't be known."""
        self.settings_known = True
        """False: a setting was changed in a transaction, and may have been changed back."""
        self._spoilt = (False, False)
        """Whether `known` and `settings_known` have become False since the last change that `took` will confirm."""

    @property
    def identity(self) -> Identity | None:
        """What this session shares with those that it may be batched with; None while that can't be known."""
        if not (self.known and self.settings_known):
            return None
        if self._identity is None and not self._coming:
            self._identity = self._with(self._set)
        return self._identity

    @property
    def prospect(self) -> Identity | None:
        """What `identity` will be when all settings of the user's own that are on their way have come."""
        if not self._coming or not (self.known and self.settings_known):
            return self.identity
        return self._with({**dict.fromkeys(self._coming, EMPTY), **self._set})

    def _with(self, settings: dict[bytes, bytes]) -> Identity:
        reported = tuple(sorted(self._reported.items()))
        return self._identities.of(*self._base, tuple(sorted(settings.items())), reported, self._place)

    def reported(self, name: bytes, value: bytes) -> None:
        """The server says (ParameterStatus) that a setting has this value."""
        if name not in UNCOUNTED:
            self._reported[name] = value
            self._identity = None

    def sent(self, effect: Effect, *, alone_and_idle: bool) -> Effect | None:
        """A text with ``effect`` is on its way to the server; what `took` must be told of if it succeeds.

        :param alone_and_idle: it is the one statement of its unit, and no transaction is open.
        """
        if effect.change is Change.UNKNOWN:
            self.known = False
            self._spoilt = (True, self._spoilt[1])
        elif alone_and_idle and effect.change is not Change.TOUCH:
            self._spoilt = (False, False)
            return effect
        elif effect.change in (Change.SET, Change.RESET, Change.RESET_ALL):
            self.settings_known = False
            self._spoilt = (self._spoilt[0], True)
        return self._touches(effect)

    def unknowable(self) -> None:
        """Something is on its way that can't be looked into."""
        self.sent(HIDDEN, alone_and_idle=False)

    def _touches(self, effect: Effect) -> Effect | None:
        """What ``effect`` sets may be there from now on, if only with an empty value; until it is over, who knows."""
        names = effect.own
        if ANY in names:
            self._touch(ANY)
        new = [name for name in names if name not in self._set]
        if new and effect.perhaps:
            new = [ANY] if ANY not in self._set else []
        if not new:
            return None
        self._coming += new
        self._identity = None
        return Effect(Change.TOUCH, b" ".join(new))

    def _touch(self, name: bytes) -> None:
        """A setting of the user's own that was there once stays, if only with an empty value."""
        if b"." in name and name not in self._set:
            self._set[name] = EMPTY
            self._identity = None

    def took(self, effect: Effect) -> None:
        """An effect that `sent` has given came about: its unit succeeded."""
        self._identity = None
        if effect.change is Change.TOUCH:
            self._came(effect, effect.own)
        elif effect.change is Change.SET and effect.name not in UNCOUNTED:
            self._set[effect.name] = effect.value
        elif effect.change is Change.RESET:
            self._set.pop(effect.name, None)
            self._touch(effect.name)
        elif effect.change is Change.RESET_ALL:
            self._reset_all()
            self.settings_known = not self._spoilt[1]
        elif effect.change is Change.DISCARD_ALL:
            self._reset_all()
            self.known, self.settings_known = not self._spoilt[0], not self._spoilt[1]

    def failed(self, effect: Effect) -> None:
        """Its unit has failed. How far it came, nobody knows."""
        if effect.change is Change.TOUCH:
            self._came(effect, [ANY])

    def _came(self, effect: Effect, names: list[bytes]) -> None:
        self._identity = None
        for name in effect.own:
            self._coming.remove(name)
        for name in names:
            self._touch(name)

    def _reset_all(self) -> None:
        self._set = {name: EMPTY for name in self._set if b"." in name}
