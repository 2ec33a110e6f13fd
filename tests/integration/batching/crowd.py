"""Sessions that write at the same time, so that their writes meet in one batch.

With ``early_quorum = off`` a group waits until it is full: as many sessions as ``max_batch_size`` make one batch
without waiting, and the test knows who was in it. The proxy is held while they send, so that no window ends before the
last of them has sent. The law of this module: it sends and gathers, it judges nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import NamedTuple

from tests.integration.wire import SYNC, Frame, Wire, bind, execute, parse, query
from tests.proxies import RunningProxy

COUNT = 8
#: Sessions of a crowd, and the size at which a group is full.
WINDOW_MS = 600
#: A group that isn't full in time was not meant to be.
CONFIG = f"[write_batch]\nearly_quorum = off\nmax_batch_size = {COUNT}\nmax_hint_ms = 60000\n"
HELD_BYTES = 1 << 15
"""What the kernel takes for a proxy that reads nothing, for sure."""


class Reply(NamedTuple):
    """What a client was told: its rows, the tag, the SQLSTATE, the messages of notices."""

    rows: tuple[tuple[bytes | None, ...], ...] = ()
    tag: str = ""
    sqlstate: str = ""
    notices: tuple[str, ...] = ()


def reply(frames: Sequence[Frame]) -> Reply:
    """The reply in the messages of one unit."""
    errors = [frame.fields()["C"] for frame in frames if frame.kind == "E"]
    return Reply(
        rows=tuple(_row(frame.body) for frame in frames if frame.kind == "D"),
        tag="".join(frame.body[:-1].decode() for frame in frames if frame.kind == "C"),
        sqlstate="".join(errors),
        notices=tuple(frame.fields()["M"] for frame in frames if frame.kind == "N"),
    )


def _row(body: bytes) -> tuple[bytes | None, ...]:
    columns, at = [], 2
    for _ in range(int.from_bytes(body[:2], "big")):
        size = int.from_bytes(body[at : at + 4], "big", signed=True)
        at += 4
        columns.append(None if size < 0 else body[at : at + size])
        at += max(size, 0)
    return tuple(columns)


class Status(NamedTuple):
    """The status view of a session, as far as it tells in what company its last write was."""

    strategy: str
    size: str
    reason: str


class Crowd:
    """Sessions alike; ``proxy`` None: with a server."""

    def __init__(self, wires: list[Wire], proxy: RunningProxy | None = None) -> None:
        self.wires = wires
        self.proxy = proxy

    def send(self, message: Callable[[int], bytes]) -> list[Reply]:
        """Let all sessions send at the same time, each its own message; their replies."""
        messages = [message(number) for number in range(len(self.wires))]
        small = max(map(len, messages)) <= HELD_BYTES
        with self.proxy.held() if self.proxy is not None and small else nullcontext():
            for wire, one in zip(self.wires, messages, strict=True):
                wire.send(one)
        return [reply(wire.until()) for wire in self.wires]

    def all(self, *texts: str) -> None:
        """Let each session say these, one after another; all must succeed."""
        for wire in self.wires:
            for text in texts:
                assert not reply(wire.ask(query(text))).sqlstate, text

    def statuses(self) -> list[Status]:
        """What the view says to each session."""
        return [status(wire) for wire in self.wires]

    @property
    def together(self) -> str:
        """The one strategy by which the last write of all sessions was executed in one batch."""
        statuses = set(self.statuses())
        assert len(statuses) == 1, statuses
        (found,) = statuses
        assert found.size == (str(len(self.wires)) if found.strategy != "single" else "1"), found
        return found.strategy


def status(wire: Wire) -> Status:
    """What the view says to this session."""
    rows = reply(wire.ask(query("SELECT * FROM pg_tqdb_status"))).rows
    found = {(name or b"").decode(): (value or b"").decode() for name, value in rows}
    return Status(found["LastStrategy"], found["LastBatchSize"], found["Reason"])


@contextmanager
def crowd(there: RunningProxy | int, database: str, count: int = COUNT, **options: str) -> Iterator[Crowd]:
    """``count`` sessions with the same options. ``there``: a proxy, or the port of a server."""
    proxy, port = (None, there) if isinstance(there, int) else (there, there.port)
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(port)) for _ in range(count)]
        yield Crowd([wire.start(database, **options) for wire in wires], proxy)


def hinted(text: str, more: str = "", window_ms: int = WINDOW_MS) -> str:
    """The text with a hint that makes it wait for a full group, or for the end of the window."""
    return f"/* batch:{window_ms} {more} */ {text}"


def extended(
    text: str,
    *values: str | bytes | None,
    types: Sequence[int] = (),
    formats: Sequence[int] = (),
    more: str = "",
    window_ms: int = WINDOW_MS,
) -> bytes:
    """The hinted text as a unit of the extended protocol."""
    return parse(hinted(text, more, window_ms), types=types) + bind(*values, formats=formats) + execute() + SYNC


def simple(text: str, more: str = "", window_ms: int = WINDOW_MS) -> bytes:
    """The hinted text as a Query."""
    return query(hinted(text, more, window_ms))
