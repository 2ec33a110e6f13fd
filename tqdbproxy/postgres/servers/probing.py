"""Finds out how one server is: a hello, or a login of our own if the configuration has credentials for it.

The law of this module: it always comes back with a finding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from tqdbproxy.core.health import Finding, Reach
from tqdbproxy.errors import ServerUnreachable
from tqdbproxy.postgres.servers.dial import Address, Dial
from tqdbproxy.postgres.servers.inquiry import takes_writes
from tqdbproxy.postgres.servers.ping import ping

InThread = Callable[..., Deferred[Any]]
"""Calls a function that blocks in another thread."""


@dataclass(frozen=True, slots=True)
class Means:
    """What is needed to reach and to ask servers: ``dial`` opens connections, ``in_thread`` calls what blocks."""

    dial: Dial
    clock: IReactorTime
    in_thread: InThread


def probe(means: Means, address: Address, conninfo: str, timeout_s: float) -> Deferred[Finding]:
    """How the server at ``address`` is; ``conninfo`` empty: not who takes writes. Never fails."""
    if not conninfo:
        return ping(address, means.dial, means.clock, timeout_s)
    asked = means.in_thread(takes_writes, conninfo, address, timeout_s)
    asked.addCallback(partial(Finding, Reach.UP))
    return asked.addErrback(_not_told, means, address, timeout_s)


def _not_told(failure: Failure, means: Means, address: Address, timeout_s: float) -> Deferred[Finding]:
    """It isn't there; or it is, and doesn't let us in."""
    failure.trap(ServerUnreachable)
    uninvited = Finding(Reach.UP, None, failure.getErrorMessage())
    pinged = ping(address, means.dial, means.clock, timeout_s)
    return pinged.addCallback(lambda found: uninvited if found.reach is Reach.UP else found)
