"""The books of the manager are right whatever happens: nothing lost, doubled or overtaken, nobody forgotten."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.rigs import rig
from tqdbproxy.core.writebatch.types import (
    Alone,
    Failed,
    Lost,
    Outcome,
)


@settings(max_examples=100, stateful_step_count=40)
class Books(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.it = rig(max_batch_size=3, max_batch_bytes=10, max_pending=12, timeout_s=5.0, quorum=0.5)
        self.number = 0
        self.answered: Counter[str] = Counter()
        self.accepted: list[str] = []
        self.taken_out: set[str] = set()

    @rule(
        key=st.sampled_from("ab"),
        ms=st.sampled_from((0, 60, 125, 1000)),
        size=st.integers(1, 12),
        who=st.integers(0, 4),
    )
    def submit(self, key: str, ms: float, size: int, who: int) -> None:
        self.number += 1
        name = f"{key}{self.number}"
        if self.it.write(name, ms=ms, size=size, writer=who):
            self.accepted.append(name)
            self.it.writes[name].done.addCallback(lambda _result: self.answered.update([name]))

    @precondition(lambda self: self.it.server.running)
    @rule(data=st.data(), outcome=st.sampled_from((None, None, Failed(0), Failed(None), Lost(True), Lost(False))))
    def end(self, data: st.DataObject, outcome: Outcome | None) -> None:
        self.it.server.ends(data.draw(st.sampled_from(sorted(self.it.server.running))), outcome)

    @rule()
    def lone_ones_end(self) -> None:
        for result in list(self.it.results.values()):
            if isinstance(result, Alone) and not result.finished.called:
                result.finished.callback(None)

    @precondition(lambda self: self.accepted)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.accepted))
        if self.it.manager.withdraw(self.it.writes[name]):
            self.taken_out.add(name)

    @rule(seconds=st.sampled_from((0.0625, 0.125, 1.0)))
    def time_passes(self, seconds: float) -> None:
        self.it.clock.advance(seconds)

    @invariant()
    def each_is_answered_once(self) -> None:
        assert all(count == 1 for count in self.answered.values())
        assert self.it.manager.pending == len(self.accepted) - len(self.answered) <= 12

    @invariant()
    def nobody_waits_without_reason(self) -> None:
        for group in self.it.manager._groups.values():
            if group.waiting and not group.running:
                assert group.window is not None
                assert group.window.active
                assert group.window.at <= min(write.arrived + write.window_s for write in group.waiting)

    @invariant()
    def nobody_is_overtaken(self) -> None:
        for group in self.it.manager._groups.values():
            assert [int(write.unit[1:]) for write in group.waiting] == sorted(int(w.unit[1:]) for w in group.waiting)

    @invariant()
    def what_was_taken_out_is_not_executed(self) -> None:
        executed = {name for batch in self.it.server.got for name in batch.split()}
        assert not executed & self.taken_out

    def teardown(self) -> None:
        while self.it.manager.pending:
            self.it.manager.flush()
            for key in list(self.it.server.running):
                self.it.server.ends(key)
            self.lone_ones_end()
        assert set(self.answered) == set(self.accepted)


TestBooks = Books.TestCase
