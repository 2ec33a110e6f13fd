"""Groups by batch key, their windows, and the limits of all of them together.

Groups of one key run one after another; groups of different keys know nothing of each other. What is bounded, and
what happens at the end: `Limits.max_pending` writes wait or run in the whole process, the next one is refused (its
session forwards it); a write that waits longer than `Limits.timeout_s` expires; a batch that runs longer is given up.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from math import ceil

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from tqdbproxy.core.metrics import Metrics
from tqdbproxy.core.statement import BatchKey, Strategy
from tqdbproxy.core.writebatch.deadlines import Deadlines
from tqdbproxy.core.writebatch.executor import Executor
from tqdbproxy.core.writebatch.group import Group
from tqdbproxy.core.writebatch.policy import GRACE_S, beginning_of, quorum_reached
from tqdbproxy.core.writebatch.rounds import Batch
from tqdbproxy.core.writebatch.types import Alone, Company, Expired, Limits, Result, Withdrawn, Write

log = Logger()

SWEEP_S = 1.0
"""Seconds between two looks for writes that expired and groups that nobody uses any more."""

UNUSED_S = 5.0
"""A group that has been empty for so long is forgotten, with its memory of recent writers."""


class Manager:
    """Where writes wait. ``clock`` is the reactor or a `twisted.internet.task.Clock`."""

    def __init__(self, limits: Limits, executor: Executor, metrics: Metrics, clock: IReactorTime) -> None:
        self._limits = limits
        self._executor = executor
        self._metrics = metrics
        self._clock = clock
        self._deadlines = Deadlines(clock)
        self._now: Callable[[], float] = clock.seconds
        self._groups: dict[BatchKey, Group] = {}
        self._running: dict[Batch, float] = {}
        self._drained: list[Deferred[None]] = []
        self._closing = False
        self.pending = 0
        self.written = 0
        """Writes that came here, whatever became of them."""
        self.begun = 0
        """Batches that the server began with before all their members were there."""
        self._sweeper = LoopingCall(self._sweep)
        self._sweeper.clock = clock

    @property
    def limits(self) -> Limits:
        """What holds for all that come from now on."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = limits
        for group in self._groups.values():
            group.look_at = 0

    def start(self) -> None:
        """Begin to look after what expires."""
        self._sweeper.start(SWEEP_S, now=False)

    def submit(self, write: Write, in_company: bool = False) -> bool:
        """Let ``write`` wait for company; False if there is no room for it or the manager is closing.

        It hears of its result by `Write.answered`, which may be before this returns. ``in_company``: False, too, if
        nothing of its key waits or runs.
        """
        group: Group = write.group
        if group is None or group.forgotten:
            group = self._join(write, self._now())
        waiting, limits = group.waiting, self._limits
        if self.pending >= limits.max_pending or self._closing or (in_company and not (waiting or group.running)):
            return False
        self.pending += 1
        self.written += 1
        now = write.arrived = self._now()
        recent = group.recent
        if write.writer not in recent.noted or now >= recent.turns_at:
            recent.note(write.writer, now)
            group.look_at = 0
        waiting.append(write)
        group.size += write.size
        deadline = now + write.window_s
        if len(waiting) >= group.look_at or deadline < group.until or group.size >= limits.max_batch_bytes:
            self._consider(group, deadline)
        return True

    def alone(self, write: Write) -> Callable[[], None] | None:
        """Whether ``write`` needs no company: nobody is worth waiting for, and nothing of its key waits or runs.

        Then its session executes it at once and calls the result when it is over; None: `submit` it. What a lone
        writer pays for its hint is this call.
        """
        group: Group = write.group
        if group is None or group.forgotten:
            group = self._join(write, self._now())
        if group.running or group.waiting or self._closing:
            return None
        now = self._now()
        group.recent.note(write.writer, now)
        recent, quorum = group.recent.count, self._limits.quorum
        if not quorum_reached(1, recent, quorum) or (recent > 1 and quorum and not group.patience.spent()):
            return None
        group.running = True
        group.used = now
        self.written += 1
        self._metrics.batch_closed["quorum"] += 1
        self._metrics.batch_size.observe(1)
        self._metrics.batch_delay.observe(0.0)
        self._metrics.batch_methods["single"] += 1
        self._metrics.aggregation.note(1, 1)
        return partial(self._alone_ended, group, now)

    def _join(self, write: Write, now: float) -> Group:
        """The group of the write's key, which it remembers: looking it up costs as much as half of the rest."""
        group = self._groups.get(write.key)
        if group is None:
            group = self._groups[write.key] = Group(write.key, now)
        write.group = group
        return group

    def _alone_ended(self, group: Group, began: float) -> None:
        self._metrics.batch_latency.observe(self._now() - began)
        self._next(group)

    def withdraw(self, write: Write) -> bool:
        """Take out a write that still waits (its result is `Withdrawn`); False if it runs or is done."""
        return self._take_out(write, Withdrawn())

    def forget(self, key: BatchKey, writer: Hashable) -> None:
        """``writer``, who wrote with ``key``, won't any more: nobody need wait for it."""
        group = self._groups.get(key)
        if group is not None:
            group.recent.forget(writer)
            group.look_at = 0
            if group.waiting and not group.running and self._has_quorum(group):
                self._close(group, "quorum")

    def flush(self, key: BatchKey | None = None, why: str = "flush") -> None:
        """Close the windows of all groups, or of ``key``'s, now."""
        groups = list(self._groups.values()) if key is None else [self._groups[key]] if key in self._groups else []
        for group in groups:
            if group.waiting:
                self._close(group, why)

    def groups(self) -> list[Group]:
        """The groups that are in use, to be looked at."""
        return list(self._groups.values())

    def close(self) -> Deferred[None]:
        """Take no more writes, close all windows; fires when every write has its result."""
        self._closing = True
        self.flush(why="shutdown")
        if not self.pending:
            self.stop()
            return succeed(None)
        drained: Deferred[None] = Deferred()
        self._drained.append(drained)
        return drained

    def give_up(self) -> None:
        """Time is up: what waits is withdrawn; members of running batches hear that nobody knows."""
        for group in list(self._groups.values()):
            for write in tuple(group.waiting):
                self._take_out(write, Withdrawn())
        for batch in list(self._running):
            batch.give_up()

    def stop(self) -> None:
        """Stop looking after what expires."""
        if self._sweeper.running:
            self._sweeper.stop()

    def _consider(self, group: Group, deadline: float) -> None:
        """A write was added whose window ends at ``deadline``: close the window, or see that a timer will."""
        waiting = len(group.waiting)
        if waiting >= self._limits.max_batch_size or group.size >= self._limits.max_batch_bytes:
            self._close(group, "full")
        elif not group.running and self._has_quorum(group):
            self._close(group, "quorum")
        elif not group.due and (group.window is None or deadline < group.window.at):
            self._open_window(group, deadline)
        if group.waiting:
            self._look_later(group)

    def _look_later(self, group: Group) -> None:
        """Nothing comes of the next writes of this group until there are some more."""
        limits = self._limits
        group.until = group.window.at if group.window is not None else 0.0
        group.look_at = limits.max_batch_size
        if group.running or not limits.quorum:
            return
        recent = group.recent.count
        enough = ceil(limits.quorum * recent) if group.grace is None else min(recent, group.begins_at or recent)
        group.look_at = min(enough, limits.max_batch_size)

    def _has_quorum(self, group: Group) -> bool:
        """Whether enough wait for a batch, and nobody else is worth waiting for."""
        return quorum_reached(len(group.waiting), group.recent.count, self._limits.quorum) and self._is_time(group)

    def _is_time(self, group: Group) -> bool:
        """A quorum is there. The rest are given time to come, too, if they do as a rule."""
        if group.is_complete or not self._limits.quorum:
            return True
        if group.grace is None:
            if group.patience.spent():
                return True
            group.grace = self._deadlines.call_at(self._now() + GRACE_S, partial(self._close, group, "quorum"))
            group.begins_at = beginning_of(group.recent.count, self._limits.early_start)
        if group.begins_at is not None and len(group.waiting) >= group.begins_at:
            self._begin(group, group.begins_at)
        return False

    def _begin(self, group: Group, count: int) -> None:
        """So many wait while the rest are waited for: the server may begin with them."""
        group.begins_at = None
        try:
            group.beginning = self._executor.begin(group.waiting[:count])
        except Exception:
            log.failure("a batch could not be begun with {count} writes; they wait for the others", count=count)

    def _open_window(self, group: Group, deadline: float) -> None:
        if group.window is not None:
            group.window.cancel()
        group.window = self._deadlines.call_at(deadline, partial(self._window_ended, group))

    def _window_ended(self, group: Group) -> None:
        group.window = None
        self._close(group, "timer")

    def _close(self, group: Group, why: str) -> None:
        group.close_window()
        if group.running:
            group.due = group.due or why
        else:
            self._run(group, why)

    def _run(self, group: Group, why: str) -> None:
        group.due = ""
        group.running = True
        group.look_at = 0
        writes = group.take(self._limits)
        if group.waiting:  # there was no room for these; their windows go on
            self._open_window(group, min(write.arrived + write.window_s for write in group.waiting))
        now = self._now()
        waited = now - writes[0].arrived
        self._metrics.batch_closed[why] += 1
        self._metrics.batch_size.observe(len(writes))
        self._metrics.batch_delay.observe(waited)
        company = Company(len(writes), waited, Strategy.SINGLE)
        beginning, group.beginning = group.beginning, None
        self.begun += beginning is not None
        batch = Batch(writes, company, self._executor, self._metrics, self._answer_all, beginning)
        self._running[batch] = now
        batch.start().addCallback(self._batch_ended, group, batch)

    def _batch_ended(self, _ignored: None, group: Group, batch: Batch) -> None:
        self._metrics.batch_latency.observe(self._now() - self._running.pop(batch))
        self._next(group)

    def _next(self, group: Group) -> None:
        """Nothing of this key runs any more: what waits may be enough for the next batch."""
        group.used = self._now()
        group.running = False
        group.look_at = 0
        if not group.waiting:
            group.due = ""
        elif group.due or self._closing:
            self._close(group, group.due or "shutdown")
        elif group.is_full(self._limits):
            self._close(group, "full")
        elif self._has_quorum(group):
            self._close(group, "quorum")

    def _answer(self, write: Write, result: Result) -> None:
        self._answer_all((write,), result)

    def _answer_all(self, writes: Sequence[Write], result: Result) -> None:
        """The ``writes`` have their result: their places are free."""
        self.pending -= len(writes)
        for write in writes:
            try:
                write.answered(result)
            except Exception:
                # A fault of the proxy's own in one session must not keep the other members' answers from them.
                log.failure("a session could not take the result of its write")
                if isinstance(result, Alone) and not result.finished.called:
                    result.finished.callback(None)  # nobody else would, and the next batch of its key waits for it
        if not self.pending and self._drained:
            self.stop()
            drained, self._drained = self._drained, []
            for waiting in drained:
                waiting.callback(None)

    def _take_out(self, write: Write, result: Result) -> bool:
        group = self._groups.get(write.key)
        if group is None or not group.remove(write):
            return False
        group.look_at = 0
        if not group.waiting:
            group.close_window()
            group.due = ""
        self._answer(write, result)
        return True

    def _sweep(self) -> None:
        now = self._now()
        for group in list(self._groups.values()):
            for write in [w for w in group.waiting if now - w.arrived >= self._limits.timeout_s]:
                self._take_out(write, Expired())
            if not group.waiting and not group.running and now - group.used >= UNUSED_S:
                group.forgotten = True
                del self._groups[group.key]
        for batch, began in list(self._running.items()):
            if now - began >= self._limits.timeout_s:
                batch.give_up()
