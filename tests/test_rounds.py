"""One batch until every member has its result: who is tried again, who is left alone, who will never know."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import pytest
from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from tqdbproxy.core.metrics import Metrics
from tqdbproxy.core.statement import BatchKey, Identity, Strategy
from tqdbproxy.core.writebatch.executor import Beginning
from tqdbproxy.core.writebatch.rounds import MAX_ROUNDS, Batch
from tqdbproxy.core.writebatch.types import Alone, Company, Done, Failed, Lost, Outcome, Replied, Result, Unknown, Write

KEY = BatchKey(Identity("main", b"d", b"u", ()), "template")


class Begun:
    count = 2


class Attempts:
    """An executor that keeps what it is told; the test says how each attempt ends."""

    def __init__(self) -> None:
        self.tried: list[str] = []
        self.begun: list[object] = []
        self._running: Deferred[Outcome] | None = None

    def execute(self, writes: Sequence[Write], beginning: object = None) -> Deferred[Outcome]:
        self.begun.append(beginning)
        self.tried.append("".join(write.unit for write in writes))
        self._running = Deferred(lambda attempt: attempt.callback(Lost(sent=True)))
        return self._running

    def end(self, outcome: Outcome) -> None:
        assert self._running is not None
        running, self._running = self._running, None
        running.callback(outcome)


def answer(writes: Iterable[Write], result: Result) -> None:
    for write in writes:
        write.answered(result)


class Members:
    """A batch of one-letter writes."""

    def __init__(self, letters: str, executor: object = None, beginning: Beginning | None = None) -> None:
        self.attempts = Attempts()
        self.results: dict[str, Result] = {}
        self.metrics = Metrics(CollectorRegistry(), clock=Clock().seconds)
        self.writes = [Write(KEY, "template", 1, 0.01, letter, letter) for letter in letters]
        for write in self.writes:
            write.done.addCallback(partial(self.results.__setitem__, write.unit))
        company = Company(len(letters), 0.25, Strategy.SINGLE)
        chosen = executor or self.attempts
        self.batch = Batch(self.writes, company, chosen, self.metrics, answer, beginning)  # type: ignore[arg-type]
        self.finished: list[None] = []
        self.batch.start().addCallback(self.finished.append)

    def kinds(self) -> dict[str, type]:
        return {letter: type(result) for letter, result in self.results.items()}


def done(*replies: str) -> Done:
    return Done(replies, Strategy.PREPARED)


def test_all_is_well() -> None:
    batch = Members("abc")
    assert (batch.results, batch.finished) == ({}, [])
    batch.attempts.end(done("ra", "rb", "rc"))
    company = Company(3, 0.25, Strategy.PREPARED)
    assert batch.results == {letter: Replied("r" + letter, company) for letter in "abc"}
    assert (batch.attempts.tried, batch.finished) == (["abc"], [None])
    assert batch.metrics.batch_methods["prepared"] == 1
    assert batch.metrics.aggregation.factor() == 3.0


def test_a_single_member_is_left_to_its_session_and_the_next_batch_waits_for_it() -> None:
    batch = Members("a")
    alone = batch.results["a"]
    assert isinstance(alone, Alone)
    assert alone.company == Company(1, 0.25, Strategy.SINGLE)
    assert (batch.attempts.tried, batch.finished) == ([], [])
    alone.finished.callback(None)
    assert batch.finished == [None]


def test_the_one_that_failed_is_left_alone_and_the_others_are_tried_again() -> None:
    batch = Members("abcd")
    batch.attempts.end(Failed(2))
    assert batch.kinds() == {"c": Alone}
    assert batch.attempts.tried == ["abcd", "abd"]
    batch.attempts.end(done("ra", "rb", "rd"))
    company = Company(3, 0.25, Strategy.PREPARED)
    assert [batch.results[letter] for letter in "abd"] == [Replied("r" + letter, company) for letter in "abd"]
    assert batch.finished == [None]
    assert batch.metrics.batch_retries == {"batch": 3, "forward": 1}


def test_what_was_begun_belongs_to_the_first_attempt_only() -> None:
    batch = Members("abcd", beginning=Begun())
    batch.attempts.end(Failed(2))
    assert [type(begun) for begun in batch.attempts.begun] == [Begun, type(None)]


def test_a_failed_member_that_runs_alone_holds_nobody_up() -> None:
    batch = Members("abc")
    batch.attempts.end(Failed(0))
    batch.attempts.end(done("rb", "rc"))
    assert batch.finished == [None]
    alone = batch.results["a"]
    assert isinstance(alone, Alone)
    alone.finished.callback(None)


def test_two_of_which_one_failed_are_both_left_alone() -> None:
    batch = Members("ab")
    batch.attempts.end(Failed(1))
    assert (batch.kinds(), batch.finished) == ({"b": Alone, "a": Alone}, [None])
    assert batch.attempts.tried == ["ab"]


def test_after_a_few_rounds_all_are_left_alone() -> None:
    batch = Members("abcdefghi")
    for _ in range(MAX_ROUNDS):
        assert batch.finished == []
        batch.attempts.end(Failed(0))
    assert batch.attempts.tried == ["abcdefghi", "bcdefghi", "cdefghi", "defghi"]
    assert (batch.kinds(), batch.finished) == (dict.fromkeys("abcdefghi", Alone), [None])


@pytest.mark.parametrize("outcome", [Failed(None), Lost(sent=False)])
def test_when_it_can_not_be_told_or_nothing_was_sent_all_are_left_alone(outcome: Outcome) -> None:
    batch = Members("abc")
    batch.attempts.end(outcome)
    assert (batch.kinds(), batch.finished) == (dict.fromkeys("abc", Alone), [None])
    assert (batch.attempts.tried, batch.metrics.batch_retries["forward"]) == (["abc"], 3)


def test_a_lost_connection_leaves_all_in_the_dark_and_nothing_is_tried_again() -> None:
    batch = Members("abc")
    batch.attempts.end(Lost(sent=True))
    unknown = Unknown(Company(3, 0.25, Strategy.SINGLE))
    assert (batch.results, batch.finished) == (dict.fromkeys("abc", unknown), [None])
    assert batch.attempts.tried == ["abc"]


def test_a_connection_lost_in_the_second_round() -> None:
    batch = Members("abc")
    batch.attempts.end(Failed(1))
    batch.attempts.end(Lost(sent=True))
    assert (batch.kinds(), batch.finished) == ({"b": Alone, "a": Unknown, "c": Unknown}, [None])


def test_giving_up_is_a_lost_connection() -> None:
    batch = Members("abc")
    batch.batch.give_up()
    assert (batch.kinds(), batch.finished) == (dict.fromkeys("abc", Unknown), [None])
    batch.batch.give_up()


def test_a_member_that_is_executed_alone_is_not_given_up() -> None:
    batch = Members("a")
    batch.batch.give_up()
    assert (batch.kinds(), batch.finished) == ({"a": Alone}, [])


def test_an_executor_that_answers_at_once() -> None:
    class Quick:
        def __init__(self) -> None:
            self.outcomes: list[Outcome] = [Failed(0), done("rb", "rc")]

        def execute(self, writes: Sequence[Write], beginning: object = None) -> Deferred[Outcome]:
            return succeed(self.outcomes.pop(0))

    batch = Members("abc", Quick())
    assert (batch.kinds(), batch.finished) == ({"a": Alone, "b": Replied, "c": Replied}, [None])


# Faults of the proxy's own


class Faulty:
    """An executor that fails, at once or later."""

    def __init__(self) -> None:
        self.later: Deferred[Outcome] | None = None

    def execute(self, writes: Sequence[Write], beginning: object = None) -> Deferred[Outcome]:
        if self.later is None:
            raise ZeroDivisionError
        return self.later


def test_a_batch_that_can_not_be_begun() -> None:
    with capturedLogs() as events:
        it = Members("abc", Faulty())
    assert it.kinds() == dict.fromkeys("abc", Alone)
    assert it.finished == [None]
    assert [event["log_failure"].type for event in events] == [ZeroDivisionError]


def test_a_batch_that_breaks_while_it_is_under_way() -> None:
    executor = Faulty()
    executor.later = Deferred()
    it = Members("abc", executor)
    with capturedLogs() as events:
        executor.later.errback(ZeroDivisionError())
    assert it.kinds() == dict.fromkeys("abc", Unknown)
    assert it.finished == [None]
    assert [event["log_failure"].type for event in events] == [ZeroDivisionError]
