"""All groups of servers: which one a new session belongs to, and how they become others while the proxy runs.

The law of this module: sessions keep the server that they have, whatever happens here; what is known of a server and
counted for it stays as long as the proxy runs, so that a reload forgets nothing and no counter falls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from twisted.internet.defer import Deferred, DeferredList, fail, succeed

from tqdbproxy.core.health import Health, Reach
from tqdbproxy.core.overview import ServerView
from tqdbproxy.core.topology import Topology
from tqdbproxy.errors import NotServed
from tqdbproxy.logs import logger, printable
from tqdbproxy.postgres.messages import StartupMessage
from tqdbproxy.postgres.servers.connection import ServerConnection
from tqdbproxy.postgres.servers.counts import Counts
from tqdbproxy.postgres.servers.dial import Address
from tqdbproxy.postgres.servers.group import Member, ServerGroup
from tqdbproxy.postgres.servers.primary import PrimaryServer, ServerTls
from tqdbproxy.postgres.servers.probing import Means, probe
from tqdbproxy.postgres.servers.watch import Watch

log = logger(__name__)

LONGEST_QUESTION_S = 5.0
"""How long a server may take to say how it is, if ``connect_timeout_s`` isn't shorter."""
NO_TLS = ServerTls()


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """``[postgres.NAME]``. ``probe``: a connection string with credentials for the question who takes writes, or ""."""

    name: str
    addresses: tuple[Address, ...]
    databases: tuple[str, ...] = ()
    tls: ServerTls = NO_TLS
    connect_timeout_s: float = 10.0
    probe: str = ""
    probe_interval_s: float = 2.0


@dataclass(slots=True)
class Record:
    """What is known of and counted for one server of one group."""

    health: Health = field(default_factory=Health)
    counts: Counts = field(default_factory=Counts)


class Groups:
    """See the module."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._groups: dict[str, ServerGroup] = {}
        self._plans: dict[str, GroupPlan] = {}
        self._default: str | None = None
        self._topology = Topology({}, None)
        self._records: dict[tuple[str, Address], Record] = {}
        self._told: dict[str, str] = {}
        self._curious: list[Deferred[bool | str]] = []
        """Who waits to hear whether there is a server: however many, each server is asked once."""
        self._running = False

    # Life

    def replace(self, plans: Sequence[GroupPlan], default: str | None) -> None:
        """From now on, new sessions go to these groups; ``default`` serves what none of them claims."""
        self.stop_watching()
        self._plans = {plan.name: plan for plan in plans}
        self._default = default
        self._groups = {plan.name: self._make(plan) for plan in plans}
        self._topology = Topology({plan.name: plan.databases for plan in plans}, default)
        if self._running:
            self.start()

    def start(self) -> None:
        """Begin to look after the servers; the reactor must run."""
        self._running = True
        self._tell()
        for group in self._groups.values():
            group.start()

    def stop_watching(self) -> None:
        """Look after the servers no more."""
        for group in self._groups.values():
            group.stop()

    def _make(self, plan: GroupPlan) -> ServerGroup:
        members = [self._member(plan, address) for address in plan.addresses]
        return ServerGroup(plan.name, members, plan.connect_timeout_s, self._means.clock)

    def _member(self, plan: GroupPlan, address: Address) -> Member:
        record = self._records.setdefault((plan.name, address), Record())
        means = self._means
        timeout_s = plan.connect_timeout_s
        server = PrimaryServer(plan.name, address, plan.tls, timeout_s, means.dial, means.clock, record.counts)
        ask = partial(probe, means, address, plan.probe, min(timeout_s, LONGEST_QUESTION_S))
        watch = Watch(plan.name, str(address), record.health, ask, plan.probe_interval_s, means.clock)
        return Member(server, watch)

    def _tell(self) -> None:
        """One line for each group that is new, another one now, or gone."""
        before, self._told = self._told, {name: self._described(plan) for name, plan in self._plans.items()}
        for name, described in self._told.items():
            if before.get(name) != described:
                log.info("group {group} {described}", group=name, described=described)
        for name in before.keys() - self._told.keys():
            log.info("group {group} takes no new sessions any more", group=name)

    def _described(self, plan: GroupPlan) -> str:
        rest = ["what no other group serves"] if plan.name == self._default else []
        serves = " and ".join([*rest, *([", ".join(plan.databases)] if plan.databases else [])])
        return f"is at {', '.join(map(str, plan.addresses))}, serves {serves or 'no database'}"

    # New sessions

    def connect(self, message: StartupMessage) -> Deferred[ServerConnection]:
        """A connection for a session that begins so, before its login.

        Fails with `NotServed` or `ServerUnreachable`.
        """
        database = (message.option(b"database") or message.option(b"user")).decode(errors="replace")
        name = self._topology.group_of(database)
        if name is None:
            return fail(NotServed(f'no server group serves database "{printable(database)}"'))
        return self._groups[name].connect()

    def connect_default(self) -> Deferred[ServerConnection]:
        """The same to the default group, whatever the session's database: where the console's users log in."""
        if self._default is None:
            return fail(NotServed("there is no default server group"))
        return self._groups[self._default].connect()

    # What operators see

    def ready(self) -> Deferred[bool | str]:
        """True if sessions of any group can begin, as far as is known; else why not, when all servers were asked."""
        if any(group.ready for group in self._groups.values()):
            return succeed(True)
        told: Deferred[bool | str] = Deferred()
        self._curious.append(told)
        if len(self._curious) == 1:
            DeferredList([group.look() for group in self._groups.values()]).addCallback(self._looked)
        return told

    def _looked(self, _asked: object) -> None:
        groups = self._groups.values()
        answer = any(group.promising for group in groups) or "; ".join(group.problem for group in groups)
        curious, self._curious = self._curious, []
        for told in curious:
            told.callback(answer)

    def views(self) -> list[ServerView]:
        """The servers that take new sessions now."""
        return [_view(group, member) for group in self._groups.values() for member in group.members]

    def connections(self) -> int:
        """Server connections, those of former servers too."""
        return sum(record.counts.connections for record in self._records.values())

    def statements(self) -> dict[tuple[str, ...], float]:
        """Statements and batches sent to each group's primary since the start."""
        totals: dict[tuple[str, ...], float] = {}
        for (group, _address), record in self._records.items():
            key = (f"{group}/primary",)
            totals[key] = totals.get(key, 0.0) + record.counts.units + record.counts.batches
        return totals

    def up(self) -> dict[tuple[str, ...], float]:
        """1 for each server that begins sessions, 0 for one that doesn't; by group and address. Only what is known."""
        found = ((key, member.watch.health.state) for key, member in self._members())
        return {key: float(state.reach is Reach.UP) for key, state in found if state.reach is not Reach.UNKNOWN}

    def writable(self) -> dict[tuple[str, ...], float]:
        """1 for each server that takes writes, 0 for one that doesn't; by group and address. Only what is known."""
        found = ((key, member.watch.health.state.writable) for key, member in self._members())
        return {key: float(writable) for key, writable in found if writable is not None}

    def _members(self) -> Iterator[tuple[tuple[str, str], Member]]:
        for group in self._groups.values():
            for member in group.members:
                yield (group.name, str(member.server.address)), member


def _view(group: ServerGroup, member: Member) -> ServerView:
    state, counts = member.watch.health.state, member.server.counts
    healthy = None if state.reach is Reach.UNKNOWN else state.reach is Reach.UP
    problem = state.problem or ("takes no writes" if state.writable is False else "")
    numbers = (counts.connections, counts.units, counts.batches)
    return ServerView(group.name, member.server.name, str(member.server.address), healthy, problem, *numbers)
