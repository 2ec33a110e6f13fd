"""Answers by key: fresh, stale, refreshed, purged; one fetch for all who ask at the same time.

An answer is fresh until its age is the asker's ttl, then stale until it is twice that; the first who asks for a stale
one fetches it anew, the others are given what there is. Age counts from the moment in which the fetch began.

Nobody waits for a fetch without end: it may hang, for reasons of its own. Those who have waited long enough begin
another one together, once; if that takes as long, each asks for himself. The first may still bring an answer for all.

The law of this module: it knows when an answer may be given, never what an answer is; an answer that was fetched before
something purged it is given to those alone who asked before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tqdbproxy.core.statement import CacheKey
from tqdbproxy.logs import logger

log = logger(__name__)

EVERY_TAG = "*"
"""The tag that every answer carries."""

EVERYWHERE_TAG = "*\0"
"""The tag of a change that concerns all databases of a server; no client can say it."""

ENTRY_OVERHEAD = 1500
"""Bytes that an entry costs beyond its key's and its answer's (measured: ``docs``, "Caching", "Memory")."""
NAME_OVERHEAD = 250
"""Bytes that each further name of an entry costs beyond the name's own."""
MAX_WAIT_S = 5.0
"""How long anybody waits for another's fetch, if nothing else is said."""
MAX_NAMES = 8
"""Names that one entry may have, so that clients who say the same in ever new ways can't fill the memory."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """``[cache]``: bytes of all answers together and of one, overhead included."""

    max_bytes: int = 256 << 20
    max_entry_bytes: int = 1 << 20


class Waiter(Protocol):
    """Somebody who waits for another's fetch."""

    def fetched(self, entry: Entry) -> None:
        """The answer is there."""

    def not_fetched(self, *, again: bool) -> None:
        """There is none for others. ``again``: it may be asked for like a new one; else he has to ask for himself."""


class Found(NamedTuple):
    """An answer that may be given."""

    entry: Entry
    stale: bool


class _Tagged:
    """What a purge finds by its tags, in its scope."""

    __slots__ = ("scope", "tags")

    def __init__(self, scope: Scope, tags: tuple[str, ...]) -> None:
        self.scope = scope
        self.tags = tags
        scope.enter(self)

    def purge(self) -> None:
        """Something that it depends on has changed."""
        raise NotImplementedError


class Scope:
    """What a tag reaches: the answers from the databases of one name.

    At any time one server group serves that name. ``groups`` are all that ever did: a reload may have given the
    database another group and left it on its server, where sessions from before go on writing.
    """

    __slots__ = ("_cache", "_tagged", "groups")

    def __init__(self, cache: Cache) -> None:
        self._tagged: dict[str, set[_Tagged]] = {}
        self._cache = cache
        self.groups: set[str] = set()

    def purge(self, tags: Iterable[str]) -> None:
        """Drop what depends on one of these."""
        for tag in tags:
            found = self._tagged.get(tag)
            if found:
                for one in tuple(found):
                    one.purge()
                    self._cache.counts.purges += 1
            elif tag == EVERYWHERE_TAG:
                for group in self.groups:
                    self._cache.purge((EVERY_TAG,), group)

    def enter(self, one: _Tagged) -> None:
        """Let purges find it."""
        for tag in (*one.tags, EVERY_TAG):
            self._tagged.setdefault(tag, set()).add(one)

    def leave(self, one: _Tagged) -> None:
        """No purge needs to find it any more."""
        for tag in (*one.tags, EVERY_TAG):
            found = self._tagged.get(tag)
            if found is not None:
                found.discard(one)
                if not found:
                    del self._tagged[tag]


class Entry(_Tagged):
    """One answer. ``alive``: it is still kept. ``began``: its fetch. ``used``: given since it was last looked at."""

    __slots__ = ("_cache", "_names", "alive", "answer", "began", "key", "size")

    def __init__(self, cache: Cache, fetch: Fetch, answer: Any, size: int) -> None:
        super().__init__(fetch.scope, fetch.tags)
        self._cache = cache
        self._names: list[tuple[dict[Any, Any], Hashable]] = []
        self.alive = True
        self.answer = answer
        self.began = fetch.began
        self.key = fetch.key
        self.size = size

    def also(self, register: dict[Any, Any], name: Hashable, value: Any, size: int) -> bool:
        """Keep ``register[name] = value`` as long as this entry lives; False if it has too many names already."""
        if not self.alive or len(self._names) >= MAX_NAMES:
            return False
        register[name] = value
        self._names.append((register, name))
        self._cache.grew(self, size + NAME_OVERHEAD)
        return True

    def purge(self) -> None:
        """See `_Tagged`."""
        self._cache.drop(self)

    def forget(self) -> None:
        """It is no longer kept."""
        self.alive = False
        self.scope.leave(self)
        for register, name in self._names:
            register.pop(name, None)
        self._names.clear()


