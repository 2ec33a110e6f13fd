"""What in a configuration doesn't go together, or with the files that it names.

The law of this module: settings -> what is wrong, with section and key; each value has been checked alone before. It
knows neither where the settings were read nor what becomes of them.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from tqdbproxy.addresses import EndpointDescription, ListenAddress, TcpAddress
from tqdbproxy.core.topology import claimed_twice
from tqdbproxy.errors import ConfigError
from tqdbproxy.postgres.servers import hosts, inquiry
from tqdbproxy.settings import CacheSettings, GroupSettings, PostgresSettings, Settings, WriteBatchSettings

GROUP_PREFIX = "postgres."
NO_GROUP = "none"
"""What ``default`` says where no group is to serve the rest."""
NO_SSL = {
    "postgres": "an ssl endpoint can't be used, since clients ask for TLS themselves: see tls, tls_cert and tls_key",
    "metrics": "an ssl endpoint can't be used; a web server in front can bring TLS",
}


class Problem(NamedTuple):
    """What is wrong, and where: ``key`` None concerns the whole section."""

    section: str
    key: str | None
    text: str


def problems(settings: Settings) -> Iterator[Problem]:
    """Everything that is wrong; nobody need go on after the first."""
    yield from _listening(settings)
    yield from _groups(settings)
    yield from _tls(settings.postgres)
    for group in settings.groups.values():
        yield from _root(group)
        yield from _probe(group)
    yield from _databases(settings)
    yield from _console(settings)
    yield from _delays(settings.write_batch)
    yield from _cache(settings.cache)


# -- where to listen


def _listening(settings: Settings) -> Iterator[Problem]:
    ours = settings.postgres
    if not ours.listen and ours.socket is None:
        yield Problem("postgres", "listen", "is empty and so is socket: there is nowhere to listen")
    for section, addresses in (("postgres", ours.listen), ("metrics", settings.metrics.listen)):
        for one, other in combinations(addresses, 2):
            if _overlap(one, other):
                yield Problem(
                    section, "listen", f"names {other} twice" if one == other else f"{one} and {other} overlap"
                )
        for address in addresses:
            if isinstance(address, EndpointDescription) and address.text.startswith("ssl:"):
                yield Problem(section, "listen", NO_SSL[section])
    for one in ours.listen:
        for other in settings.metrics.listen:
            if _overlap(one, other):
                yield Problem("metrics", "listen", f"{other} is taken by [postgres] listen already")
    folder = None if ours.socket is None or os.path.isdir(ours.socket) else os.path.dirname(ours.socket) or "."
    if folder is not None and not os.path.isdir(folder):
        yield Problem("postgres", "socket", f"there is no directory {folder}")


def _overlap(one: ListenAddress, other: ListenAddress) -> bool:
    """Whether only one of them can be listened on; port 0 is always another one."""
    if isinstance(one, TcpAddress) and isinstance(other, TcpAddress):
        return one.port == other.port != 0 and (one.host == other.host or not (one.host and other.host))
    return one == other


# -- groups


def _groups(settings: Settings) -> Iterator[Problem]:
    default = settings.postgres.default
    if not settings.groups:
        yield Problem("postgres", None, f"no server is named: a section [{GROUP_PREFIX}main] with primary is needed")
    if NO_GROUP in settings.groups:
        yield Problem(GROUP_PREFIX + NO_GROUP, None, f"needs another name: default = {NO_GROUP} means no group at all")
    if default is not None and default not in settings.groups:
        yield Problem("postgres", "default", f"there is no section [{GROUP_PREFIX}{default}]")
    for group in settings.groups.values():
        if default is None and not group.databases:
            yield Problem(GROUP_PREFIX + group.name, "databases", f"must be given for default = {NO_GROUP}")


def _databases(settings: Settings) -> Iterator[Problem]:
    for database, first, other in claimed_twice({name: it.databases for name, it in settings.groups.items()}):
        yield Problem(GROUP_PREFIX + other, "databases", f"{database} is claimed by [{GROUP_PREFIX}{first}] already")


def _console(settings: Settings) -> Iterator[Problem]:
    admin = settings.admin
    for group in settings.groups.values():
        if admin.database and admin.database in group.databases:
            problem = f"{admin.database} leads to the console: name one of them otherwise ([admin] database)"
            yield Problem(GROUP_PREFIX + group.name, "databases", problem)
    if admin.database and admin.users and settings.postgres.default is None:
        problem = f"the default group's server checks their passwords, and there is none: default = {NO_GROUP}"
        yield Problem("admin", "users", problem)


# -- TLS and credentials


def _tls(ours: PostgresSettings) -> Iterator[Problem]:
    if ours.tls == "off":
        return
    for key, file in (("tls_cert", ours.tls_cert), ("tls_key", ours.tls_key)):
        if not file:
            yield Problem("postgres", key, f"must be given for tls = {ours.tls}")
        yield from _readable("postgres", key, file)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(ours.tls_cert, ours.tls_key, password="")
    except (ssl.SSLError, ValueError) as error:
        yield Problem("postgres", "tls_cert", f"certificate and key can't be used together: {error}")


def _root(group: GroupSettings) -> Iterator[Problem]:
    section = GROUP_PREFIX + group.name
    if not group.sslrootcert:
        if group.sslmode.startswith("verify"):
            yield Problem(section, "sslrootcert", f"must be given for sslmode = {group.sslmode}")
        return
    yield from _readable(section, "sslrootcert", group.sslrootcert)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(group.sslrootcert)
    except ssl.SSLError as error:
        yield Problem(section, "sslrootcert", f"is not a file with PEM certificates: {error}")


def _readable(section: str, key: str, file: str) -> Iterator[Problem]:
    try:
        Path(file).open("rb").close()
    except OSError as error:
        yield Problem(section, key, f"{file} can't be read: {error.strerror}")


def _probe(group: GroupSettings) -> Iterator[Problem]:
    try:
        inquiry.check(group.probe)
    except ConfigError as error:
        yield Problem(GROUP_PREFIX + group.name, "probe", str(error))


# -- numbers


def _delays(batch: WriteBatchSettings) -> Iterator[Problem]:
    if not batch.min_delay_ms <= batch.initial_delay_ms <= batch.max_delay_ms:
        yield Problem("write_batch", "initial_delay_ms", "must lie between min_delay_ms and max_delay_ms")


def _cache(cache: CacheSettings) -> Iterator[Problem]:
    if cache.max_entry_bytes > cache.max_bytes:
        problem = f"{cache.max_entry_bytes} is more than max_bytes, {cache.max_bytes}"
        yield Problem("cache", "max_entry_bytes", problem)
    try:
        hosts.check(cache.purge_listen)
    except ConfigError as error:
        yield Problem("cache", "purge_listen", str(error))
