"""What is on its way between a client and its server: how many units, what they may change, how long they take.

The law of this module: a unit is numbered when it is sent, and what is noted for it takes effect when its
ReadyForQuery has come, if it succeeded.
"""

from __future__ import annotations

from collections.abc import Callable

from tqdbproxy.core.caching import EVERY_TAG
from tqdbproxy.core.metrics import CallerCounts
from tqdbproxy.core.routing import Forward, Route, Rulebook, choose
from tqdbproxy.core.writebatch.types import Company
from tqdbproxy.postgres.clients.changing import Changing
from tqdbproxy.postgres.clients.history import History
from tqdbproxy.postgres.clients.local import LocalView
from tqdbproxy.postgres.clients.prepared import Prepared
from tqdbproxy.postgres.clients.reads import Reads
from tqdbproxy.postgres.clients.status import Status
from tqdbproxy.postgres.clients.tally import Tally
from tqdbproxy.postgres.messages import (
    BIND,
    CLOSE,
    DESCRIBE,
    EXECUTE,
    FAILED_TRANSACTION,
    IDLE,
    PARSE,
    QUERY,
    SYNC,
    TERMINATE,
)
from tqdbproxy.postgres.relations import unite
from tqdbproxy.postgres.sql import EVERYTHING, SOME, Change, Effect, Text, Texts

OPENING = frozenset({PARSE, BIND, DESCRIBE, EXECUTE, CLOSE})
"""After one of these a Sync is still to come."""

REFUSED = frozenset({Change.SET, Change.RESET, Change.RESET_ALL, Change.TOUCH})
"""What statements do that a server refuses in a transaction that has failed."""

MAX_CHANGES = 1000
"""Different things that one transaction may change; if it changes more, all that was read from its database goes."""


