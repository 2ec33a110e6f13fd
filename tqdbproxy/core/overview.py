"""What operators are shown besides the counters: records, and where they are read.

The status page and the console say the same things in two ways; both take what is here. The law of this module:
records and callables only; who puts them together is `service`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from tqdbproxy.core.metrics import Metrics


@dataclass(frozen=True, slots=True)
class ServerView:
    """A server. ``healthy`` None: nobody has tried to reach it yet; ``problem`` says why it isn't."""

    group: str
    name: str
    address: str
    healthy: bool | None
    problem: str
    connections: int
    statements: int
    batches: int


@dataclass(frozen=True, slots=True)
class ClientView:
    """A client's connection. ``state``: login, idle, active, transaction, waiting (for a batch) or console."""

    peer: str
    user: str
    database: str
    state: str
    application: str
    connected_s: float
    tls: bool


@dataclass(frozen=True, slots=True)
class GroupView:
    """The writes of one batch key. ``waited_s``: how long the first that waits has waited; ``writers``: recent ones."""

    group: str
    database: str
    user: str
    template: str
    waiting: int
    size: int
    running: bool
    writers: int
    waited_s: float


@dataclass(frozen=True, slots=True)
class CacheView:
    """What is kept of reads' answers, and what has happened to it since the start.

    ``fetching``: answers on their way. ``verified``: answers that were compared with the server's, by result.
    """

    entries: int = 0
    bytes: int = 0
    max_bytes: int = 0
    fetching: int = 0
    evictions: int = 0
    purges: int = 0
    stale: int = 0
    refreshes: int = 0
    served_bytes: int = 0
    verified: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where it is read, at the moment when somebody asks.

    ``started``: in seconds since the epoch. ``clients``: how many there are, by state. ``pending``: writes that wait or
    run in batches. ``window_ms``: of adaptive mode, None without it. ``cache``: an empty one where there is none.
    """

    version: str
    started: float
    now: Callable[[], float]
    metrics: Metrics
    clients: Callable[[], Mapping[str, int]]
    servers: Callable[[], Iterable[ServerView]]
    pending: Callable[[], int]
    window_ms: Callable[[], float | None]
    cache: Callable[[], CacheView] = CacheView