class Fetch(_Tagged):
    """An answer on its way. One of `answered`, `failed` and `lost` ends it; what comes after is ignored.

    Who asks for the same while it is under way joins it; the client that it began for may leave. ``last``: whoever
    waits for it has waited for another one before.
    """

    __slots__ = ("_cache", "_timer", "_waiting", "asked", "began", "key", "last", "over", "valid")

    def __init__(
        self, cache: Cache, key: CacheKey, scope: Scope, tags: tuple[str, ...], began: float, asked: int, last: bool
    ) -> None:
        super().__init__(scope, tags)
        self.asked = asked
        self._cache = cache
        self._timer: IDelayedCall | None = None
        self._waiting: dict[Waiter, None] = {}
        self.began = began
        self.key = key
        self.last = last
        self.over = False
        self.valid = True
        """Nothing has purged it."""

    @property
    def waiting(self) -> int:
        """How many wait for it."""
        return len(self._waiting)

    def join(self, waiter: Waiter) -> None:
        """Wait for it, but not for ever."""
        self._waiting[waiter] = None
        if self._timer is None:
            self._timer = self._cache.in_time(self._overdue)

    def leave(self, waiter: Waiter) -> None:
        """Wait no longer."""
        self._waiting.pop(waiter, None)

    def answered(self, answer: Any, size: int) -> Entry | None:
        """The answer, of so many bytes; None if it is too large to be kept."""
        if self.over:
            return None
        size += self.asked + ENTRY_OVERHEAD
        if size > self._cache.bounds.max_entry_bytes:
            self.failed()
            return None
        waiting = self._end()
        entry = Entry(self._cache, self, answer, size)
        if self.valid:
            self._cache.keep(entry)
        else:
            entry.forget()
        for waiter in waiting:
            try:
                waiter.fetched(entry)
            except Exception:
                _log_fault()
        later = self._cache.fetch(self.key) if entry.alive else None
        if later is not None:
            later.look_again()
        return entry

    def failed(self) -> None:
        """There is no answer for others: an error, a notice, too many bytes."""
        self._give_up(again=False)

    def lost(self) -> None:
        """Who fetched it is gone: the next who waits may begin anew."""
        self._give_up(again=True)

    def purge(self) -> None:
        """See `_Tagged`: who asks from now on needs a newer one."""
        self.valid = False
        self._cache.detach(self)
        self.scope.leave(self)

    def look_again(self) -> None:
        """There is an answer from elsewhere, which may be new enough for those who wait."""
        _send_away(self._nobody_waits(), again=True)

    def _overdue(self) -> None:
        """They have waited long enough; nobody joins it any more."""
        self._timer = None
        self._cache.put_off(self)
        _send_away(self._nobody_waits(), again=not self.last)

    def _give_up(self, *, again: bool) -> None:
        if not self.over:
            _send_away(self._end(), again=again)

    def _end(self) -> list[Waiter]:
        self.over = True
        self._cache.detach(self)
        if self.valid:
            self.scope.leave(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return self._nobody_waits()

    def _nobody_waits(self) -> list[Waiter]:
        waiting = list(self._waiting)
        self._waiting.clear()
        return waiting


def _send_away(waiting: list[Waiter], *, again: bool) -> None:
    for waiter in waiting:
        try:
            waiter.not_fetched(again=again)
        except Exception:
            _log_fault()


def _log_fault() -> None:
    # A fault of the proxy's own in one session must not keep the others' answers from them.
    log.failure("a session could not take what it had waited for")


class Counts:
    """What has happened to the cache since the start; ``verified`` by result."""

    __slots__ = ("evictions", "purges", "refreshes", "served_bytes", "stale", "verified")

    def __init__(self) -> None:
        self.evictions = 0
        self.purges = 0
        self.refreshes = 0
        self.served_bytes = 0
        self.stale = 0
        self.verified = {"same": 0, "reordered": 0, "different": 0}


class Cache:
    """All answers. ``max_wait_s``: how long anybody waits for another's fetch; 0: as long as it takes."""

    def __init__(self, clock: IReactorTime, bounds: Bounds = Bounds()) -> None:
        self.counts = Counts()
        self.bytes = 0
        self.max_wait_s = MAX_WAIT_S
        self._clock = clock
        self._now = clock.seconds
        self._bounds = bounds
        self._entries: dict[CacheKey, Entry] = {}
        self._order: OrderedDict[Entry, None] = OrderedDict()
        self._fetches: dict[CacheKey, Fetch] = {}
        self._put_off: dict[CacheKey, Fetch] = {}
        """Under way still, but nobody joins them: they have taken too long."""
        self._scopes: dict[Hashable, Scope] = {}
        self.touch: Callable[[Entry], None] = self._order.move_to_end
        """The entry was given to somebody; the least recently given one goes first. Only for one that is alive."""

    def __len__(self) -> int:
        """How many answers are kept."""
        return len(self._entries)

    @property
    def fetching(self) -> int:
        """How many fetches are under way."""
        return len(self._fetches)

    @property
    def bounds(self) -> Bounds:
        """How much may be kept."""
        return self._bounds

    @bounds.setter
    def bounds(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._shrink()

    def scope(self, group: str, database: Hashable) -> Scope:
        """The scope of tags for a database, which this server group serves now."""
        scope = self._scopes.get(database)
        if scope is None:
            scope = self._scopes[database] = Scope(self)
        scope.groups.add(group)
        return scope

    def look(self, key: CacheKey, ttl_s: float) -> Found | None:
        """The answer, if one may be given that is to be fresh for ``ttl_s``; else join the `fetch`, or `lead` one."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        age = self._now() - entry.began
        if age < ttl_s:
            self.touch(entry)
            return Found(entry, stale=False)
        if age < 2 * ttl_s and key in self._fetches:
            self.touch(entry)
            self.counts.stale += 1
            return Found(entry, stale=True)
        return None

    def fetch(self, key: CacheKey) -> Fetch | None:
        """The fetch that is under way, if it is still any good."""
        return self._fetches.get(key)

    def lead(self, key: CacheKey, scope: Scope, tags: tuple[str, ...], asked: int = 0) -> Fetch:
        """Begin a fetch; the caller asks the server now. ``asked``: the bytes of its key."""
        if key in self._entries:
            self.counts.refreshes += 1
        last = key in self._put_off
        fetch = self._fetches[key] = Fetch(self, key, scope, tags, self._now(), asked, last)
        return fetch

    def purge(self, tags: Iterable[str], group: str | None = None) -> int:
        """Drop what depends on one of these tags, in every database of the group (None: of all); how many went."""
        before = self.counts.purges
        tags = tuple(tags)
        for scope in tuple(self._scopes.values()):
            if group is None or group in scope.groups:
                scope.purge(tags)
        return self.counts.purges - before

    # For entries and fetches

    def keep(self, entry: Entry) -> None:
        """Take an entry in, instead of an older one with its key; others may have to go."""
        old = self._entries.get(entry.key)
        if old is not None and old.began > entry.began:
            entry.forget()
            return
        if old is not None:
            self.drop(old)
        self._entries[entry.key] = entry
        self._order[entry] = None
        self.bytes += entry.size
        self._shrink()

    def grew(self, entry: Entry, size: int) -> None:
        """An entry that is kept takes so many bytes more."""
        entry.size += size
        self.bytes += size
        self._shrink()

    def drop(self, entry: Entry) -> None:
        """Keep an entry no longer."""
        if entry.alive:
            del self._entries[entry.key]
            del self._order[entry]
            self.bytes -= entry.size
            entry.forget()

    def detach(self, fetch: Fetch) -> None:
        """Nobody can join a fetch any more."""
        for fetches in (self._fetches, self._put_off):
            if fetches.get(fetch.key) is fetch:
                del fetches[fetch.key]

    def put_off(self, fetch: Fetch) -> None:
        """The same, but it is still under way."""
        self.detach(fetch)
        self._put_off.setdefault(fetch.key, fetch)

    def in_time(self, call: Callable[[], None]) -> IDelayedCall | None:
        """Let a fetch know when those who wait for it have waited long enough; None: never."""
        return self._clock.callLater(self.max_wait_s, call) if self.max_wait_s else None

    def _shrink(self) -> None:
        while self.bytes > self._bounds.max_bytes:
            self.drop(next(iter(self._order)))
            self.counts.evictions += 1