class UnderWay:
    """The state of a session.

    ``forget`` is called when the client throws all prepared statements away, ``retire`` when its settings have changed,
    ``inject`` when the proxy adds messages of its own to what is forwarded, with the number of their replies.
    """

    __slots__ = (
        "__weakref__",
        "_book",
        "_changes",
        "_committing",
        "_effects",
        "_forget",
        "_forwarded",
        "_from_memory",
        "_from_memory_stale",
        "_inject",
        "_last",
        "_last_query",
        "_now",
        "_previous",
        "_reads",
        "_retire",
        "_scope",
        "_shard",
        "_skip",
        "_tally",
        "_texts",
        "_timed",
        "changing",
        "done",
        "history",
        "prepared",
        "sent",
        "status",
        "tracked",
        "view",
    )
    """A session has so many attributes that Python would make it a dict of its own, which is slower, and large."""

    def __init__(
        self,
        history: History,
        texts: Texts,
        tally: Tally,
        book: Rulebook,
        now: Callable[[], float],
        forget: Callable[[], None],
        retire: Callable[[], None],
        inject: Callable[[int], None],
        reads: Reads,
    ) -> None:
        self.history = history
        self._book = book
        self._texts = texts
        self._tally = tally
        self._now = now
        self._forget = forget
        self._retire = retire
        self._inject = inject
        self._reads = reads
        self._scope = reads.cache.scope(history.group, history.database)
        self._shard = history.group
        self._forwarded = Status(history.group, "primary")
        self._from_memory = Status(history.group, "cache")
        self._from_memory_stale = Status(history.group, "cache (stale)")
        self._start()

    def _start(self) -> None:
        """Nothing was said yet."""
        self.prepared = Prepared()
        self.changing = Changing()
        self.view = LocalView()
        self.status = IDLE
        self.sent = 0
        self.done = 0
        self.tracked = True
        """False: it can't be known any more how many ReadyForQuery are still to come."""
        self._skip = 0
        """Bytes of the message under way that are still to come."""
        self._previous = SYNC
        """Type of the last message that was passed on."""
        self._last_query = 0
        self._effects: list[tuple[int, Effect]] = []
        self._timed: list[tuple[int, CallerCounts, float]] = []
        self._changes: dict[tuple[str, ...], int] = {}
        """What answers depend on that has been changed, and is to be purged when it is committed; by whom last."""
        self._committing = 0
        """The last unit that may have committed something although it leaves a transaction open."""
        self._last: Status | Company = Status(self._shard)

    def last(self) -> Status:
        """How the last statement was executed."""
        return self._last if isinstance(self._last, Status) else Status.batched(self._shard, self._last)

    @property
    def idle(self) -> bool:
        """Nothing outstanding, no transaction open."""
        return (self.sent == self.done or not self.tracked) and self.status == IDLE and self._previous not in OPENING

    @property
    def terminated(self) -> bool:
        """The client has said that it ends the session."""
        return self._previous == TERMINATE

    @property
    def mid_message(self) -> bool:
        """The last message that was passed on isn't complete."""
        return self._skip > 0

    # What the server says

    def unit_done(self, status: int, failed: bool) -> None:
        """See `servers.connection.Owner`."""
        self.status = status
        self.done = number = self.done + 1
        if self.prepared.interesting:
            self.prepared.unit_done(number, failed)
        if self.changing.plans:
            self.changing.unit_done(number, failed)
        while self._effects and self._effects[0][0] <= number:
            effect = self._effects.pop(0)[1]
            if failed:
                self.history.failed(effect)
                continue
            self.history.took(effect)
            if effect.change is not Change.TOUCH:
                self._retire()
        if self._changes:
            self._settle(number)
        while self._timed and self._timed[0][0] <= number:
            _number, counts, began = self._timed.pop(0)
            counts.latency.observe(self._now() - began)

    def parameter_changed(self, name: bytes, value: bytes) -> None:
        """See `servers.connection.Owner`."""
        self.history.reported(name, value)
        self._retire()

    def _settle(self, number: int) -> None:
        """Units up to this one are over: purge what they changed, unless it may still be rolled back.

        What units under way change, too: it may be the same as what one before them has changed.
        """
        if self.status != IDLE and number > self._committing:
            return
        for tags, last in tuple(self._changes.items()):
            self._scope.purge(tags)
            if last <= number and self.status == IDLE:
                del self._changes[tags]

    def server_lost(self) -> None:
        """See `servers.connection.Owner`."""
        for tags in self._changes:
            self._scope.purge(tags)
        self._changes.clear()

    def watched(self) -> None:
        """From now on it matters what is changed; what is under way or in a transaction wasn't looked at."""
        if self.sent != self.done or self.status != IDLE or self._previous in OPENING or not self.tracked:
            self._changed(EVERYTHING, self.sent + (self._previous in OPENING))

    def _changed(self, tags: tuple[str, ...], number: int) -> None:
        """What these tags stand for is changed by the unit with this number."""
        if len(self._changes) >= MAX_CHANGES and tags not in self._changes:
            tags = unite([*self._changes, tags, EVERYTHING])
            self._changes.clear()
        if tags[0] == EVERY_TAG:
            self._committing = number
        self._changes[tags] = number

    def copy_began(self) -> None:
        """See `servers.connection.Owner`. In the extended protocol the server swallows Syncs during a COPY."""
        if self.done + 1 != self._last_query:
            self.tracked = False

    # What is sent to it

    def _query_sent(self) -> None:
        """A Query is on its way; it destroys the unnamed statement, unless the server skips it behind an error."""
        self.sent += 1
        self._last_query = self.sent
        self._previous = QUERY
        self._last = self._forwarded
        self.prepared.dropped(b"")
        if self.changing.known and self.tracked:
            self.changing.unnamed_gone()

    def _note(self, text: Text, number: int, *, alone: bool) -> None:
        """A text is on its way to the server: remember what it may change."""
        if text.purges:
            self._changed(text.purges, number)
        if text.deallocates is not None:
            self._deallocated(text.deallocates, number, alone=alone)
        if text.effect.change is not Change.NONE and not (text.effect.change in REFUSED and self._refuses(number)):
            for name, tags in text.prepares:  # each of which has an effect: see `effects`
                self.changing.parsed(number, name, tags)
            idle = alone and number == self.done + 1 and self.status == IDLE and self.tracked
            effect = self.history.sent(text.effect, alone_and_idle=idle)
            if effect is not None:
                self._effects.append((number, effect))

    def _deallocated(self, name: bytes, number: int, *, alone: bool) -> None:
        """Who is gone, and who may be: what doesn't exist any more changes nothing, but who knows that?

        Whether what was bound is executed, too, isn't seen in a pipeline.
        """
        one = name if name != SOME else b""
        self.prepared.dropped(one or None, number if alone and name != SOME else 0)
        if name != SOME:
            self.changing.closed(number, name or None)
        if not one:
            self._forget()

    def _refuses(self, number: int) -> bool:
        """Whether the server refuses the unit with this number, since a transaction has failed."""
        return number == self.done + 1 and self.status == FAILED_TRANSACTION and self.tracked

    def _choose(self, text: Text, size: int, *, alone: bool) -> Route:
        return choose(
            text.hints,
            text.is_write,
            text.reason,
            size,
            self._book.rules,
            not_kept=text.read_reason,
            in_transaction=self.status != IDLE,
            alone=alone and self.tracked,
            known=self.history.identity is not None,
        )

    def _excluded(self, route: Route, counts: CallerCounts, number: int) -> None:
        """A statement of interest is forwarded in the unit with this number: note why, and when it began."""
        self._timed.append((number, counts, self._now()))
        if isinstance(route, Forward) and route.reason is not None:
            counts.exclude(route.reason)
            self._last = Status(self._shard, "primary", reason=route.reason)

    def _repair(self) -> bytes:
        """The unnamed statement that the client believes in, if the server lacks it."""
        if self.prepared.unsent:
            self._inject(1)
        return self.prepared.take_unsent()
