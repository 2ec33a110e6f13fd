"""The settings that the proxy runs with.

The law of this module: plain records of values that have been checked. It doesn't know where they were read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tqdbproxy.addresses import ListenAddress, ServerAddress


@dataclass(frozen=True, slots=True)
class PostgresSettings:
    """[postgres]: the clients' side. ``socket`` is None or the directory or path as it was written.

    ``default`` None: databases that no group claims aren't served.
    """

    listen: tuple[ListenAddress, ...]
    socket: str | None
    default: str | None
    tls: Literal["off", "allow", "require"]
    tls_cert: str
    tls_key: str


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """[postgres.NAME]: one group of servers. ``sslrootcert`` is "" or the path of a readable PEM file.

    ``probe``: a connection string without a server, or "".
    """

    name: str
    primary: tuple[ServerAddress, ...]
    databases: tuple[str, ...]
    sslmode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"]
    sslrootcert: str
    connect_timeout_s: float
    probe: str
    probe_interval_s: float


@dataclass(frozen=True, slots=True)
class WriteBatchSettings:
    """[write_batch]. ``early_quorum`` None: windows are kept to their end."""

    enabled: bool
    max_batch_size: int
    max_batch_bytes: int
    max_pending: int
    max_hint_ms: int
    early_quorum: float | None
    early_start: int
    timeout_s: float
    mode: Literal["hints", "adaptive"]
    merge_inserts: Literal["auto", "off"]
    initial_delay_ms: float
    min_delay_ms: float
    max_delay_ms: float
    write_threshold: int
    adaptive_step: float
    metrics_interval: float


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """[cache]. ``purge_listen``: a connection string, with or without a server in it, or ""."""

    enabled: bool
    max_bytes: int
    max_entry_bytes: int
    max_wait_ms: float
    purge_on_write: bool
    verify_fraction: float
    purge_listen: str


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """[metrics]. An empty ``listen``: no metrics over HTTP."""

    listen: tuple[ListenAddress, ...]
    max_callers: int


@dataclass(frozen=True, slots=True)
class LogSettings:
    """[log]. ``level`` is a name of twisted.logger.LogLevel."""

    format: Literal["text", "json"]
    level: Literal["debug", "info", "warn", "error", "critical"]


@dataclass(frozen=True, slots=True)
class AdminSettings:
    """[admin]. An empty ``database``: no console."""

    database: str
    users: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LimitsSettings:
    """[limits]."""

    max_clients: int
    login_timeout_s: float
    shutdown_timeout_s: float


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration. ``groups`` by name; ``postgres.default`` is one of them or None."""

    postgres: PostgresSettings
    groups: Mapping[str, GroupSettings]
    write_batch: WriteBatchSettings
    cache: CacheSettings
    metrics: MetricsSettings
    log: LogSettings
    admin: AdminSettings
    limits: LimitsSettings
