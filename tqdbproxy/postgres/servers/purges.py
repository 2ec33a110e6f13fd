"""Listens for purges that anybody notifies: ``NOTIFY tqdbproxy_purge, 'TAG,TAG'``.

What is notified while nobody listens is lost, so each loss of a connection, and each new one, is told as a gap. The law
of this module: the thread waits and says; whatever is made of it happens on the reactor's side, and nothing of a
listener that has been stopped is heard there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from typing import Any

from tqdbproxy.errors import ProxyError
from tqdbproxy.logs import logger
from tqdbproxy.postgres.relations import EVERYTHING
from tqdbproxy.postgres.servers.channel import PATIENCE, Bell, Patience, Rung, open_channel

log = logger(__name__)

CHANNEL = "tqdbproxy_purge"
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0

CallFromThread = Callable[..., object]
"""Calls a function in the reactor's thread, soon, and in the order of the calls."""


class PurgeListener:
    """Listens in one database. ``name``: whose purges these are, for the log; ``conninfo`` names its servers.

    ``purge`` is called with tags, ``gap`` when something may have been missed: when the connection is lost, and
    whenever it is there, the first time too.
    """

    def __init__(
        self,
        name: str,
        conninfo: str,
        *,
        purge: Callable[[tuple[str, ...]], object],
        gap: Callable[[], object],
        call_from_thread: CallFromThread,
        patience: Patience = PATIENCE,
    ) -> None:
        self.conninfo = conninfo
        self.listening = False
        self.problem = ""
        """Why it doesn't listen, as far as is known."""
        self._name = name
        self._purge = purge
        self._gap = gap
        self._call_from_thread = call_from_thread
        self._patience = patience
        self._bell: Bell | None = None
        """The running thread's."""

    # On the reactor's side

    def start(self) -> None:
        """Begin to listen; the reactor must run."""
        if self._bell is None:
            self._bell = Bell()
            threading.Thread(target=self._work, args=(self._bell,), name=f"purges: {self._name}", daemon=True).start()

    def stop(self) -> None:
        """Listen no more, at once; the thread ends soon, as soon as it isn't looking up a name."""
        bell, self._bell = self._bell, None
        self.listening = False
        if bell is not None:
            bell.ring()

    def _hear(self, bell: Bell, what: Callable[..., None], *arguments: str | bytes) -> None:
        if bell is self._bell:
            what(*arguments)

    def _began(self, place: str) -> None:
        self.listening = True
        self.problem = ""
        log.info("{listener}: listening for purges at {server}", listener=self._name, server=place)
        self._gap()

    def _notified(self, payload: bytes) -> None:
        tags = tags_of(payload)
        log.debug("{listener}: purge of {tags} was notified", listener=self._name, tags=tags)
        if tags:
            self._purge(tags)

    def _ended(self, reason: str) -> None:
        was, self.listening = self.listening, False
        before, self.problem = self.problem, reason
        if was:
            log.warn("{listener}: listening for purges no more: {reason}", listener=self._name, reason=reason)
            self._gap()
        elif not before:
            log.warn("{listener}: can't listen for purges: {reason}", listener=self._name, reason=reason)
        else:
            log.debug("{listener}: still not listening for purges: {reason}", listener=self._name, reason=reason)

    # In the thread

    def _work(self, bell: Bell) -> None:
        say = partial(self._call_from_thread, self._hear, bell)
        pause_s = 0.0
        with closing(bell):
            try:
                while True:
                    began = time.monotonic()
                    reason = self._listen(bell, say)
                    say(self._ended, reason)
                    pause_s = next_pause(pause_s, time.monotonic() - began)
                    bell.wait(pause_s)
            except Rung:
                return

    def _listen(self, bell: Bell, say: Callable[..., Any]) -> str:
        """Until it ends; why it ended. Raises `Rung`."""
        try:
            with closing(open_channel(self.conninfo, CHANNEL, bell, self._patience)) as channel:
                say(self._began, channel.place)
                for payload in channel.payloads():
                    say(self._notified, payload)
            return "nothing more to hear"
        except Rung:
            raise
        except ProxyError as problem:
            return str(problem)
        except Exception as problem:  # whatever it is: who stops trying to listen keeps what should be purged
            return f"{type(problem).__name__}: {problem}"


class PurgeListeners:
    """The listeners of all groups, by group; None: one that purges all groups. They are what the configuration says."""

    def __init__(
        self,
        purge: Callable[[str | None, tuple[str, ...]], object],
        gap: Callable[[str | None], object],
        call_from_thread: CallFromThread,
    ) -> None:
        self._purge = purge
        self._gap = gap
        self._call_from_thread = call_from_thread
        self._listeners: dict[str | None, PurgeListener] = {}
        self._running = False

    def replace(self, conninfos: Mapping[str | None, str]) -> None:
        """From now on, listen so; a listener whose connection string stays the same isn't disturbed."""
        for group, listener in [*self._listeners.items()]:
            if conninfos.get(group) != listener.conninfo:
                listener.stop()
                del self._listeners[group]
        for group, conninfo in conninfos.items():
            if group not in self._listeners:
                self._listeners[group] = self._make(group, conninfo)
        if self._running:
            self.start()

    def start(self) -> None:
        """Begin to listen; the reactor must run."""
        self._running = True
        for listener in self._listeners.values():
            listener.start()

    def stop(self) -> None:
        """Listen no more."""
        self._running = False
        for listener in self._listeners.values():
            listener.stop()

    def problems(self) -> dict[str | None, str]:
        """By group: why its listener doesn't listen; "" if it does."""
        return {
            group: "" if listener.listening else listener.problem or "not connected yet"
            for group, listener in self._listeners.items()
        }

    def _make(self, group: str | None, conninfo: str) -> PurgeListener:
        return PurgeListener(
            "all groups" if group is None else f"group {group}",
            conninfo,
            purge=partial(self._purge, group),
            gap=partial(self._gap, group),
            call_from_thread=self._call_from_thread,
        )


def tags_of(payload: bytes) -> tuple[str, ...]:
    """The tags between the commas of what was notified; what can't be read may mean everything."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:  # from a database without an encoding (SQL_ASCII)
        return EVERYTHING
    return tuple(dict.fromkeys(tag.strip() for tag in text.split(",") if tag.strip()))


def next_pause(before_s: float, lasted_s: float) -> float:
    """How long to wait after an attempt that lasted so long, and before which we had waited so long."""
    if not before_s or lasted_s > LONGEST_PAUSE_S:
        return FIRST_PAUSE_S
    return min(before_s * 2, LONGEST_PAUSE_S)
