"""The settings as the parts of the daemon take them.

The law of this module: it translates, it makes nothing that has to be closed, and knows no part that runs.
"""

from __future__ import annotations

import os
from dataclasses import replace

from tqdbproxy import tls
from tqdbproxy.addresses import POSTGRES_PORT, ListenAddress, TcpAddress, UnixAddress
from tqdbproxy.core.writebatch.adaptive import Bounds
from tqdbproxy.core.writebatch.types import Limits
from tqdbproxy.postgres.servers.groups import GroupPlan
from tqdbproxy.postgres.servers.hosts import at_servers, names_server
from tqdbproxy.postgres.servers.inquiry import with_tls
from tqdbproxy.postgres.servers.primary import ServerTls
from tqdbproxy.settings import GroupSettings, Settings, WriteBatchSettings


def plan(group: GroupSettings) -> GroupPlan:
    """Where a server group is, and how it is reached. Raises `ConfigError`."""
    context = tls.for_servers(group.sslmode, group.sslrootcert)
    return GroupPlan(
        group.name,
        group.primary,
        group.databases,
        ServerTls(context, required=group.sslmode != "prefer"),
        group.connect_timeout_s,
        with_tls(group.probe, group.sslmode, group.sslrootcert),
        group.probe_interval_s,
    )


def purge_conninfos(settings: Settings) -> dict[str | None, str]:
    """Where to listen for purges, by the group that they concern; None: all of them."""
    conninfo = settings.cache.purge_listen
    if not conninfo or not settings.cache.enabled:
        return {}
    if names_server(conninfo):
        return {None: conninfo}
    return {
        name: at_servers(conninfo, group.primary, group.sslmode, group.sslrootcert)
        for name, group in settings.groups.items()
    }


def batch_limits(settings: WriteBatchSettings) -> Limits:
    """Of the groups of writes, and of all of them."""
    return Limits(
        settings.max_batch_size,
        settings.max_batch_bytes,
        settings.max_pending,
        settings.early_quorum,
        settings.timeout_s,
        settings.early_start,
    )


def bounds(settings: WriteBatchSettings) -> Bounds:
    """Of the adaptive window."""
    return Bounds(
        settings.initial_delay_ms / 1000,
        settings.min_delay_ms / 1000,
        settings.max_delay_ms / 1000,
        settings.write_threshold,
        settings.adaptive_step,
        settings.metrics_interval,
    )


def client_addresses(settings: Settings) -> list[ListenAddress | str]:
    """Where to listen for clients; a directory gets libpq's name for the socket in it."""
    addresses = settings.postgres.listen
    path = settings.postgres.socket
    if path is None:
        return [*addresses]
    port = next((a.port for a in addresses if isinstance(a, TcpAddress)), POSTGRES_PORT)
    return [*addresses, UnixAddress(path, port).path if os.path.isdir(path) else path]


def in_force(old: Settings, new: Settings) -> Settings:
    """What holds after a reload: the new settings, but for those that take a restart (`not_reloadable`)."""
    postgres = replace(new.postgres, listen=old.postgres.listen, socket=old.postgres.socket)
    return replace(new, postgres=postgres, metrics=old.metrics, log=replace(new.log, format=old.log.format))


def not_reloadable(old: Settings, new: Settings) -> list[str]:
    """Names of what has changed in vain."""
    pairs = {
        "[postgres] listen": (old.postgres.listen, new.postgres.listen),
        "[postgres] socket": (old.postgres.socket, new.postgres.socket),
        "[metrics]": (old.metrics, new.metrics),
        "[log] format": (old.log.format, new.log.format),
    }
    return [name for name, (before, after) in pairs.items() if before != after]
