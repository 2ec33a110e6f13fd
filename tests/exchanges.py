"""What the tests of whole exchanges have in common: sessions, writes, a batch on its way."""

from __future__ import annotations

from tests import builders as m
from tests.peers import Client, Script, World
from tqdbproxy.core.writebatch.types import Limits

WRITE = "/* batch:20 */ insert into t values ($1)"
VIEW = m.query("select * from pg_tqdb_status")
BATCH = "PBE" + "P" + "BE" * 2 + "S"
"""The first one of two members on a connection: the fingerprint of its table, then itself."""
KEPT = Limits(quorum=None)
TAG, DONE = m.complete("INSERT 0 1"), m.complete("INSERT 0 1") + m.ready()
REPLY = m.PARSE_COMPLETE + m.BIND_COMPLETE + DONE


def write(value: str) -> bytes:
    return m.unit(WRITE, value.encode())


def scripted() -> World:
    """Windows are kept, and servers say only what the test says."""
    return World(KEPT, make_server=Script)


def session(world: World) -> Client:
    client = world.client()
    client.hears()
    if isinstance(client.server, Script):
        client.server.hears()
    return client


def two(world: World) -> tuple[Client, Client]:
    """Two sessions whose writes have just been sent as one batch, on the connection of the first."""
    one, other = session(world), session(world)
    one.sends(write("1"))
    other.sends(write("2"))
    world.settle()
    world.pass_time(0.05)
    assert m.kinds(one.server.hears()) == BATCH
    assert other.server.hears() == b""
    return one, other


LEARNED = m.BIND_COMPLETE + m.data_row("fingerprint", "0") + m.complete("SELECT 1")
ANSWER = m.PARSE_COMPLETE + LEARNED + m.PARSE_COMPLETE + (m.BIND_COMPLETE + TAG) * 2 + m.ready()
