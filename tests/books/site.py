"""The server and the proxy that all this is done to; both may be killed and started again.

The law of this module: it blocks; whoever has a loop to keep calls it from a thread.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any

import psutil
import psycopg

from tests.books.relay import Relay
from tests.integration.metrics import scrape
from tests.integration.waiting import wait_for
from tests.proxies import RunningProxy, start_proxy
from tqdbproxy.embedded import EmbeddedServer

DATABASE = "postgres"
CLIENTS = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
CONF = ("deadlock_timeout = 15ms", "max_wal_size = 4GB", "log_min_messages = fatal")
QUIET_S = 60.0
METHODS = ("single", "prepared", "merged", "transaction")


class Site:
    """A server, and one proxy after another in front of it.

    ``text``: the proxies' configuration. ``relayed``: between them is a `Relay`.
    """

    def __init__(self, folder: Path, text: str = "", *, relayed: bool = False, **settings: Any) -> None:
        self.server = EmbeddedServer(conf=CONF, **settings)
        self.proxies: list[RunningProxy] = []
        self._folder = folder
        self._text = text
        self._counts: Counter[str] = Counter()
        self._relayed = relayed
        self.relay: Relay | None = None

    def __enter__(self) -> Site:
        self.server.start()
        try:
            if self._relayed:
                self.relay = Relay(self.server.port)
                self.relay.start()
            self.start_proxy()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        for proxy in self.proxies:
            if proxy.process.poll() is None:
                proxy.stop(signal.SIGKILL)
        if self.relay is not None:
            self.relay.close()
        self.server.close()

    @property
    def port(self) -> int:
        """Of the proxy that runs now, or ran at last."""
        return self.proxies[-1].port

    @property
    def log(self) -> str:
        """What all proxies have logged."""
        return "".join(proxy.log for proxy in self.proxies)

    def counts(self) -> Counter[str]:
        """What the proxies have counted: transactions by method, writes in company and again."""
        return self._counts + self._now()

    def _now(self) -> Counter[str]:
        page = scrape(self.proxies[-1])
        counts = {name: int(page.total("write_batch_method_total", method=name)) for name in METHODS}
        counts |= {name: int(page.total(f"write_{name}_total")) for name in ("batched", "batch_retries", "batch_begun")}
        return Counter(counts)

    def deadlocks(self) -> int:
        """How many the server has broken up since it last lost its statistics."""
        with self.connect() as connection:
            row = connection.execute("SELECT sum(deadlocks)::int FROM pg_stat_database").fetchone()
        return row[0] if row else 0

    def start_proxy(self) -> None:
        folder = self._folder / f"proxy{len(self.proxies)}"
        folder.mkdir()
        port = self.relay.port if self.relay is not None else self.server.port
        self.proxies.append(start_proxy(folder, f"{self.server.host}:{port}", self._text))

    def replace_proxy(self, number: int) -> None:
        """End it with this signal and start another one."""
        self._counts += self._now()
        self.proxies[-1].stop(number)
        self.start_proxy()

    def connect(self) -> psycopg.Connection[Any]:
        """Directly to the server."""
        return psycopg.connect(self.server.dsn(DATABASE), autocommit=True)

    def terminate_some(self, chance: Random, count: int) -> None:
        """``pg_terminate_backend`` of so many sessions."""
        with suppress(psycopg.OperationalError), self.connect() as connection:
            pids = [row[0] for row in connection.execute(CLIENTS.encode())]
            for pid in chance.sample(pids, min(count, len(pids))):
                connection.execute("SELECT pg_terminate_backend(%s)", (pid,))

    def kill_one(self, chance: Random) -> None:
        """``kill -9`` of a server process: the server ends all others and recovers."""
        with suppress(psycopg.OperationalError, ProcessLookupError), self.connect() as connection:
            pids = [row[0] for row in connection.execute(CLIENTS.encode())]
            os.kill(chance.choice(pids), signal.SIGKILL)

    def cut(self, seconds: float) -> None:
        """The network between proxy and server loses what the server says, and then the connections: half of them."""
        assert self.relay is not None, "there is no relay"
        self.relay.cut(seconds)

    def crash(self) -> None:
        """``kill -9`` of all server processes at once, and a new start."""
        self.server.kill9()
        self.server.start()

    def stall(self, seconds: float) -> None:
        """The server's processes are stopped for so long, as on a machine that swaps or whose disk hangs."""
        with self.stalled():
            time.sleep(seconds)

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """The server's processes are stopped for so long as this is entered."""
        postmaster = psutil.Process(self.server.pid)
        postmaster.suspend()  # first, so that no more are born
        family = [postmaster, *postmaster.children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        try:
            yield
        finally:
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def wait_until_quiet(self) -> None:
        """Until no session is left that might still write."""

        def quiet() -> bool:
            with suppress(psycopg.OperationalError), self.connect() as connection:
                return not connection.execute(CLIENTS.encode()).fetchall()
            return False

        wait_for(quiet, QUIET_S)
