"""The cache itself: when an answer may be given, who waits for whom, what is dropped."""

from __future__ import annotations

import random
from collections import OrderedDict
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from tqdbproxy.core.caching import (
    ENTRY_OVERHEAD,
    EVERY_TAG,
    EVERYWHERE_TAG,
    MAX_NAMES,
    NAME_OVERHEAD,
    Bounds,
    Cache,
    Entry,
    Fetch,
    Scope,
)
from tqdbproxy.core.statement import CacheKey, Identity

WHO = Identity("main", b"d", b"u", ())
TTL = 10.0


class Waiter:
    """Notes what it is told; leaves the fetch when told, as a session does."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def fetched(self, entry: Entry) -> None:
        self.told.append(entry.answer)

    def not_fetched(self, *, again: bool) -> None:
        self.told.append(again)


class Rig:
    def __init__(self, **bounds: int) -> None:
        self.clock = Clock()
        self.cache = Cache(self.clock, Bounds(**bounds))
        self.scope = self.cache.scope("main", b"d")

    def lead(self, name: str = "a", *tags: str, scope: Scope | None = None, asked: int = 0) -> Fetch:
        return self.cache.lead(key(name), scope or self.scope, tags, asked)

    def keep(self, name: str = "a", *tags: str, size: int = 0, scope: Scope | None = None) -> Entry:
        entry = self.lead(name, *tags, scope=scope).answered(name, size)
        assert entry is not None
        return entry

    def look(self, name: str = "a", ttl: float = TTL) -> str:
        found = self.cache.look(key(name), ttl)
        return "" if found is None else f"{found.entry.answer}{' stale' if found.stale else ''}"

    def kept(self) -> str:
        return "".join(sorted(str(entry.answer) for entry in self.cache._entries.values()))


def key(name: str) -> CacheKey:
    return CacheKey(WHO, name)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_fresh_to_the_last_moment(rig: Rig) -> None:
    assert rig.look() == ""
    rig.keep()
    assert rig.look() == "a"
    rig.clock.advance(9.75)
    assert rig.look() == "a"
    rig.clock.advance(0.25)
    assert rig.look() == "", "the first who asks fetches it"
    assert rig.look(ttl=10.25) == "a", "another's ttl"
    assert rig.look(ttl=0) == ""


def test_age_counts_from_the_beginning_of_the_fetch(rig: Rig) -> None:
    fetch = rig.lead()
    rig.clock.advance(8)
    fetch.answered("a", 1)
    rig.clock.advance(1.5)
    assert rig.look() == "a"
    rig.clock.advance(0.5)
    assert rig.look() == ""


def test_stale_while_somebody_fetches_it(rig: Rig) -> None:
    rig.keep()
    rig.clock.advance(10)
    fetch = rig.lead()
    assert (rig.look(), rig.cache.fetch(key("a"))) == ("a stale", fetch)
    rig.clock.advance(9.75)
    assert rig.look() == "a stale"
    rig.clock.advance(0.25)
    assert rig.look() == "", "twice its ttl: who asks now waits"
    fetch.answered("b", 1)
    rig.clock.advance(-1)
    assert rig.look() == "b"
    assert (rig.cache.counts.stale, rig.cache.counts.refreshes) == (2, 1)


@pytest.mark.parametrize("end", ["failed", "lost"])
def test_a_refresh_that_fails_leaves_what_there_is(rig: Rig, end: str) -> None:
    rig.keep()
    rig.clock.advance(12)
    getattr(rig.lead(), end)()
    assert (rig.look(), rig.cache.fetching) == ("", 0)
    rig.lead()
    assert rig.look() == "a stale"


def test_one_fetch_for_all(rig: Rig) -> None:
    fetch, waiters = rig.lead(), [Waiter() for _ in range(3)]
    for waiter in waiters:
        fetch.join(waiter)
    fetch.leave(waiters[1])
    fetch.leave(waiters[1])
    assert fetch.waiting == 2
    fetch.answered("x", 1)
    assert [waiter.told for waiter in waiters] == [["x"], [], ["x"]]
    assert (rig.look(), rig.cache.fetching, fetch.waiting) == ("x", 0, 0)


@pytest.mark.parametrize(("end", "again"), [("failed", False), ("lost", True)])
def test_no_answer_for_others(rig: Rig, end: str, again: bool) -> None:
    fetch, waiter = rig.lead(), Waiter()
    fetch.join(waiter)
    getattr(fetch, end)()
    assert (waiter.told, rig.cache.fetching, len(rig.cache)) == ([again], 0, 0)


@pytest.mark.parametrize("end", ["answered", "failed", "lost"])
def test_a_fault_of_one_is_not_the_others(rig: Rig, end: str) -> None:
    class Faulty(Waiter):
        def fetched(self, entry: Entry) -> None:
            raise ValueError(entry)

        def not_fetched(self, *, again: bool) -> None:
            raise ValueError(again)

    fetch, before, behind = rig.lead(), Waiter(), Waiter()
    for waiter in (before, Faulty(), behind):
        fetch.join(waiter)
    with capturedLogs() as events:
        if end == "answered":
            assert fetch.answered("x", 1) is not None
        else:
            getattr(fetch, end)()
    assert [event["log_failure"].type for event in events] == [ValueError]
    assert before.told == behind.told == [{"answered": "x", "failed": False, "lost": True}[end]]


def test_a_fetch_ends_once(rig: Rig) -> None:
    for first in ("failed", "lost"):
        fetch, waiter = rig.lead(), Waiter()
        getattr(fetch, first)()
        fetch.join(waiter)
        assert fetch.answered("late", 1) is None
        fetch.failed()
        fetch.lost()
        assert waiter.told == []
    fetch = rig.lead()
    fetch.answered("a", 1)
    fetch.lost()
    assert (fetch.answered("b", 1), rig.look()) == (None, "a")


def test_the_next_one_leads_when_the_first_is_lost(rig: Rig) -> None:
    """What a session does that is told so, while others are yet to be told."""

    class Eager(Waiter):
        fetch: Fetch | None = None

        def not_fetched(self, *, again: bool) -> None:
            super().not_fetched(again=again)
            self.fetch = rig.cache.fetch(key("a"))
            if self.fetch is None:
                self.fetch = rig.lead()
            else:
                self.fetch.join(self)

    first, (one, two, three) = rig.lead(), (Eager(), Eager(), Eager())
    for waiter in (one, two, three):
        first.join(waiter)
    first.lost()
    assert one.fetch is two.fetch is three.fetch is not first
    assert one.fetch is not None
    one.fetch.answered("x", 1)
    assert (one.told, two.told, three.told) == ([True], [True, "x"], [True, "x"])


# Fetches that take too long


class Session(Waiter):
    """One who begins anew if he may, as a session does."""

    def __init__(self, rig: Rig) -> None:
        super().__init__()
        self.rig = rig
        self.led: Fetch | None = None

    def ask(self) -> None:
        found, fetch = self.rig.look(), self.rig.cache.fetch(key("a"))
        if found:
            self.told.append(found)
        elif fetch is not None:
            fetch.join(self)
        else:
            self.led = self.rig.lead()

    def not_fetched(self, *, again: bool) -> None:
        super().not_fetched(again=again)
        if again:
            self.ask()


def crowd(rig: Rig, size: int) -> list[Session]:
    sessions = [Session(rig) for _ in range(size)]
    for session in sessions:
        session.ask()
    return sessions


def test_nobody_waits_for_ever(rig: Rig) -> None:
    hung, one, two, three = crowd(rig, 4)
    rig.clock.advance(4.75)
    assert [session.told for session in (one, two, three)] == [[], [], []]
    rig.clock.advance(0.25)
    assert (one.told, two.told, three.told) == ([True], [True], [True])
    assert (one.led is not None, two.led, three.led) == (True, None, None), "one asks for all"
    rig.clock.advance(4.75)
    assert two.told == [True]
    rig.clock.advance(0.25)
    assert (two.told, three.told) == ([True, False], [True, False]), "and then each for himself"
    assert rig.cache.fetch(key("a")) is None, "nor does anybody join"
    assert hung.led is not None
    hung.led.lost()
    assert one.led is not None
    one.led.failed()
    assert (rig.cache._put_off, rig.clock.getDelayedCalls()) == ({}, [])


def test_the_second_one_answers(rig: Rig) -> None:
    hung, one, two = crowd(rig, 3)
    rig.clock.advance(5)
    assert one.led is not None
    one.led.answered("new", 1)
    assert (two.told, rig.look(), rig.clock.getDelayedCalls()) == ([True, "new"], "new", [])
    rig.clock.advance(1)
    assert hung.led is not None
    hung.led.answered("old", 1)
    assert (rig.look(), len(rig.cache), rig.cache.bytes) == ("new", 1, ENTRY_OVERHEAD + 1)
    rig.scope.purge(("*",))
    assert not rig.scope._tagged


def test_the_first_one_answers_after_all(rig: Rig) -> None:
    """Whoever waits for the second need not go on waiting; it may still be given up, or bring a newer answer."""
    slow, one, two = crowd(rig, 3)
    rig.clock.advance(6)
    assert slow.led is not None
    slow.led.answered("a", 1)
    assert two.told == [True, True, "a"]
    assert one.led is not None
    rig.clock.advance(4)
    one.led.answered("b", 1)
    assert (rig.look(), two.told[3:], rig.clock.getDelayedCalls()) == ("b", [], [])


def test_the_first_one_answers_what_is_too_old_by_then(rig: Rig) -> None:
    slow, one, two = crowd(rig, 3)
    rig.clock.advance(5)
    assert slow.led is not None
    slow.led.began -= 2 * TTL
    slow.led.answered("a", 1)
    assert one.led is not None
    one.led.answered("b", 1)
    assert two.told[-1] == "b"


def test_time_counts_from_the_first_who_waits(rig: Rig) -> None:
    fetch, waiter = rig.lead(), Waiter()
    rig.clock.advance(60)
    assert not rig.clock.getDelayedCalls()
    fetch.join(waiter)
    fetch.join(Waiter())
    assert len(rig.clock.getDelayedCalls()) == 1
    rig.clock.advance(4.75)
    fetch.answered("a", 1)
    assert (waiter.told, rig.clock.getDelayedCalls()) == (["a"], [])


def test_as_long_as_it_takes(rig: Rig) -> None:
    rig.cache.max_wait_s = 0
    fetch, waiter = rig.lead(), Waiter()
    fetch.join(waiter)
    assert not rig.clock.getDelayedCalls()
    rig.cache.max_wait_s = 1
    fetch.join(Waiter())
    rig.clock.advance(1)
    assert waiter.told == [True]


# Purges


def test_a_purge_takes_what_has_one_of_its_tags(rig: Rig) -> None:
    rig.keep("a", "x", "y")
    rig.keep("b", "y")
    rig.keep("c")
    rig.scope.purge(("x", "z"))
    assert rig.kept() == "bc"
    rig.scope.purge(("z",))
    rig.scope.purge(("y", "x"))
    assert rig.kept() == "c"
    rig.scope.purge(("*",))
    assert (rig.kept(), rig.cache.counts.purges, rig.cache.bytes) == ("", 3, 0)
    assert not rig.scope._tagged, "nothing is left"


def test_scopes_are_apart(rig: Rig) -> None:
    others = {"b": rig.cache.scope("main", b"e"), "c": rig.cache.scope("other", b"f")}
    rig.keep("a", "x")
    for name, scope in others.items():
        rig.keep(name, "x", scope=scope)
    assert rig.cache.scope("main", b"d") is rig.scope
    rig.scope.purge(("x",))
    assert rig.kept() == "bc"
    assert rig.cache.purge(["x"], "main") == 1
    assert rig.kept() == "c"
    assert rig.cache.purge(iter(["y", "x"])) == 1


def test_a_database_that_was_given_another_group(rig: Rig) -> None:
    """Its sessions from before write where the new ones read."""
    new = rig.cache.scope("other", b"d")
    for purge in (
        lambda: rig.scope.purge(("x",)),
        lambda: rig.cache.purge(["x"], "main"),
        lambda: rig.cache.purge(["x"], "other"),
    ):
        rig.keep("a", "x", scope=new)
        purge()
        assert rig.kept() == ""


def test_what_all_databases_share(rig: Rig) -> None:
    rig.keep("a", "x")
    rig.keep("b", "y", scope=rig.cache.scope("main", b"e"))
    rig.keep("c", "y", scope=rig.cache.scope("other", b"f"))
    rig.scope.purge((EVERY_TAG, EVERYWHERE_TAG))
    assert (rig.kept(), rig.cache.counts.purges) == ("c", 2)


def test_a_fetch_that_is_purged_serves_those_who_asked_before(rig: Rig) -> None:
    fetch, before, after = rig.lead("a", "x"), Waiter(), Waiter()
    fetch.join(before)
    rig.scope.purge(("x",))
    assert rig.cache.fetch(key("a")) is None
    newer = rig.lead("a", "x")
    newer.join(after)
    entry = fetch.answered("old", 1)
    assert (before.told, after.told, rig.look()) == (["old"], [], "")
    assert entry is not None
    assert not entry.alive
    assert not entry.also({}, "name", 1, 1)
    assert rig.cache.fetch(key("a")) is newer
    newer.answered("new", 1)
    assert (after.told, rig.look(), rig.cache.fetching) == (["new"], "new", 0)
    rig.scope.purge(("x",))
    assert not rig.scope._tagged


def test_the_newer_fetch_may_end_first(rig: Rig) -> None:
    fetch = rig.lead("a", "x")
    rig.scope.purge(("*",))
    rig.lead("a", "x").answered("new", 1)
    fetch.answered("old", 1)
    assert rig.look() == "new"


def test_a_refresh_that_is_purged(rig: Rig) -> None:
    rig.keep("a", "x")
    rig.clock.advance(12)
    fetch = rig.lead("a", "x")
    rig.scope.purge(("x",))
    assert (rig.look(), rig.cache.fetching, len(rig.cache)) == ("", 0, 0)
    fetch.lost()
    assert not rig.scope._tagged


# Bounds


def test_the_least_recently_given_goes_first() -> None:
    rig = Rig(max_bytes=3 * (ENTRY_OVERHEAD + 100))
    for name in "abc":
        rig.keep(name, size=100)
    assert (rig.kept(), rig.cache.bytes) == ("abc", 3 * (ENTRY_OVERHEAD + 100))
    rig.look("a")
    rig.keep("d", size=100)
    assert (rig.kept(), rig.cache.counts.evictions) == ("acd", 1)
    rig.keep("c", size=101)
    assert (rig.kept(), rig.cache.counts.evictions) == ("cd", 2)
    rig.cache.bounds = Bounds(max_bytes=ENTRY_OVERHEAD + 101)
    assert (rig.kept(), rig.cache.bytes) == ("c", ENTRY_OVERHEAD + 101)
    rig.cache.bounds = Bounds(max_bytes=0)
    assert (rig.kept(), rig.cache.bytes, not rig.scope._tagged) == ("", 0, True)


@pytest.mark.parametrize("more", [0, 1])
def test_the_largest_entry(more: int) -> None:
    rig, waiter = Rig(max_entry_bytes=ENTRY_OVERHEAD + 1000), Waiter()
    fetch = rig.lead("a", asked=300)
    fetch.join(waiter)
    entry = fetch.answered("a", 700 + more)
    assert (entry is None, waiter.told) == ((False, ["a"]), (True, [False]))[more]
    assert rig.cache.bytes == (0 if more else ENTRY_OVERHEAD + 1000)


def test_names_live_as_long_as_their_entry() -> None:
    rig = Rig(max_bytes=4 * ENTRY_OVERHEAD)
    register: dict[Any, Any] = {}
    entry = rig.keep(size=10)
    for number in range(MAX_NAMES):
        assert entry.also(register, number, "hit", 5)
    assert not entry.also(register, "one more", "hit", 5)
    assert rig.cache.bytes == ENTRY_OVERHEAD + 10 + MAX_NAMES * (NAME_OVERHEAD + 5)
    rig.keep(size=20)
    assert (register, rig.cache.bytes) == ({}, ENTRY_OVERHEAD + 20)


def test_a_name_that_is_too_much() -> None:
    rig = Rig(max_bytes=ENTRY_OVERHEAD + 100)
    register: dict[Any, Any] = {}
    rig.keep(size=10).also(register, "name", "hit", 1000)
    assert (register, rig.cache.bytes, len(rig.cache)) == ({}, 0, 0)


@pytest.mark.parametrize("seed", range(60))
def test_like_a_plain_model(seed: int) -> None:
    """Random things happen to a cache and to a list; both must tell the same."""
    chance = random.Random(seed)
    rig = Rig(max_bytes=6 * ENTRY_OVERHEAD, max_entry_bytes=3 * ENTRY_OVERHEAD)
    rig.cache.max_wait_s = 0
    model: OrderedDict[str, tuple[str, float, int, frozenset[str]]] = OrderedDict()
    fetches: list[tuple[Fetch, str, float, frozenset[str], list[Waiter]]] = []
    poisoned: set[Fetch] = set()
    version = 0

    def shrink() -> None:
        while sum(size for _, _, size, _ in model.values()) > 6 * ENTRY_OVERHEAD:
            model.popitem(last=False)

    for _ in range(400):
        rig.clock.advance(chance.choice([0.0, 0.25, 1.0, 4.0]))
        now = rig.clock.seconds()
        name = chance.choice("abcdefgh")
        what = chance.choice(["ask", "ask", "ask", "ask", "end", "end", "purge"])
        if what == "ask":
            ttl = chance.choice([2.0, TTL])
            under_way = [f for f in fetches if f[1] == name and f[0] not in poisoned]
            answer, began, _, _ = model.get(name, ("", -100.0, 0, frozenset()))
            stale = now - began >= ttl
            expected = answer if not stale else f"{answer} stale" if now - began < 2 * ttl and under_way else ""
            assert rig.look(name, ttl) == expected
            if expected:
                model.move_to_end(name)
            elif under_way:
                assert rig.cache.fetch(key(name)) is under_way[0][0]
                waiter = Waiter()
                under_way[0][0].join(waiter)
                under_way[0][4].append(waiter)
            else:
                assert rig.cache.fetch(key(name)) is None
                tags = frozenset(chance.sample("xyz", chance.randrange(3)))
                fetches.append((rig.lead(name, *tags), name, now, tags, []))
        elif what == "end" and fetches:
            fetch, name, began, tags, waiters = fetches.pop(chance.randrange(len(fetches)))
            end = chance.choice(["answered", "answered", "answered", "failed", "lost"])
            size = chance.choice([0, 10, ENTRY_OVERHEAD, 2 * ENTRY_OVERHEAD, 2 * ENTRY_OVERHEAD + 1])
            version += 1
            if end == "answered":
                fetch.answered(str(version), size)
                kept = size + ENTRY_OVERHEAD <= 3 * ENTRY_OVERHEAD
                told: Any = str(version) if kept else False
                if kept and fetch not in poisoned:
                    model.pop(name, None)
                    model[name] = (str(version), began, size + ENTRY_OVERHEAD, tags)
                    shrink()
            else:
                getattr(fetch, end)()
                told = end == "lost"
            assert all(waiter.told == [told] for waiter in waiters)
        elif what == "purge":
            tag = chance.choice(["x", "y", "z", "w", "*"])
            rig.scope.purge((tag,))
            for gone in [n for n, entry in model.items() if tag == "*" or tag in entry[3]]:
                del model[gone]
            poisoned |= {f[0] for f in fetches if tag == "*" or tag in f[3]}
        assert list(map(str, (e.answer for e in rig.cache._order))) == [entry[0] for entry in model.values()]
        assert rig.cache.bytes == sum(entry[2] for entry in model.values())
        assert rig.cache.fetching == len([f for f in fetches if f[0] not in poisoned])
    for fetch, *_ in fetches:
        fetch.lost()
    rig.scope.purge(("*",))
    assert (rig.cache.bytes, rig.cache.fetching, rig.scope._tagged) == (0, 0, {})
