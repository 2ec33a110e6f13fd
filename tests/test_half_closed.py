"""An end that is closed for sending, and then altogether, on real sockets."""

from __future__ import annotations

import asyncio

import uvloop
from twisted.internet.protocol import Protocol

from tqdbproxy.transport import Wire


async def _half_closed_then_closing() -> list[bool]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    _, wire = await loop.create_connection(lambda: Wire(Protocol()), "127.0.0.1", port)
    said = [wire.loseWriteConnection()]
    wire.abortConnection()
    said.append(wire.loseWriteConnection())
    server.close()
    await server.wait_closed()
    await asyncio.sleep(0)
    return said


def test_there_is_nothing_to_be_said_any_more() -> None:
    """Whoever was told False would write a goodbye; that raises here, and once left a client behind for ever."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(_half_closed_then_closing()) == [True, True]
