"""One batch until every member has its result.

A batch that fails has changed nothing. The member whose statement failed is executed alone, where it gets exactly the
error that it would have got without a hint; the others are executed again. After a few rounds, or when it can't be
told who failed, all that are left are executed alone. The law of this module: nothing is executed twice that may have
been committed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from tqdbproxy.core.metrics import Metrics
from tqdbproxy.core.statement import Reason, Strategy
from tqdbproxy.core.writebatch.executor import Beginning, Executor
from tqdbproxy.core.writebatch.types import Alone, Company, Done, Failed, Lost, Outcome, Replied, Result, Unknown, Write

MAX_ROUNDS = 4

log = Logger()


class Batch:
    """The execution of ``writes``; `start` returns when every member has its result or was left to its own session."""

    __slots__ = (
        "_answer",
        "_attempt",
        "_beginning",
        "_executor",
        "_finished",
        "_metrics",
        "_round",
        "_writes",
        "company",
    )

    def __init__(
        self,
        writes: Sequence[Write],
        company: Company,
        executor: Executor,
        metrics: Metrics,
        answer: Callable[[Sequence[Write], Result], None],
        beginning: Beginning | None = None,
    ) -> None:
        """``answer`` gives writes their result; ``beginning``: what the server has of the writes already."""
        self._writes = list(writes)
        self.company = company
        self._executor = executor
        self._beginning = beginning
        self._metrics = metrics
        self._answer = answer
        self._round = 0
        self._finished: Deferred[None] = Deferred()
        self._attempt: Deferred[Outcome] | None = None

    def start(self) -> Deferred[None]:
        """Execute; the result fires when the next batch of the same key may run."""
        if len(self._writes) == 1:
            alone = self._writes.pop()
            self._count(1, Strategy.SINGLE)
            self._answer((alone,), Alone(self.company, self._finished))
        else:
            self._try()
        return self._finished

    def give_up(self) -> None:
        """It takes too long: nobody will know what became of it. A write that is executed alone is not touched."""
        if self._attempt is not None:
            self._attempt.cancel()

    def _try(self) -> None:
        self._round += 1
        beginning, self._beginning = self._beginning, None
        try:
            self._attempt = self._executor.execute(self._writes, beginning)
        except Exception:
            # A fault of the proxy's own must not keep the writes, and all that come behind them, for ever.
            log.failure("a batch of {count} could not be begun; its writes are executed alone", count=len(self._writes))
            self._attempt = succeed(Failed(None))
        self._attempt.addErrback(self._broken).addCallback(self._ended)

    def _broken(self, failure: Failure) -> Outcome:
        """The same while it was under way: nobody knows what became of it."""
        log.failure("a batch of {count} was lost to a fault of the proxy", failure, count=len(self._writes))
        return Lost(sent=True)

    def _ended(self, outcome: Outcome) -> None:
        self._attempt = None
        if isinstance(outcome, Done):
            self._deliver(outcome)
        elif isinstance(outcome, Failed) and outcome.index is not None:
            self._retry(outcome.index)
        elif isinstance(outcome, Failed) or not outcome.sent:
            self._leave(self._writes, None if isinstance(outcome, Failed) else Reason.NO_CONNECTION)
            self._finished.callback(None)
        else:
            self._answer(self._writes, Unknown(self.company))
            self._finished.callback(None)

    def _deliver(self, outcome: Done) -> None:
        company = Company(len(self._writes), self.company.waited_s, outcome.strategy)
        self._count(len(self._writes), outcome.strategy)
        # The next batch first: the server works on it while the clients of this one are answered.
        self._finished.callback(None)
        if outcome.replies.count(outcome.replies[0]) == len(self._writes) and outcome.replies[0] is not None:
            self._answer(self._writes, Replied(outcome.replies[0], company))
            return
        for write, reply in zip(self._writes, outcome.replies, strict=True):
            if reply is None:
                self._leave([write])
            else:
                self._answer((write,), Replied(reply, company))

    def _retry(self, failed: int) -> None:
        """Execute the failed member alone and the others again, as long as there are rounds and others."""
        bad = self._writes.pop(failed)
        if len(self._writes) < 2 or self._round >= MAX_ROUNDS:
            self._leave([bad, *self._writes])
            self._finished.callback(None)
            return
        self._metrics.batch_retries["batch"] += len(self._writes)
        self._try()  # first the many
        self._leave([bad])

    def _leave(self, writes: Sequence[Write], reason: Reason | None = None) -> None:
        self._metrics.batch_retries["forward"] += len(writes)
        company = Company(1, self.company.waited_s, Strategy.SINGLE)
        for write in writes:
            self._count(1, Strategy.SINGLE)
            self._answer((write,), Alone(company, Deferred(), reason))

    def _count(self, writes: int, strategy: Strategy) -> None:
        self._metrics.batch_methods[strategy.value] += 1
        self._metrics.aggregation.note(writes, 1)
