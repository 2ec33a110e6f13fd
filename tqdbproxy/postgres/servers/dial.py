"""How a connection to a server is opened, as this package sees it: it is given a function that does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol

from tqdbproxy.addresses import TcpAddress, UnixAddress

Address = TcpAddress | UnixAddress

Dial = Callable[[Address, Protocol, float], Deferred[Any]]
"""Connects a protocol to an address within so many seconds; fails with `ServerUnreachable`."""
