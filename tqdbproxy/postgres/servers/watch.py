"""Looks after one server: when it is asked how it is, and what is made of the answer.

The law of this module: one question at a time; every change of what is known is one line in the log.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tqdbproxy.core.health import Change, Finding, Health, Reach
from tqdbproxy.logs import logger

log = logger(__name__)

PAUSE_S = 0.2
"""The shortest time between two questions, however many connections fail."""

Ask = Callable[[], Deferred[Finding]]
"""Asks the server; never fails."""


class Watch:
    """What is known of one server of a group. ``interval_s`` 0: it is never asked, only learnt from."""

    def __init__(
        self, group: str, server: str, health: Health, ask: Ask, interval_s: float, clock: IReactorTime
    ) -> None:
        self.health = health
        self._group = group
        self._server = server
        self._ask = ask
        self._interval_s = interval_s
        self._clock = clock
        self._timer: IDelayedCall | None = None
        self._asking = False
        self._asked = float("-inf")
        self._watching = False

    def start(self) -> None:
        """Ask now, and again and again."""
        self._watching = self._interval_s > 0
        self.hurry()

    def stop(self) -> None:
        """Ask no more."""
        self._watching = False
        self._stop_timer()

    def hurry(self) -> None:
        """Something is wrong there: ask as soon as possible."""
        if self._watching and not self._asking:
            self._again(max(0.0, self._asked + PAUSE_S - self._clock.seconds()))

    def learn(self, finding: Finding, began: float) -> None:
        """Take what an attempt found that ``began`` at this time of the clock."""
        change = self.health.learn(finding, began, self._clock.seconds())
        if change is not None:
            self._tell(change)
        if finding.writable is not None and self._timer is not None:
            self._again(self._interval_s)  # all that a question could find out is known

    def inquire(self) -> Deferred[None]:
        """Somebody wants to know now, whenever the next question would be."""
        return self._ask().addCallback(self.learn, self._clock.seconds())

    def _again(self, delay_s: float) -> None:
        self._stop_timer()
        self._timer = self._clock.callLater(delay_s, self._question)

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _question(self) -> None:
        self._timer = None
        self._asking = True
        self._ask().addCallback(self._answered, self._clock.seconds())

    def _answered(self, finding: Finding, began: float) -> None:
        self._asking = False
        self._asked = self._clock.seconds()
        if self._watching:
            self.learn(finding, began)
            # New sessions are refused until a server that keeps us waiting answers: nobody's patience but ours is used.
            self._again(PAUSE_S if self.health.state.hopeless else self._interval_s)

    def _tell(self, change: Change) -> None:
        state = change.after
        reason = state.problem.removeprefix(f"{self._server}: ")
        keys = {"group": self._group, "server": self._server, "reason": reason}
        if state.reach is Reach.DOWN:
            log.error("group {group}: {server} is down: {reason}", **keys)
        elif state.reach is Reach.REJECTING:
            log.warn("group {group}: {server} takes no connections now: {reason}", **keys)
        elif state.problem:
            log.warn("group {group}: {server} is up, but {reason}", **keys)
        else:
            role = {True: ", takes writes", False: ", takes no writes", None: ""}[state.writable]
            log.info(f"group {{group}}: {{server}} is up{role}", group=self._group, server=self._server)
