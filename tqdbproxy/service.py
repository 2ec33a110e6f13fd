"""Where the parts are put together; the only importer of the reactor.

The law of this module: it makes, connects, starts and stops; it decides nothing about a statement.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from types import FrameType
from typing import Any, cast

from prometheus_client import CollectorRegistry
from twisted.application.service import Service
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore, IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.logger import ILogObserver
from twisted.python.components import Componentized

from tqdbproxy import config, logs, plans, tls, transport
from tqdbproxy.core.caching import Bounds as CacheBounds
from tqdbproxy.core.caching import Cache
from tqdbproxy.core.metrics import Metrics
from tqdbproxy.core.overview import Sources
from tqdbproxy.core.routing import Rulebook, Rules
from tqdbproxy.core.writebatch.adaptive import AdaptiveWindow, Bounds
from tqdbproxy.core.writebatch.manager import Manager
from tqdbproxy.desk import cache_view, client_views, group_views, setting_rows, show_cache
from tqdbproxy.errors import ConfigError, ProxyError
from tqdbproxy.postgres.clients.console_entry import ConsoleEntry
from tqdbproxy.postgres.clients.console_tables import Desk, commands
from tqdbproxy.postgres.clients.hub import ClientLimits, Hub
from tqdbproxy.postgres.clients.opening import ClientProtocol
from tqdbproxy.postgres.clients.reads import Reads
from tqdbproxy.postgres.relations import EVERYTHING, purged_by, unite
from tqdbproxy.postgres.servers.executor import BatchExecutor
from tqdbproxy.postgres.servers.groups import Groups
from tqdbproxy.postgres.servers.probing import Means
from tqdbproxy.postgres.servers.purges import PurgeListeners
from tqdbproxy.postgres.sql import Purging, Text, Texts
from tqdbproxy.process import show_process
from tqdbproxy.settings import Settings, WriteBatchSettings
from tqdbproxy.web import make_site

reactor = cast(Any, _reactor)
log = logs.logger(__name__)


class ProxyService(Service):
    """The daemon. Made, it has bound its sockets; started, it accepts; stopped, it drains first."""

    def __init__(self, settings: Settings, path: str | None) -> None:
        self.name = "tqdbproxy"
        self._settings = settings
        self._path = path
        self._stopping = False
        self._reloaded = True
        """The last attempt to read the configuration has succeeded."""
        registry = CollectorRegistry()
        self._metrics = Metrics(registry, settings.metrics.max_callers, reactor.seconds)
        texts = Texts()
        self._texts = texts
        self._executor = BatchExecutor(reactor.seconds, self._keep_strings)
        self._batches = Manager(
            plans.batch_limits(settings.write_batch), self._executor, self._metrics, cast(IReactorTime, reactor)
        )
        self._cache = Cache(cast(IReactorTime, reactor))
        self._reads = Reads(self._cache, reactor.seconds, self._watch_changes, random.random)
        self._purges = PurgeListeners(
            lambda group, tags: self._purge(tags, group),
            lambda group: self._purge(EVERYTHING, group),
            reactor.callFromThread,
        )
        self._book = Rulebook(Rules())
        self._window: AdaptiveWindow | None = None
        in_thread = partial(deferToThreadPool, reactor, reactor.getThreadPool())
        self._groups = Groups(Means(transport.connect, cast(IReactorTime, reactor), in_thread))
        self._hub = Hub(
            connect=cast(Any, self._groups.connect),
            batches=self._batches,
            metrics=self._metrics,
            clock=cast(IReactorTime, reactor),
            limits=ClientLimits(),
            book=self._book,
            texts=texts,
            reads=self._reads,
        )
        self._hub.console = self._console()
        self._apply(settings)
        self._site = make_site(registry, self._sources(), self._ready, cast(IReactorTime, reactor))
        self._listeners = [transport.Listener(a, self._client) for a in plans.client_addresses(settings)]
        self._metrics_listeners = [
            transport.Listener(a, lambda: self._site.buildProtocol(None)) for a in settings.metrics.listen
        ]
        self._log: logs.JsonLog | None = None
        self._show()
        show_process(self._metrics, time.time())

    # Start and stop

    def log_to(self, log: logs.JsonLog) -> None:
        """Let ``log`` take the place of twistd's own observer; before the application is made."""
        self._log = log

    def setServiceParent(self, parent: Any) -> None:
        """See `twisted.application.service.IService`. twistd looks for an observer on the application, then logs."""
        if self._log is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._log)
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]

    def startService(self) -> None:
        """See `twisted.application.service.IService`."""
        super().startService()  # type: ignore[no-untyped-call]
        signal.signal(signal.SIGHUP, lambda *_: reactor.callFromThread(self.reload))
        if self._log is not None and self._log.rotate is not None:  # as twistd does for its own log file
            rotate = self._log.rotate
            signal.signal(signal.SIGUSR1, lambda *_: reactor.callFromThread(rotate))
        # In the loop's first iteration: at startup it doesn't run yet, and asyncio would take another one.
        cast(IReactorCore, reactor).callWhenRunning(reactor.callLater, 0, self._start)

    def _start(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            twisteds = signal.getsignal(number)
            if callable(twisteds):  # SIGINT may be ignored: in the background of a shell
                signal.signal(number, partial(self._signalled, twisteds))
        self._batches.start()
        for listener in self._listeners:
            self._accept(listener, "clients connect to {address}")
        for listener in self._metrics_listeners:
            self._accept(listener, "metrics at http://{address}/metrics, status page at http://{address}/")
        if ignored := config.ignored(os.environ):
            log.warn("no section of the configuration: {variables} in the environment", variables=", ".join(ignored))
        self._groups.start()
        self._purges.start()
        # What has been made until now stays: the collector needn't look at it again.
        gc.collect()
        gc.freeze()

    def _signalled(self, twisteds: Any, number: int, frame: FrameType | None) -> None:
        """Let Twisted's own handler stop the reactor, but once: a second time it would raise."""
        if self._stopping:
            log.info("Received {signal}: draining already", signal=signal.Signals(number).name)
        else:
            self._stopping = True
            twisteds(number, frame)

    def _shut_down(self) -> None:
        """Somebody asks for it on the console."""
        if not self._stopping:
            self._stopping = True
            reactor.callLater(0, reactor.stop)  # later: whoever asked for it gets his answer first

    def _client(self) -> ClientProtocol:
        return ClientProtocol(self._hub)

    def _accept(self, listener: transport.Listener, announcement: str) -> None:
        address = str(listener.address)
        accepting = listener.start()
        accepting.addCallback(lambda _none: log.info(announcement, address=address))
        accepting.addErrback(lambda why: log.failure("can't accept on {address}", why, address=address))

    def stopService(self) -> Deferred[Any]:
        """Accept no more, execute and answer what waits, end the sessions; see `Hub.close`."""
        super().stopService()  # type: ignore[no-untyped-call]
        log.info("draining {count} clients", count=len(self._hub.clients))
        for listener in self._listeners:
            listener.stop()
        return self._hub.close().addBoth(self._stopped)

    def _ready(self) -> str | Deferred[bool | str]:
        """Whether new sessions can begin."""
        return self._groups.ready() if self.running else "the proxy is shutting down"

    def _stopped(self, _result: Any) -> None:
        self._batches.stop()
        if self._window is not None:
            self._window.stop()
        self._groups.stop_watching()
        self._purges.stop()
        for listener in self._metrics_listeners:
            listener.stop()

    # Settings

    def reload(self) -> None:
        """Read the configuration again; what is wrong is logged, and then all stays as it was."""
        with contextlib.suppress(ProxyError):
            self._reload()

    def _reload(self) -> list[str]:
        """The same, for somebody who is told what is wrong: raises `ProxyError`. Returns what has changed in vain."""
        try:
            if self._path is None:
                raise ConfigError("there is no configuration file")
            settings = config.load(self._path, os.environ)
            fixed = plans.not_reloadable(self._settings, settings)
            self._apply(settings)
        except ProxyError as problem:
            self._reloaded = False
            log.error("configuration not reloaded: {problem}", problem=problem)
            raise
        self._reloaded = True
        for name in fixed:
            log.warn("{name} has changed, which takes a restart", name=name)
        self._settings = plans.in_force(self._settings, settings)
        log.info("configuration reloaded")
        return [f"{name} has changed, which takes a restart" for name in fixed]

    def _apply(self, settings: Settings) -> None:
        """Put into force all that can change while the proxy runs. Raises `ConfigError` before anything has changed."""
        context = None
        if settings.postgres.tls != "off":
            context = tls.for_clients(settings.postgres.tls_cert, settings.postgres.tls_key)
        groups = [plans.plan(group) for group in settings.groups.values()]
        self._groups.replace(groups, settings.postgres.default)
        self._hub.tls_context = context
        self._hub.tls_required = settings.postgres.tls == "require"
        limits = settings.limits
        self._hub.limits = ClientLimits(limits.max_clients, limits.login_timeout_s, limits.shutdown_timeout_s)
        if self._hub.console is not None:
            self._hub.console.database = settings.admin.database
            self._hub.console.users = frozenset(settings.admin.users)
        self._apply_batching(settings.write_batch)
        self._apply_caching(settings)
        self._judge(settings)
        logs.set_level(settings.log.level)

    def _apply_batching(self, settings: WriteBatchSettings) -> None:
        self._batches.limits = plans.batch_limits(settings)
        self._executor.merge = settings.merge_inserts == "auto"
        self._book.rules = replace(self._book.rules, batching=settings.enabled, max_bytes=settings.max_batch_bytes)
        if settings.mode == "adaptive":
            self._adapt(plans.bounds(settings))
        elif self._window is not None:
            self._window.stop()
            self._window = None
            self._move_window(None)

    def _adapt(self, bounds: Bounds) -> None:
        if self._window is not None:
            self._window.bounds = bounds
            return
        self._window = AdaptiveWindow(
            bounds, cast(IReactorTime, reactor), self._metrics, lambda: self._batches.written, self._move_window
        )
        self._window.start()
        self._move_window(self._window.delay_s)

    def _apply_caching(self, settings: Settings) -> None:
        cache = settings.cache
        self._cache.bounds = CacheBounds(cache.max_bytes, cache.max_entry_bytes)
        self._reads.room.most = cache.max_bytes
        self._cache.max_wait_s = cache.max_wait_ms / 1000
        self._reads.verified = cache.verify_fraction
        self._book.rules = replace(self._book.rules, caching=cache.enabled)
        self._purges.replace(plans.purge_conninfos(settings))
        # Answers from before the change were kept under other rules.
        self._cache.purge(EVERYTHING)
        # So was what is under way, or in a transaction, not looked at if it didn't matter until now.
        self._hub.watch()

    def _purge(self, tags: Iterable[str], group: str | None = None) -> int:
        """Somebody says that what has these tags has changed, in one server group or (None) in all."""
        return self._cache.purge(unite(map(purged_by, tags)), group)

    def _judge(self, settings: Settings) -> None:
        """Which texts have to be understood."""
        purging = Purging.OFF
        if settings.cache.enabled and settings.cache.purge_on_write:
            purging = Purging.ALL if self._reads.active else Purging.PARSED
        batching = settings.write_batch
        self._texts.judge(max_hint_ms=batching.max_hint_ms, unhinted=batching.mode == "adaptive", purging=purging)

    def _watch_changes(self) -> None:
        """The first read is about to be kept."""
        self._judge(self._settings)
        self._hub.watch()

    def _keep_strings(self, text: Text) -> None:
        self._texts.keep_strings(text)
        # What sessions have noted of their last units holds for one set of rules: now they look again.
        self._book.rules = replace(self._book.rules)

    def _move_window(self, delay_s: float | None) -> None:
        self._book.rules = replace(self._book.rules, window_s=delay_s)

    def _show(self) -> None:
        """Gauges that are read from the parts when somebody asks."""
        groups = self._groups
        self._metrics.gauge("tqdbproxy_clients", "Client connections, by state", lambda: self._hub.states(), ("state",))
        self._metrics.gauge(
            "tqdbproxy_max_clients",
            "Clients that there may be ([limits] max_clients)",
            lambda: self._hub.limits.max_clients,
        )
        self._metrics.gauge(
            "tqdbproxy_config_reload_success",
            "Whether the configuration in force is what was read last",
            lambda: float(self._reloaded),
        )
        self._metrics.gauge(
            "tqdbproxy_server_connections",
            "Server connections, by state",
            lambda: {("open",): float(groups.connections())},
            ("state",),
        )
        server = ("group", "address")
        self._metrics.gauge("tqdbproxy_server_up", "Whether a server begins sessions", groups.up, server)
        self._metrics.gauge("tqdbproxy_server_writable", "Whether a server takes writes", groups.writable, server)
        self._metrics.gauge(
            "tqdbproxy_write_current_delay_ms",
            "Window of writes without a hint (adaptive mode)",
            lambda: self._window.delay_s * 1000 if self._window is not None else 0.0,
        )
        self._metrics.gauge(
            "tqdbproxy_write_ops_per_second",
            "Writes that came to be batched, per second over the last interval (adaptive mode)",
            lambda: self._window.writes_per_second if self._window is not None else 0.0,
        )
        self._metrics.counter(
            "tqdbproxy_write_batch_begun_total",
            "Batches that the server began with before all their members were there",
            lambda: self._batches.begun,
        )
        self._metrics.counter(
            "tqdbproxy_database_queries_total",
            "Statements and batches sent to each server",
            groups.statements,
            ("replica",),
        )
        show_cache(self._metrics, self._cache)
        self._metrics.gauge(
            "tqdbproxy_cache_listening",
            "Whether purges that are notified for a group are heard (group all: for every group)",
            lambda: {(group or "all",): float(not why) for group, why in self._purges.problems().items()},
            ("group",),
        )

    # What operators see

    def _sources(self) -> Sources:
        return Sources(
            version=version("tqdbproxy"),
            started=time.time(),
            now=reactor.seconds,
            metrics=self._metrics,
            clients=lambda: {state: int(count) for (state,), count in self._hub.states().items()},
            servers=self._groups.views,
            pending=lambda: self._batches.pending,
            window_ms=lambda: self._window.delay_s * 1000 if self._window is not None else None,
            cache=lambda: cache_view(self._cache),
        )

    def _console(self) -> ConsoleEntry:
        desk = Desk(
            sources=self._sources(),
            sessions=lambda: client_views(self._hub),
            groups=lambda: group_views(self._batches, reactor.seconds()),
            settings=lambda: setting_rows(self._settings),
            flush=self._batches.flush,
            purge=self._purge,
            reload=self._reload,
            shutdown=self._shut_down,
        )
        return ConsoleEntry(
            "", frozenset(), os.geteuid, lambda _message: self._groups.connect_default(), commands(desk)
        )


def make_service(settings: Settings, path: str | None) -> ProxyService:
    """The daemon with these settings, read from ``path``; its sockets are bound. Raises `ConfigError`."""
    return ProxyService(settings, path)
