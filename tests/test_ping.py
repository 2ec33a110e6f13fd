"""What a server's first word tells of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock

from tests import builders as m
from tests.peers import MemoryTransport
from tqdbproxy.addresses import TcpAddress
from tqdbproxy.core.health import Finding, Reach
from tqdbproxy.errors import ServerUnreachable
from tqdbproxy.postgres.messages import StartupMessage
from tqdbproxy.postgres.servers.dial import Address
from tqdbproxy.postgres.servers.ping import ping

DB = TcpAddress("db", 5432)
UP = Finding(Reach.UP)


def down(why: str) -> Finding:
    return Finding(Reach.DOWN, problem=f"db:5432: {why}")


NO_POSTGRES = down("what answers is not PostgreSQL")
WITHOUT_A_WORD = down("closed the connection without a word")

# What the server says before it closes, or before nothing more comes -> what that tells.
WORDS: dict[str, tuple[bytes, Finding]] = {
    "trust": (m.authentication(0) + m.ready(), UP),
    "a password": (m.authentication(10, b"SCRAM-SHA-256\0\0"), UP),
    "a newer protocol": (m.message(b"v", bytes(8)), UP),
    "nobody of this name": (m.error("28000", "role does not exist", severity="FATAL"), UP),
    "too many": (m.error("53300", severity="FATAL"), UP),
    "starting": (
        m.error("57P03", "the database system is starting up", severity="FATAL"),
        Finding(Reach.REJECTING, problem="db:5432: the database system is starting up"),
    ),
    "half an error": (m.error("57P03")[:-1], WITHOUT_A_WORD),
    "a long story": (m.lying(b"E", 70000, b"SFATAL"), NO_POSTGRES),
    "an old server's error": (b"EFATAL: the database is starting up\n\0", NO_POSTGRES),
    "a length that lies": (m.lying(b"E", 3), NO_POSTGRES),
    "nothing": (b"", WITHOUT_A_WORD),
}


class Asked:
    """One ping whose server says what the test says."""

    def __init__(self, failure: ServerUnreachable | None = None) -> None:
        self.clock = Clock()
        self.found: list[Finding] = []
        self.wire: MemoryTransport | None = None
        self._failure = failure
        ping(DB, self._dial, self.clock, 3.0).addCallback(self.found.append)

    def _dial(self, address: Address, protocol: Protocol, timeout_s: float) -> Deferred[Any]:
        assert (address, timeout_s) == (DB, 3.0)
        if self._failure is not None:
            return fail(self._failure)
        self.wire = MemoryTransport(protocol)
        self.wire.connect()
        return succeed(self.wire)

    def hears(self, pieces: Sequence[bytes]) -> None:
        assert self.wire is not None
        self.wire.incoming += pieces
        while self.wire.deliver():
            pass


@pytest.mark.parametrize("size", [1, 3, 100000])
@pytest.mark.parametrize("name", WORDS)
def test_the_first_word(name: str, size: int) -> None:
    said, told = WORDS[name]
    asked = Asked()
    assert asked.wire is not None
    hello = StartupMessage.parse(asked.wire.take())
    assert hello.option(b"application_name") == b"tqdbproxy"
    asked.hears(m.chunks(said, [size]))
    asked.wire.lose()
    assert asked.found == [told]
    assert asked.wire.take() == b""
    assert asked.clock.getDelayedCalls() == []


def test_an_answer_is_the_end() -> None:
    asked = Asked()
    asked.hears([m.authentication(3)])
    assert asked.wire is not None
    assert (asked.found, asked.wire.lost) == ([UP], True)


def test_silence() -> None:
    asked = Asked()
    asked.clock.advance(2.9)
    assert asked.found == []
    asked.clock.advance(0.2)
    assert asked.found == [down("no answer within 3 s")]
    asked.hears([])
    assert asked.wire is not None
    assert asked.wire.lost


def test_nobody_is_there() -> None:
    assert Asked(ServerUnreachable("db:5432: Connection refused")).found == [down("Connection refused")]
