"""A waiting write, its possible results, and how an attempt to execute a group can end.

The law of this module: records only.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred

from tqdbproxy.core.statement import BatchKey, Reason, Strategy


class Write:
    """One client's write while it waits.

    :param key: writes with one key may be executed together.
    :param template: writes with one template differ in their parameters only.
    :param size: bytes that it adds to a batch.
    :param window_s: the longest that it may wait for company, in seconds.
    :param writer: who writes; anything hashable that stands for the session.
    :param unit: what the wire needs to execute it; the core doesn't look inside.
    """

    __slots__ = ("_done", "_result", "_unit", "arrived", "group", "key", "size", "template", "window_s", "writer")

    def __init__(
        self, key: BatchKey, template: Hashable, size: int, window_s: float, writer: Hashable, unit: Any = None
    ) -> None:
        self.key = key
        self.template = template
        self.size = size
        self.window_s = window_s
        self.writer = writer
        self._unit = unit
        self.arrived = 0.0
        self.group: Any = None
        """Where it waits, or waited last: the manager's own."""
        self._done: Deferred[Result] | None = None
        self._result: Result | None = None

    @property
    def unit(self) -> Any:
        """What the wire needs to execute it."""
        return self._unit

    @property
    def done(self) -> Deferred[Result]:
        """Fires with the result."""
        if self._done is None:
            self._done = Deferred()
            if self._result is not None:
                self._done.callback(self._result)
        return self._done

    def answered(self, result: Result) -> None:
        """Take the result; called once.

        By default it fires ``done``. A wire that has thousands of these a second overrides it: a Deferred costs 1.5 us
        of the 10 us that a batched write takes.
        """
        self._result = result
        if self._done is not None:
            self._done.callback(result)


@dataclass(frozen=True, slots=True)
class Company:
    """In what company a write was executed: members, seconds that the first of them waited, how."""

    size: int
    waited_s: float
    strategy: Strategy


NO_COMPANY = Company(1, 0.0, Strategy.SINGLE)
"""Of a write that was executed at once, by its own session."""


@dataclass(frozen=True, slots=True)
class Replied:
    """It was executed with others; ``reply`` is what the server would have said to this client alone."""

    reply: Any
    company: Company


@dataclass(frozen=True, slots=True)
class Alone:
    """It is to be executed by its own session, as if it had carried no hint.

    ``finished`` must be fired when that is over, whatever came of it: writes with the same key may wait for it.
    ``reason``: why it wasn't batched, if it wasn't for itself.
    """

    company: Company
    finished: Deferred[None]
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """The connection was lost after the batch was sent: it may have been executed or not. Nothing is retried."""

    company: Company


@dataclass(frozen=True, slots=True)
class Expired:
    """It waited longer than ``timeout_s`` and was never executed."""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Its client asked to cancel it while it waited; it was never executed."""


Result = Replied | Alone | Unknown | Expired | Withdrawn


@dataclass(frozen=True, slots=True)
class Done:
    """The batch was committed: one reply for each member, in their order.

    None instead of a reply: the member's statement has changed nothing, but what the server said to it could differ
    from what it would have said alone; so it is executed alone.
    """

    replies: Sequence[Any]
    strategy: Strategy


@dataclass(frozen=True, slots=True)
class Failed:
    """The batch was rolled back. ``index`` is the member whose statement failed, None if that can't be told."""

    index: int | None


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is gone. ``sent`` tells whether the server may have seen any of the batch."""

    sent: bool


Outcome = Done | Failed | Lost


@dataclass(frozen=True, slots=True)
class Limits:
    """Where batching ends (``[write_batch]`` in the configuration). ``quorum`` None: windows are kept to their end.

    ``early_start``: with so many members, at least, the server may begin while the rest get their grace; 0: it may not.
    """

    max_batch_size: int = 1000
    max_batch_bytes: int = 8 * 1024 * 1024
    max_pending: int = 100_000
    quorum: float | None = 0.5
    timeout_s: float = 30.0
    early_start: int = 32
