"""One group of servers that hold the same databases, of which one takes writes: a session is to find that one.

It is libpq's ``target_session_attrs=read-write``, done for every client. The law of this module: a server is chosen by
what is known when the session begins, another one is tried as long as the client has heard nothing of the login, and
nothing is ever said twice on a client's behalf.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, fail
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from tqdbproxy.core.health import Finding, Reach, State
from tqdbproxy.core.topology import in_order
from tqdbproxy.errors import NotWritable, ProxyError, ServerUnreachable, TlsRefused
from tqdbproxy.postgres.servers.connection import ServerConnection
from tqdbproxy.postgres.servers.login import Login
from tqdbproxy.postgres.servers.ping import CANNOT_CONNECT_NOW
from tqdbproxy.postgres.servers.primary import PrimaryServer
from tqdbproxy.postgres.servers.watch import Watch

STANDBY = {b"on": False, b"off": True}
"""Whether a server takes writes, by what it reports as ``in_hot_standby`` (since version 14). What it says of
``default_transaction_read_only`` may be the role's or the client's own wish, and so tells nothing of the server."""

DENIAL_S = 10.0
"""A standby may be promoted, which only a session can find out where there is no ``probe``: so long after one was
turned away there, the next may try."""


@dataclass(frozen=True, slots=True)
class Member:
    """A server of a group, and who looks after it."""

    server: PrimaryServer
    watch: Watch


class ServerGroup:
    """The servers of ``[postgres.NAME]``, in the order of its ``primary``."""

    def __init__(self, name: str, members: Sequence[Member], connect_timeout_s: float, clock: IReactorTime) -> None:
        self.name = name
        self.members = tuple(members)
        self.connect_timeout_s = connect_timeout_s
        self.clock = clock

    def start(self) -> None:
        """Begin to look after the servers."""
        for member in self.members:
            member.watch.start()

    def stop(self) -> None:
        """Look after them no more; sessions that exist stay."""
        for member in self.members:
            member.watch.stop()

    def connect(self) -> Deferred[ServerConnection]:
        """A connection for a new session, before its login. Fails with `ServerUnreachable`, at once if all are down."""
        states = [member.watch.health.state for member in self.members]
        candidates = [self.members[position] for position in in_order(states)]
        if not candidates:
            return fail(ServerUnreachable("; ".join(state.problem for state in states)))
        return Search(self, candidates).proceed()

    @property
    def ready(self) -> bool:
        """Whether a server answers that takes writes, as far as is known; a single one is taken as it is."""
        return any(self._is_known_good(member.watch.health.state) for member in self.members)

    def _is_known_good(self, state: State) -> bool:
        return state.reach is Reach.UP and (len(self.members) == 1 or state.writable is not False)

    @property
    def promising(self) -> bool:
        """Whether it is ready, or was a standby too long ago to be sure that it is one."""
        known = [member.watch.health for member in self.members if member.watch.health.state.reach is Reach.UP]
        return self.ready or any(self.clock.seconds() - health.denied_at >= DENIAL_S for health in known)

    def look(self) -> Deferred[Any]:
        """Ask the servers now, but those that would keep us waiting for nothing; fires when all have been asked."""
        worth = [member.watch for member in self.members if not member.watch.health.state.hopeless]
        return DeferredList([watch.inquire() for watch in worth])

    @property
    def problem(self) -> str:
        """Why it isn't ready."""
        states = ((member.server.address, member.watch.health.state) for member in self.members)
        return "; ".join(state.problem or f"{address} takes no writes" for address, state in states)


class Search:
    """One session's way through the candidates of its group."""

    def __init__(self, group: ServerGroup, candidates: Sequence[Member]) -> None:
        self._group = group
        self._left = list(candidates)
        self._choosy = len(group.members) > 1
        """With one server there is no choice: its clients get what it is, a standby too."""
        # So that all of them together don't take longer than connect_timeout_s.
        self._timeout_s = group.connect_timeout_s / len(candidates)
        self._problems: list[str] = []

    def proceed(self) -> Deferred[ServerConnection]:
        """Connect to the next candidate that can be reached. Fails with `ServerUnreachable`."""
        member = self._left.pop(0)
        began = self._group.clock.seconds()
        connected = member.server.connect(self._timeout_s)
        return connected.addCallbacks(
            self._connected, self._not_connected, callbackArgs=(member, began), errbackArgs=(member, began)
        )

    def _connected(self, connection: ServerConnection, member: Member, began: float) -> ServerConnection:
        connection.judge = partial(self._judge, member, began)
        connection.elsewhere = self.proceed if self._left else None
        return connection

    def _not_connected(self, failure: Failure, member: Member, began: float) -> Failure | Deferred[ServerConnection]:
        failure.trap(ServerUnreachable)
        if not failure.check(TlsRefused):
            member.watch.learn(Finding(Reach.DOWN, problem=failure.getErrorMessage()), began)
        member.watch.hurry()
        self._problems.append(failure.getErrorMessage())
        return self.proceed() if self._left else Failure(ServerUnreachable("; ".join(self._problems)))

    def _judge(self, member: Member, began: float, login: Login, heard: bool) -> ProxyError | None:
        """A login is over: why this server isn't the right one. ``heard``: the client knows of the login already."""
        if login.done:
            writable = STANDBY.get(login.parameters.get(b"in_hot_standby", b""))
            member.watch.learn(Finding(Reach.UP, writable), began)
            if writable is False and self._choosy:
                self._problems.append(f"{member.server.address} is a standby")
                return NotWritable(f"{'; '.join(self._problems)}: no primary of group {self._group.name} was found")
        elif login.refused.startswith(CANNOT_CONNECT_NOW):
            member.watch.hurry()
            if self._left and not heard:
                self._problems.append(f"{member.server.address}: {login.refused.partition(' ')[2]}")
                return ServerUnreachable(self._problems[-1])
        return None
