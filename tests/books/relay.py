"""The network between proxy and server, where it can be cut at the worst moment.

The law of this module: what comes from the proxy always arrives; what the server says is lost from some moment on, and
then the connection is. So the server has done what it was asked to, and the proxy can't know.
"""

from __future__ import annotations

import asyncio
import threading
from typing import cast

import uvloop

from tests.proxies import HOST


class _End(asyncio.Protocol):
    """One end of a connection; ``other`` is the end that its bytes go to."""

    def __init__(self, relay: Relay) -> None:
        self.transport = cast(asyncio.Transport, None)
        self.other: _End | None = None
        self.deaf = False
        self._relay = relay
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early.append(data)
        elif not self.deaf:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.servers.discard(self)
        if self.other is not None:
            self.other.transport.close()

    def join(self, other: _End) -> None:
        """Bytes go from here to there from now on."""
        self.other = other
        for data in self._early:
            other.transport.write(data)


class Relay:
    """Listens on ``port``; connects to the server's port. Runs in a thread of its own."""

    def __init__(self, server_port: int) -> None:
        self.port = 0
        self.servers: set[_End] = set()
        self._server_port = server_port
        self._loop = uvloop.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def start(self) -> None:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()

    def close(self) -> None:
        """End it, with all connections."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self, seconds: float) -> None:
        """What servers say on half of the connections is lost from now on; so are these after so many seconds."""
        asyncio.run_coroutine_threadsafe(self._cut(seconds), self._loop).result()

    async def _listen(self) -> None:
        self._listener = cast(asyncio.Server, await self._loop.create_server(self._accept, HOST, 0))
        self.port = self._listener.sockets[0].getsockname()[1]

    def _accept(self) -> _End:
        proxy = _End(self)
        task = self._loop.create_task(self._connect(proxy))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return proxy

    async def _connect(self, proxy: _End) -> None:
        try:
            _, server = await self._loop.create_connection(lambda: _End(self), HOST, self._server_port)
        except OSError:
            proxy.transport.abort()
            return
        self.servers.add(server)
        server.join(proxy)
        proxy.join(server)

    async def _cut(self, seconds: float) -> None:
        hit = list(self.servers)[::2]
        for server in hit:
            server.deaf = True
        await asyncio.sleep(seconds)
        for server in hit:
            if server.other is not None:
                server.other.transport.abort()

    async def _close(self) -> None:
        self._listener.close()
        for server in list(self.servers):
            server.transport.abort()
        await self._listener.wait_closed()
        await asyncio.sleep(0)
