"""Groups, windows and limits, with time by `task.Clock`."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from twisted.logger import capturedLogs

from tests.rigs import IDENTITY, Rig, rig
from tqdbproxy.core.statement import BatchKey
from tqdbproxy.core.writebatch.group import Group
from tqdbproxy.core.writebatch.manager import SWEEP_S, UNUSED_S, Manager
from tqdbproxy.core.writebatch.policy import GRACE_S, MOST_IMPATIENT
from tqdbproxy.core.writebatch.types import (
    Alone,
    Expired,
    Failed,
    Limits,
    Lost,
    Replied,
    Result,
    Unknown,
    Withdrawn,
    Write,
)

# Windows


def test_a_window_ends_when_its_first_write_has_waited_long_enough() -> None:
    it = rig()
    it.write("a1", ms=100)
    it.clock.advance(0.0625)
    it.write("a2", ms=100)
    it.clock.advance(0.03125)
    assert it.server.got == []
    it.clock.advance(0.0078125)
    assert it.server.got == ["a1 a2"]
    assert it.closed == {"timer": 1}
    it.server.ends()
    result = it.results["a1"]
    assert isinstance(result, Replied)
    assert (result.reply, result.company.size, result.company.waited_s) == ("ra1", 2, 0.1015625)


def test_a_hurried_write_ends_the_window_for_all() -> None:
    it = rig()
    it.write("a1", ms=1000)
    it.write("a2", ms=125)
    it.write("a3", ms=500)
    it.clock.advance(0.125)
    assert it.server.got == ["a1 a2 a3"]


def test_groups_of_different_keys_know_nothing_of_each_other() -> None:
    it = rig()
    it.write("a1", "a2", "b1", "b2")
    it.clock.advance(0.125)
    assert it.server.got == ["a1 a2", "b1 b2"]
    it.server.ends("b")
    assert it.kinds() == {"b1": Replied, "b2": Replied}


def test_a_full_group_waits_for_nobody() -> None:
    it = rig(max_batch_size=3)
    it.write("a1", "a2", "a3")
    assert (it.server.got, it.closed) == (["a1 a2 a3"], {"full": 1})


def test_a_group_is_full_by_its_bytes_too() -> None:
    it = rig(max_batch_bytes=100)
    it.write("a1", "a2", size=49)
    assert it.server.got == []
    it.write("a3", size=2)
    assert it.server.got == ["a1 a2 a3"]


def test_a_write_that_is_too_large_for_company_runs_alone() -> None:
    it = rig(max_batch_bytes=100)
    it.write("a1", size=60)
    it.write("a2", size=60)
    it.lone("a1").finished.callback(None)
    it.clock.advance(0.125)
    assert it.kinds() == {"a1": Alone, "a2": Alone}


def test_the_quorum_of_those_who_wrote_lately_is_enough() -> None:
    it = rig(quorum=0.5)
    it.write("a1", writer="A")
    assert it.kinds() == {"a1": Alone}
    it.write("a2", writer="B")
    it.write("a3", writer="C")
    it.write("a4", writer="D")
    assert it.server.got == []
    it.lone("a1").finished.callback(None)
    it.clock.advance(GRACE_S)
    assert (it.server.got, it.closed) == (["a2 a3 a4"], {"quorum": 2})
    it.server.ends()
    it.write("a5", writer="A")
    assert it.server.got == ["a2 a3 a4"]
    it.write("a6", writer="B")
    assert it.server.got[1:] == ["a5 a6"]


def test_the_rest_are_given_time_as_long_as_they_come() -> None:
    it = rig(quorum=0.5)
    crowd = [f"a{writer}" for writer in "ABCD"]
    it.write(*crowd)
    it.lone("aA").finished.callback(None)
    it.write("aA")
    assert it.server.got == ["aB aC aD aA"]
    for _ in range(3):
        it.server.ends()
        it.write(*crowd[:3])
        it.clock.advance(GRACE_S / 2)
        assert it.server.running == {}
        it.write(crowd[3])
        assert it.server.got[-1] == "aA aB aC aD"
    assert it.closed == {"quorum": 5}


def test_who_does_not_come_is_not_waited_for_again_soon() -> None:
    it = rig(quorum=0.5)
    it.write("aA", "aB", "aC")
    it.lone("aA").finished.callback(None)
    waits = []
    for _ in range(20):
        it.clock.advance(GRACE_S)
        it.server.ends()
        it.write("aB", "aC")
        waits.append(not it.server.running)
    began = [number for number, waited in enumerate(waits) if waited]
    assert began == [1, 4, 9, 18], "after 1, 2, 4, 8 batches without"


def test_a_quorum_of_zero_waits_for_nobody() -> None:
    it = rig(quorum=0.0)
    it.write("aA", "aB", "aC")
    it.lone("aA").finished.callback(None)
    assert it.server.got == ["aB aC"]
    it.server.ends()
    it.write("aB")
    assert it.kinds()["aB"] is Alone


def test_a_window_ends_before_the_grace() -> None:
    it = rig(quorum=0.5)
    it.write("aA", "aB", "aC", ms=0.5)
    it.lone("aA").finished.callback(None)
    it.clock.advance(GRACE_S / 2)
    assert (it.server.got, it.closed) == (["aB aC"], {"quorum": 1, "timer": 1})
    it.clock.advance(1)
    assert it.closed == {"quorum": 1, "timer": 1}


def test_a_writer_that_has_gone_is_not_waited_for() -> None:
    it = rig(quorum=1.0)
    key = BatchKey(IDENTITY, "a")
    it.write("aA", "aB", "aC")
    it.lone("aA").finished.callback(None)
    assert it.server.got == []
    it.manager.forget(key, "aA")
    assert it.server.got == ["aB aC"]
    it.manager.forget(key, "aB")
    it.manager.forget(BatchKey(IDENTITY, "unknown"), "aB")
    it.server.ends()
    it.write("aC")
    assert (it.kinds()["aC"], it.closed) == (Alone, {"quorum": 3})


def test_a_lone_writer_never_waits() -> None:
    it = rig(quorum=0.5)
    for number in range(5):
        name = f"a{number}"
        it.write(name, writer="A")
        it.lone(name).finished.callback(None)
        it.clock.advance(0.3)
    assert it.closed == {"quorum": 5}


def test_with_full_windows_even_a_lone_writer_waits() -> None:
    it = rig()
    it.write("a1")
    assert it.results == {}
    it.clock.advance(0.125)
    assert it.kinds() == {"a1": Alone}


def test_flush_closes_windows_now() -> None:
    it = rig()
    it.write("a1", "a2", "b1", "b2", "c1")
    it.manager.flush(BatchKey(IDENTITY, "b"))
    assert it.server.got == ["b1 b2"]
    it.manager.flush(BatchKey(IDENTITY, "unknown"))
    it.manager.flush()
    assert it.server.got == ["b1 b2", "a1 a2"]
    assert (it.kinds(), it.closed) == ({"c1": Alone}, {"flush": 3})


# Looking only where something can come of it


class Careful(Manager):
    """Looks whether a window closes at every write, as if it had no idea when that can be."""

    def _look_later(self, group: Group) -> None:
        group.look_at = 0


LIVES = range(60)


@pytest.mark.parametrize("life", LIVES)
def test_what_is_not_looked_at_changes_nothing(life: int) -> None:
    """Any life of a group: the same batches, at the same times, for the same reasons."""
    chance = Random(life)
    limits = Limits(
        quorum=chance.choice([None, 0.3, 0.5, 1.0]),
        max_batch_size=chance.choice([5, 1000]),
        max_batch_bytes=chance.choice([7, 1000]),
        early_start=4,
    )
    it, careful = Rig(limits), Rig(limits)
    careful.manager = Careful(limits, careful.server, careful.metrics, careful.clock)
    careful.manager.start()
    rigs = (it, careful)
    for number in range(400):
        what, ms, key = chance.random(), chance.choice([5, 5, 5, 1]), chance.choice("aae")
        writer = 1 + chance.randrange(12 if number < 200 else 6)  # half of them are never heard of again
        for each in rigs:
            if what < 0.6:
                each.write(f"{key}{number}", ms=ms, size=1 + writer % 3, writer=writer)
            elif what < 0.8:
                each.clock.advance(ms / 8000)
            elif what < 0.9:
                each.everything_ends()
            elif what < 0.92:
                each.manager.forget(BatchKey(IDENTITY, key), writer)
            elif what < 0.94:
                each.manager.limits = replace(limits, max_batch_size=3 + writer, max_batch_bytes=20 + writer)
            elif what < 0.96:
                each.clock.advance(0.4)
            elif each.writes:
                each.manager.withdraw(each.writes[max(each.writes, key=lambda name: int(name[1:]))])
        assert it.server.got == careful.server.got
        assert it.server.begun == careful.server.begun
    assert it.closed == careful.closed
    assert it.kinds() == careful.kinds()


def test_who_leaves_makes_fewer_than_it_would_begin_with_complete() -> None:
    it = Rig(Limits(quorum=0.5))
    crowd = [f"e{number}" for number in range(40)]
    for _ in range(2 * MOST_IMPATIENT):  # until it is known that all come
        it.write(*crowd)
        for _ in range(2):
            it.clock.advance(GRACE_S)
            it.everything_ends()
    began = len(it.server.got)
    it.write(*crowd[:20])
    for name in crowd[24:]:
        it.manager.forget(BatchKey(IDENTITY, "e"), name)
    assert len(it.server.got) == began
    it.write(*crowd[20:24])
    assert it.server.got[began:] == [" ".join(crowd[:24])]


def test_those_who_wrote_long_ago_are_waited_for_no_more() -> None:
    it = rig(quorum=0.75)
    it.write("aA", "aB", "aC", "aD")
    it.everything_ends()
    it.clock.advance(GRACE_S)
    it.everything_ends()
    it.clock.advance(0.6)
    it.write("aA", ms=9999)
    it.clock.advance(0.6)
    assert it.server.got == ["aB aC aD"]
    it.write("aB", ms=9999)
    assert it.server.got[1:] == ["aA aB"]


def test_a_write_that_wants_company_only_is_refused_where_there_is_none() -> None:
    it = rig(quorum=0.5, max_pending=2)
    first, *others = (Write(BatchKey(IDENTITY, "a"), "a", 1, 0.1, name, name) for name in ("a1", "a2", "a3", "a4"))
    assert not it.manager.submit(first, in_company=True)
    assert (it.manager.pending, it.manager.written) == (0, 0)
    assert it.manager.submit(first)
    assert [it.manager.submit(write, in_company=True) for write in others] == [True, True, False]
    assert (it.manager.pending, it.manager.written) == (2, 3)


# One after another


def test_batches_of_one_key_run_one_after_another() -> None:
    it = rig(max_batch_size=2)
    it.write("a1", "a2", "a3", "a4", "a5", "a6")
    assert it.server.got == ["a1 a2"]
    it.server.ends()
    it.server.ends()
    it.server.ends()
    assert it.server.got == ["a1 a2", "a3 a4", "a5 a6"]
    assert list(it.results) == ["a1", "a2", "a3", "a4", "a5", "a6"]


def test_a_window_that_ends_while_a_batch_runs_closes_when_it_has_ended() -> None:
    it = rig(max_batch_size=3)
    it.write("a1", "a2", "a3", "a4")
    it.clock.advance(0.125)
    it.write("a5")
    assert it.server.got == ["a1 a2 a3"]
    it.server.ends()
    assert (it.server.got[1:], it.closed) == (["a4 a5"], {"full": 1, "timer": 1})


def test_a_window_that_has_not_ended_goes_on_after_the_batch() -> None:
    it = rig(max_batch_size=2)
    it.write("a1", "a2")
    it.clock.advance(0.5)
    it.write("a3", "b1")
    it.server.ends()
    assert it.server.got == ["a1 a2"]
    it.clock.advance(0.125)
    assert it.kinds() == {"a1": Replied, "a2": Replied, "a3": Alone, "b1": Alone}


@pytest.mark.parametrize("quorum", [None, 0.5, 1.0])
def test_what_a_full_batch_leaves_behind_still_has_its_window(quorum: float | None) -> None:
    it = rig(max_batch_size=3, quorum=quorum)
    it.write("a0", writer="first")
    if quorum is None:
        it.clock.advance(0.125)
    it.write(*(f"a{number}" for number in range(1, 8)))
    it.lone("a0").finished.callback(None)
    for _ in range(2):
        it.server.ends()
    assert it.server.got[:2] == ["a1 a2 a3", "a4 a5 a6"]
    it.clock.advance(0.125)
    assert it.kinds()["a7"] is Alone


def test_what_a_batch_full_of_bytes_leaves_behind_still_has_its_window() -> None:
    it = rig(max_batch_bytes=100)
    it.write("a1", "a2", size=40)
    it.write("a3", size=60)
    it.server.ends()
    assert it.server.got == ["a1 a2"]
    it.clock.advance(0.125)
    assert it.kinds()["a3"] is Alone


def test_what_a_full_batch_leaves_behind_does_not_wait_for_a_patient_newcomer() -> None:
    it = rig(max_batch_bytes=100)
    it.write("a1", "a2", size=40, ms=125)
    it.write("a3", size=60, ms=125)
    it.write("a4", ms=1000)
    it.server.ends()
    it.clock.advance(0.125)
    assert it.server.got == ["a1 a2", "a3 a4"]


def test_the_next_batch_waits_for_a_write_that_runs_alone() -> None:
    it = rig()
    it.write("a1")
    it.clock.advance(0.125)
    it.write("a2", "a3")
    it.clock.advance(0.125)
    assert it.server.got == []
    it.lone("a1").finished.callback(None)
    assert it.server.got == ["a2 a3"]


# The server begins while the rest are waited for; in these tests only with a key called e


def crowded(count: int, key: str = "e") -> tuple[Rig, list[str]]:
    """So many are known to write, and a batch of theirs was just executed."""
    it = rig(quorum=0.5, early_start=4)
    crowd = [f"{key}{chr(ord('A') + number)}" for number in range(count)]
    it.write(*crowd)
    it.lone(crowd[0]).finished.callback(None)
    it.write(crowd[0])
    it.server.ends(key)
    it.server.begun.clear()
    it.manager.begun = 0
    return it, crowd


def test_the_server_begins_with_the_first_part() -> None:
    it, crowd = crowded(6)
    it.write(*crowd[:3])
    assert it.server.begun == []
    it.write(crowd[3], crowd[4])
    assert (it.server.begun, it.server.running) == (["eA eB eC eD"], {})
    it.write(crowd[5])
    assert it.server.got[-1] == "eA eB eC eD eE eF"
    assert it.manager.begun == 1


def test_those_who_do_not_come_do_not_keep_what_was_begun() -> None:
    it, crowd = crowded(6)
    it.write(*crowd[:4])
    it.clock.advance(GRACE_S)
    assert it.server.got[-1] == "eA eB eC eD"
    assert it.manager.begun == 1


def test_what_was_begun_can_not_be_withdrawn() -> None:
    it, crowd = crowded(6)
    it.write(*crowd[:5])
    assert not it.manager.withdraw(it.writes["eD"])
    assert it.manager.withdraw(it.writes["eE"])
    it.clock.advance(GRACE_S)
    assert it.server.got[-1] == "eA eB eC eD"


def test_what_can_not_be_begun_is_asked_once() -> None:
    it, crowd = crowded(6, "a")
    it.write(*crowd)
    assert (it.server.begun, it.server.got[-1]) == (["aA aB aC aD"], "aA aB aC aD aE aF")
    assert it.manager.begun == 0


def test_a_fault_while_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    it, crowd = crowded(6)
    monkeypatch.setattr(it.server, "begin", lambda _writes: 1 / 0)
    with capturedLogs() as events:
        it.write(*crowd)
    assert [event["log_failure"].type for event in events] == [ZeroDivisionError]
    assert it.server.got[-1] == "eA eB eC eD eE eF"


@pytest.mark.parametrize("less", [{"max_batch_size": 2}, {"max_batch_bytes": 2}])
def test_limits_that_are_lowered_do_not_cut_what_was_begun(less: dict[str, int]) -> None:
    it, crowd = crowded(6)
    it.write(*crowd[:4])
    it.manager.limits = replace(it.manager.limits, **less)
    it.write(*crowd[4:])
    assert it.server.got[-1] == "eA eB eC eD"


def test_closing_executes_what_was_begun() -> None:
    it, crowd = crowded(6)
    it.write(*crowd[:4])
    it.manager.close()
    assert it.server.got[-1] == "eA eB eC eD"


def test_the_server_may_not_begin() -> None:
    it, crowd = crowded(6)
    it.manager.limits = replace(it.manager.limits, early_start=0)
    it.write(*crowd)
    assert it.server.begun == []


# A lone writer's shortcut


def test_alone_is_for_who_is_alone() -> None:
    it = rig(quorum=0.5)
    finished = it.alone("A")
    assert finished is not None
    assert it.alone("A") is None
    it.write("a1", "a2")
    assert it.server.got == []
    finished()
    it.clock.advance(GRACE_S)
    assert it.server.got == ["a1 a2"]
    assert it.alone("A") is None
    it.server.ends()
    assert it.alone("A") is None, "two others wrote just now"
    it.clock.advance(2)
    assert it.alone("A") is not None
    assert (it.closed, it.metrics.batch_methods["single"]) == ({"quorum": 3}, 2)


def test_alone_is_nobody_where_windows_are_kept() -> None:
    assert rig().alone("A") is None


def test_alone_is_nobody_with_many_others_or_with_some_who_wait() -> None:
    it = rig(quorum=0.5)
    finished = it.alone("A")
    assert finished is not None
    it.write("a1", "a2", "a3")
    finished()
    it.clock.advance(GRACE_S)
    it.server.ends()
    assert it.alone("A") is None
    it.write("a4")
    assert it.alone("B") is None


class Deaf(Write):
    """A write whose session has a fault."""

    def answered(self, result: Result) -> None:
        raise ZeroDivisionError


def test_a_session_that_can_not_take_its_result() -> None:
    it = rig(max_batch_size=3)
    it.manager.submit(Deaf(BatchKey(IDENTITY, "a"), "a", 1, 0.1, "a1", "a1"))
    it.write("a2", "a3")
    with capturedLogs() as events:
        it.server.ends()
    assert it.kinds() == {"a2": Replied, "a3": Replied}
    assert it.manager.pending == 0
    assert [event["log_failure"].type for event in events] == [ZeroDivisionError]


def test_a_session_that_can_not_execute_its_write_alone() -> None:
    it = rig()
    it.manager.submit(Deaf(BatchKey(IDENTITY, "a"), "a", 1, 0.1, "a1", "a1"))
    with capturedLogs() as events:
        it.clock.advance(0.125)
    assert [event["log_failure"].type for event in events] == [ZeroDivisionError]
    it.write("a2", "a3")
    it.clock.advance(0.125)
    assert it.server.got == ["a2 a3"], "the next batch of this key runs"


# Limits and ends


def test_no_more_than_max_pending_wait_or_run() -> None:
    it = rig(max_pending=3, max_batch_size=2)
    assert it.write("a1", "a2", "b1")
    assert not it.write("c1")
    assert it.manager.pending == 3
    it.server.ends()
    assert it.manager.pending == 1
    assert it.write("c2", "c3")
    assert not it.write("c4")


def test_a_write_that_was_withdrawn_is_never_executed() -> None:
    it = rig()
    it.write("a1", "a2", "a3")
    assert it.manager.withdraw(it.writes["a2"])
    assert not it.manager.withdraw(it.writes["a2"])
    assert (it.kinds(), it.manager.pending) == ({"a2": Withdrawn}, 2)
    it.clock.advance(0.125)
    assert it.server.got == ["a1 a3"]
    assert not it.manager.withdraw(it.writes["a1"])
    it.server.ends()
    assert not it.manager.withdraw(it.writes["a1"])


def test_when_the_last_one_is_withdrawn_no_window_is_open() -> None:
    it = rig(max_batch_size=2)
    it.write("a1")
    it.manager.withdraw(it.writes["a1"])
    it.clock.advance(0.5)
    assert (it.server.got, it.closed) == ([], {})
    it.write("a2", "a3", "a4")
    it.clock.advance(0.125)
    it.manager.withdraw(it.writes["a4"])
    it.server.ends()
    assert it.server.got == ["a2 a3"]


def test_a_write_that_waits_too_long_expires() -> None:
    it = rig(timeout_s=2.0, max_batch_size=2)
    it.write("a1", "a2", "a3", "a4", "b1", ms=10_000)
    for _ in range(3):
        it.clock.advance(SWEEP_S)
    assert it.kinds() == {"a1": Unknown, "a2": Unknown, "b1": Expired, "a3": Expired, "a4": Expired}
    assert it.manager.pending == 0


def test_a_batch_that_runs_too_long_is_given_up_and_the_next_one_runs() -> None:
    it = rig(timeout_s=2.0)
    it.write("a1", "a2", ms=0)
    it.clock.advance(0)
    it.clock.advance(1.0)
    it.write("a3", "a4", ms=0)
    it.clock.advance(0)
    it.clock.advance(1.0)
    assert it.kinds() == {"a1": Unknown, "a2": Unknown}
    assert it.server.got == ["a1 a2", "a3 a4"]


def test_after_a_failure_the_next_batch_runs() -> None:
    for outcome in (Failed(None), Failed(0), Lost(sent=True), Lost(sent=False)):
        it = rig(max_batch_size=2)
        it.write("a1", "a2", "a3", "a4")
        it.server.ends(outcome=outcome)
        assert it.server.got == ["a1 a2", "a3 a4"]
        assert set(it.results) == {"a1", "a2"}


def test_groups_that_nobody_uses_are_forgotten() -> None:
    it = rig(quorum=0.5)
    it.write("a1", writer="A")
    it.write("b1", ms=60_000)
    it.lone("a1").finished.callback(None)
    for _ in range(int(UNUSED_S / SWEEP_S) + 1):
        it.clock.advance(SWEEP_S)
    assert [key.template for key in it.manager._groups] == ["b"]
    it.lone("b1").finished.callback(None)
    for _ in range(int(UNUSED_S / SWEEP_S) + 1):
        it.clock.advance(SWEEP_S)
    assert it.manager._groups == {}


def closed(it: Rig) -> list[None]:
    drained: list[None] = []
    it.manager.close().addCallback(drained.append)
    return drained


def test_closing_with_nothing_to_do() -> None:
    it = rig()
    assert closed(it) == [None]
    assert it.clock.getDelayedCalls() == []


def test_closing_executes_what_waits_and_takes_no_more() -> None:
    it = rig(max_batch_size=3)
    it.write("a1", "a2", "a3", "a4", "b1", "c1", "c2")
    drained = closed(it)
    assert it.server.got == ["a1 a2 a3", "c1 c2"]
    assert not it.write("a5")
    assert it.alone("Z", "z") is None
    it.server.ends("a")
    it.server.ends("c")
    assert (it.kinds()["a4"], it.kinds()["b1"]) == (Alone, Alone)
    assert drained == [None]
    it.clock.advance(1)
    assert it.clock.getDelayedCalls() == []


def test_what_a_full_batch_leaves_behind_is_executed_at_once_when_closing() -> None:
    it = rig(max_batch_size=2)
    it.write("a1", "a2", "a3", "a4", "a5")
    drained = closed(it)
    for _ in range(2):
        it.server.ends()
    assert (it.kinds()["a5"], drained) == (Alone, [None])


def test_closing_while_nothing_waits_but_something_runs() -> None:
    it = rig(max_batch_size=2)
    it.write("a1", "a2")
    first, second = closed(it), closed(it)
    assert (first, second) == ([], [])
    it.server.ends()
    assert (first, second) == ([None], [None])
