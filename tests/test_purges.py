"""What was notified -> tags, the pauses between attempts, and which listeners a configuration leaves alone."""

from __future__ import annotations

from typing import Any

import pytest

from tqdbproxy.postgres.servers import purges
from tqdbproxy.postgres.servers.purges import PurgeListeners, next_pause, tags_of


@pytest.mark.parametrize(
    ("payload", "tags"),
    [
        (b"a", ("a",)),
        (b" a , table:s.b,,\ta ", ("a", "table:s.b")),
        (b"*", ("*",)),
        (b"", ()),
        (b" , ", ()),
        ("größe,日本".encode(), ("größe", "日本")),
        (b"gr\xf6\xdfe", ("*",)),
    ],
)
def test_tags(payload: bytes, tags: tuple[str, ...]) -> None:
    assert tags_of(payload) == tags


def test_pauses_grow_while_attempts_fail_at_once() -> None:
    pauses = [0.0]
    for _ in range(8):
        pauses.append(next_pause(pauses[-1], 0.01))
    assert pauses[1:] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_pauses_begin_again_after_a_connection_that_lasted() -> None:
    assert next_pause(5.0, 60.0) == 0.1
    assert next_pause(1.6, 4.0) == 3.2


class Recorded:
    """A listener that only notes what is done to it."""

    log: list[str]

    def __init__(self, name: str, conninfo: str, **_more: Any) -> None:
        self.name = name
        self.conninfo = conninfo
        self.listening = False
        self.problem = ""

    def start(self) -> None:
        self.log.append(f"start {self.name} {self.conninfo}")

    def stop(self) -> None:
        self.log.append(f"stop {self.name} {self.conninfo}")


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(Recorded, "log", [], raising=False)
    monkeypatch.setattr(purges, "PurgeListener", Recorded)
    return Recorded.log


def test_nothing_begins_before_the_start(events: list[str]) -> None:
    listeners = PurgeListeners(print, print, print)
    listeners.replace({"a": "1"})
    assert events == []
    listeners.start()
    assert events == ["start group a 1"]
    assert listeners.problems() == {"a": "not connected yet"}


def test_a_new_configuration_leaves_alone_what_stays_the_same(events: list[str]) -> None:
    listeners = PurgeListeners(print, print, print)
    listeners.replace({"a": "1", "b": "2", "c": "3"})
    listeners.start()
    events.clear()
    listeners.replace({"a": "1", "b": "9", None: "4"})
    assert [e for e in events if e.startswith("stop")] == ["stop group b 2", "stop group c 3"]
    # Starting what runs does nothing; see test_purge_listener.
    assert set(events[2:]) == {"start group a 1", "start group b 9", "start all groups 4"}
    events.clear()
    listeners.stop()
    assert len(events) == 3
    events.clear()
    listeners.replace({})
    listeners.replace({"a": "1"})
    assert not any(event.startswith("start") for event in events)
