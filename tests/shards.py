"""A world whose servers are reached through groups: an address for each, whose behaviour the test commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.protocol import Protocol

from tests.builders import authentication, backend_key, error, parameter_status, ready, startup
from tests.exchanges import KEPT
from tests.peers import Client, MemoryTransport, Script, World
from tqdbproxy.addresses import TcpAddress
from tqdbproxy.errors import ServerUnreachable
from tqdbproxy.postgres.messages import StartupMessage
from tqdbproxy.postgres.servers.connection import ServerConnection
from tqdbproxy.postgres.servers.dial import Address
from tqdbproxy.postgres.servers.groups import GroupPlan, Groups
from tqdbproxy.postgres.servers.ping import Ping
from tqdbproxy.postgres.servers.probing import Means

NOT_NOW = error("57P03", "the database system is starting up", severity="FATAL")


def login(standby: bool = False) -> bytes:
    """What a server of today says when it lets a client in."""
    return authentication(0) + settled(standby)


def settled(standby: bool = False) -> bytes:
    """The rest of it: settings, key, ready."""
    return parameter_status("in_hot_standby", "on" if standby else "off") + backend_key(b"\0\0\0\1key!") + ready()


class Machine:
    """Where a server may be. ``greeting`` None: nobody is there; empty: it keeps silent."""

    def __init__(self, greeting: bytes | None = b"") -> None:
        self.greeting = greeting
        self.unreachable = False
        """Connections to it neither succeed nor fail by themselves."""
        self.dialled: list[type] = []


class Wire(MemoryTransport):
    def __init__(self, protocol: Protocol, address: Address) -> None:
        super().__init__(protocol)
        self.address = address

    def getPeer(self) -> Any:
        assert isinstance(self.address, TcpAddress)
        return (self.address.host, self.address.port)


class ShardedWorld(World):
    """``a``, ``b`` ...: machines by the name of their host."""

    def __init__(self, *plans: GroupPlan, default: str | None = "main", sizes: Sequence[int] = ()) -> None:
        super().__init__(KEPT, sizes=sizes)
        self.machines: dict[str, Machine] = {}
        self.asked: list[tuple[str, str]] = []
        """Questions with credentials: connection string and host."""
        self.answer: Callable[[str], bool] = lambda _host: True
        self._old: list[Wire] = []
        self.groups = Groups(Means(self._dial, self.clock, self._in_thread))
        self.groups.replace(plans, default)

    def machine(self, name: str, greeting: bytes | None = b"") -> Machine:
        """Put something there."""
        self.machines[name] = Machine(greeting)
        return self.machines[name]

    def enters(self, database: str = "d", **options: str) -> Client:
        """A client has sent its start-up packet, and everything has settled."""
        client = self.accept()
        client.sends(startup(user="u", database=database, **options))
        self.settle()
        return client

    def _connect(self, message: StartupMessage) -> Deferred[Any]:
        return self.groups.connect(message)

    def _dial(self, address: Address, protocol: Protocol, timeout_s: float) -> Deferred[Any]:
        assert isinstance(address, TcpAddress)
        machine = self.machines[address.host]
        machine.dialled.append(type(protocol))
        if machine.unreachable:
            late: Deferred[Any] = Deferred()
            silence = ServerUnreachable(f"{address}: no answer within {timeout_s:g} s")
            self.clock.callLater(timeout_s, late.errback, silence)
            return late
        if machine.greeting is None:
            return fail(ServerUnreachable(f"{address}: Connection refused"))
        wire = Wire(protocol, address)
        wire.connect()
        if isinstance(protocol, Ping):
            self._old.append(wire)
            wire.incoming += [machine.greeting] if machine.greeting else []
        else:
            self._enters(wire, protocol, machine)
        return succeed(wire)

    def _enters(self, wire: Wire, protocol: Protocol, machine: Machine) -> None:
        client = self._moving
        assert client is not None
        assert isinstance(protocol, ServerConnection)
        if isinstance(client.wire, Wire):
            self._old.append(client.wire)
        client.server, client.connection, client.wire = Script(machine.greeting), protocol, wire

    def _in_thread(self, call: object, conninfo: str, address: TcpAddress, _timeout_s: float) -> Deferred[bool]:
        self.asked.append((conninfo, address.host))
        machine = self.machines[address.host]
        if machine.greeting is None:
            return fail(ServerUnreachable(f"{address}: probe: refused"))
        try:
            return succeed(self.answer(address.host))
        except ServerUnreachable as problem:
            return fail(problem)

    def settle(self) -> None:
        self.clock.advance(0)
        super().settle()
        while any(wire.deliver() for wire in self._old):
            pass
