"""Who is alive: what is known of one server, made of what was found out about it.

The law of this module: pure. It asks nobody, and time is passed in: seconds of a clock that only goes forward.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

QUICK_S = 0.25
"""A server that was found down within so many seconds costs nothing to try again; one that kept us waiting does."""


class Reach(Enum):
    """Whether a server can be talked to. ``REJECTING``: it answers, but begins no sessions now (it starts or stops)."""

    UNKNOWN = "unknown"
    UP = "up"
    REJECTING = "rejecting"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one attempt told. ``writable`` None: nothing of that; ``problem``: what was wrong, for people."""

    reach: Reach
    writable: bool | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """What is known of a server. ``writable`` False: it is a standby, or read-only; None: not known.

    ``slow``: it took more than `QUICK_S` to find out that it is down. ``since``: when it began to take writes; 0.0 if
    it was never seen otherwise.
    """

    reach: Reach = Reach.UNKNOWN
    writable: bool | None = None
    problem: str = ""
    slow: bool = False
    since: float = 0.0

    @property
    def hopeless(self) -> bool:
        """To try it again would keep somebody waiting for nothing."""
        return self.reach is Reach.DOWN and self.slow


@dataclass(frozen=True, slots=True)
class Change:
    """A state followed another in a way that an operator must know."""

    before: State
    after: State


class Health:
    """One server's state, and how it changes."""

    __slots__ = ("_others", "_well_at", "denied_at", "state")

    def __init__(self) -> None:
        self.state = State()
        self.denied_at = float("-inf")
        """When it was last found to take no writes."""
        self._well_at = float("-inf")
        self._others = False
        """It was seen down, or as a standby: another server may have taken its place."""

    def learn(self, finding: Finding, began: float, now: float) -> Change | None:
        """Take what was found by an attempt that ``began`` then; the change if it is one to be told."""
        before = self.state
        if finding.reach is Reach.DOWN and began < self._well_at:
            return None  # a session got through since then: the attempt is out of date
        if finding.reach is Reach.UP:
            self._well_at = now
        writable = finding.writable
        if writable is False:
            self.denied_at = now
        if writable is None and finding.reach is Reach.UP:
            writable = before.writable  # it was up all the time: who restarts as something else is down in between
        slow = finding.reach is Reach.DOWN and now - began > QUICK_S
        since = before.since if before.writable else now if self._others else 0.0
        self._others = self._others or finding.reach is not Reach.UP or writable is False
        self.state = State(finding.reach, writable, finding.problem, slow, since if writable else 0.0)
        return Change(before, self.state) if _is_news(before, self.state) else None


def _is_news(before: State, after: State) -> bool:
    """Words that differ are no news of a server that is down: it may be refused now and out of reach then."""
    if after.reach is not Reach.UP:
        return before.reach is not after.reach
    return after != replace(before, slow=False)
