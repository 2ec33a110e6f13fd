"""What one client does may delay another's reply by the batch that they share, and by nothing more.

Measured by order: who is answered while the other still isn't. No times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psutil
import pytest

from tests.integration.compare import Ends
from tests.integration.metrics import scrape
from tests.integration.waiting import wait_for
from tests.integration.wire import SYNC, Wire, bind, describe, execute, kinds, parse, query, values
from tests.proxies import RunningProxy

Wires = Callable[..., list[Wire]]

BIG = 4_000_000
SMALL_BUFFER = 4096
WAITS = "/* batch:400 key:together */"
"""Long enough that all of a few clients are in one batch, whatever the machine does."""


@pytest.fixture
def shared(proxy: RunningProxy, ends: Ends) -> Ends:
    """A table on which big rows can be had back."""
    ends.prepare("CREATE TABLE t (w int, v text)", "CREATE TABLE log (w int)")
    return ends


@pytest.fixture
def slow(shared: Ends) -> Iterator[Wire]:
    """A client that takes little at a time."""
    with ExitStack() as stack:
        wire = stack.enter_context(Wire(shared.proxied_port, receive_buffer=SMALL_BUFFER))
        yield wire.start(shared.database)


def big(w: int, hint: str = WAITS) -> bytes:
    """A write that returns a big row, said in the extended protocol."""
    sql = f"{hint} INSERT INTO t VALUES ($1, repeat('x', {BIG})) RETURNING v"
    return parse(sql, types=[23]) + bind(str(w)) + describe() + execute() + SYNC


def small(w: int, hint: str = WAITS) -> bytes:
    return query(f"{hint} INSERT INTO log VALUES ({w})")


def can_be_read(wire: Wire) -> bool:
    """Whether there is an answer; takes nothing of it."""
    wire.socket.setblocking(False)
    try:
        return bool(wire.socket.recv(1, 2))  # MSG_PEEK
    except BlockingIOError:
        return False
    finally:
        wire.socket.settimeout(20)


def acquaint(*all_of_them: Wire) -> None:
    """Each has written with the key lately: from now on nobody is taken for a lone writer."""
    for number, wire in enumerate(all_of_them):
        wire.send(small(-1 - number, "/* batch:20 key:together */"))
    for wire in all_of_them:
        assert kinds(wire.until()) == "CZ"


def write_together(wires: list[Wire], number: int) -> None:
    """All write, and all are answered."""
    for wire in wires:
        wire.send(small(number, "/* batch:20 key:together */"))
    for wire in wires:
        assert kinds(wire.until()) == "CZ"


@pytest.mark.parametrize("known", [True, False], ids=["in a batch", "alone"])
def test_a_slow_reader(shared: Ends, wires: Wires, slow: Wire, known: bool) -> None:
    """Alone it is a batch of one, and its transaction goes on until it has read; nobody waits for that."""
    others = wires(3, shared.proxied_port, shared.database)
    if known:
        acquaint(slow, *others)
    slow.send(big(0))
    for number in range(30):
        write_together(others, number)
    assert [len(value) for value in values(slow.until())] == [BIG]


def test_a_slow_reader_that_writes_on(shared: Ends, wires: Wires, slow: Wire) -> None:
    """Its own connection isn't read from; a batch that ran there would wait for it to read."""
    others = wires(3, shared.proxied_port, shared.database)
    acquaint(slow, *others)
    for number in range(6):
        slow.send(big(number))
        write_together(others, number)
        time.sleep(0.02)
    assert [len(value) for value in values(slow.until(count=6))] == [BIG] * 6
    assert shared.ask("SELECT count(*) FROM t") == [(6,)]


@pytest.mark.parametrize("known", [True, False], ids=["in a batch", "alone"])
def test_memory_for_a_client_that_never_reads(
    proxy: RunningProxy, shared: Ends, wires: Wires, slow: Wire, known: bool
) -> None:
    """PostgreSQL would execute no further when nobody takes its answers."""
    others = wires(3, shared.proxied_port, shared.database)
    if known:
        acquaint(slow, *others)
    process = psutil.Process(proxy.process.pid)
    before = process.memory_info().rss
    most = 0
    for number in range(25):
        slow.send(big(number, "/* batch:20 key:together */"))
        if known:
            write_together(others, number)
        time.sleep(0.02)
        most = max(most, process.memory_info().rss - before)
    assert most < 10 * BIG
    assert [len(value) for value in values(slow.until(count=25))] == [BIG] * 25


def test_a_statement_timeout(shared: Ends, wires: Wires) -> None:
    """Who hits it hits it again alone; meanwhile the others are answered, and write on."""
    shared.prepare(
        "CREATE FUNCTION nap() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(60); RETURN NEW; END$$",
        "CREATE TRIGGER nap BEFORE INSERT ON t FOR EACH ROW WHEN (NEW.w = 1) EXECUTE FUNCTION nap()",
    )
    late, *others = wires(4, shared.proxied_port)
    for wire in (late, *others):
        wire.start(shared.database, statement_timeout="4s")
    acquaint(late, *others)
    for number, wire in enumerate((late, *others), 1):
        wire.send(query(f"{WAITS} INSERT INTO t VALUES ({number})"))
    for wire in others:
        assert kinds(wire.until()) == "CZ"
    for number in range(5):
        write_together(others, number)
    assert not can_be_read(late), "the others waited for it"
    assert [frame.fields()["C"] for frame in late.until() if frame.kind == "E"] == ["57014"]
    assert shared.ask("SELECT array_agg(w ORDER BY w) FROM t") == [([2, 3, 4],)]


@pytest.mark.parametrize("when", ["waiting", "running"])
def test_a_client_that_disconnects(shared: Ends, wires: Wires, when: str) -> None:
    """Whether it waits or its write runs, with its own connection as the batch's: all of the batch is done."""
    gone, *others = wires(4, shared.proxied_port, shared.database)
    (holder,) = wires(1, shared.direct_port, shared.database)
    acquaint(gone, *others)
    holder.ask(query("BEGIN; LOCK TABLE log IN SHARE MODE"))
    for number, wire in enumerate((gone, *others)):
        wire.send(small(number))
    if when == "running":
        wait_for(lambda: shared.ask("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))
    gone.socket.close()
    holder.ask(query("COMMIT"))
    for wire in others:
        assert kinds(wire.until()) == "CZ"
    assert shared.ask("SELECT w FROM log WHERE w >= 0 ORDER BY w") == [(0,), (1,), (2,), (3,)]


def test_a_lock_that_one_group_waits_for(shared: Ends, wires: Wires, proxy: RunningProxy) -> None:
    """Groups of other keys know nothing of it."""
    blocked, free = wires(2, shared.proxied_port, shared.database)
    (holder,) = wires(1, shared.direct_port, shared.database)
    holder.ask(query("BEGIN; LOCK TABLE log IN SHARE MODE"))
    blocked.send(small(1, "/* batch:1 key:blocked */"))
    for number in range(20):
        assert kinds(free.ask(query(f"/* batch:1 */ INSERT INTO t VALUES ({number})"))) == "CZ"
    assert not can_be_read(blocked)
    holder.ask(query("COMMIT"))
    assert kinds(blocked.until()) == "CZ"
    assert scrape(proxy).total("clients", state="waiting") == 0
