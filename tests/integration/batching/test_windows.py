"""When windows close: by the quorum, by the timer, by the load."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.integration.batching.conftest import Place
from tests.integration.batching.crowd import Crowd, Reply, crowd, reply, status
from tests.integration.metrics import Growth, scrape
from tests.integration.test_limits import StartWith
from tests.integration.waiting import wait_for
from tests.integration.wire import SYNC, bind, execute, parse, query
from tests.proxies import RunningProxy
from tqdbproxy.core.writebatch.policy import GENERATION_S

INSERTED = Reply(tag="INSERT 0 1")
MANY = 12


@pytest.fixture
def plain(place: Place) -> Place:
    place.make("CREATE TABLE t (a int, b text)")
    return place


def write(hint: str) -> Callable[[int], bytes]:
    return lambda n: parse(f"{hint} INSERT INTO t VALUES ($1, 'x')") + bind(str(n)) + execute() + SYNC


def remembered(writers: Crowd, hint: str, since: float) -> bool:
    """Let them write five times; whether nobody was forgotten in between, who wrote at the time ``since``, too."""
    gaps = []
    for _ in range(5):
        began = time.monotonic()
        assert writers.send(write(hint)) == [INSERTED] * MANY
        gaps.append(time.monotonic() - since)
        since = began
    return max(gaps) < GENERATION_S


@pytest.mark.parametrize(("quorum", "smallest"), [("0", 1), ("0.5", 2), ("1", MANY)])
def test_a_quorum_closes_windows_long_before_their_end(
    plain: Place, start_with: StartWith, quorum: str, smallest: int
) -> None:
    proxy, _ = start_with(f"[write_batch]\nearly_quorum = {quorum}\nmax_hint_ms = 2000\n")
    with crowd(proxy, plain.database, MANY, search_path=plain.here) as writers:
        for _ in range(20):
            began = time.monotonic()
            writers.send(write("/* batch:20 */"))  # now they are known
            growth = Growth(proxy)
            if remembered(writers, "/* batch:2000 */", began):
                break
        else:
            pytest.fail("on this machine they are forgotten from one write to the next")
    assert growth("write_batch_closed_total", reason="timer") == 0
    batches = growth("write_batch_closed_total", reason="quorum")
    assert 5 <= batches <= 5 * MANY / smallest
    assert growth("write_batch_delay_seconds_sum") < 1.5 * batches


def test_without_a_quorum_windows_are_kept_to_their_end(plain: Place, start_with: StartWith) -> None:
    proxy, _ = start_with("[write_batch]\nearly_quorum = off\n")
    with crowd(proxy, plain.database, MANY, search_path=plain.here) as writers:
        growth = Growth(proxy)
        assert writers.send(write("/* batch:150 */")) == [INSERTED] * MANY
        assert writers.together == "merged"
    assert growth("write_batch_closed_total", reason="timer") == 1
    assert growth("write_batch_delay_seconds_sum") >= 0.15


# Adaptive mode

ADAPTIVE = """[write_batch]
mode = adaptive
early_quorum = off
initial_delay_ms = 5
min_delay_ms = 2
max_delay_ms = 20
write_threshold = 20
adaptive_step = 2
metrics_interval = 0.2
"""
STEADY = """[write_batch]
mode = adaptive
early_quorum = off
initial_delay_ms = 60
min_delay_ms = 60
max_delay_ms = 60
"""


def delay_ms(proxy: RunningProxy) -> float:
    return scrape(proxy).total("write_current_delay_ms")


@contextmanager
def load(writers: Crowd, hint: str = "") -> Iterator[None]:
    """Inside, all write as often as they can; the proxy isn't held for that."""
    done, free = threading.Event(), Crowd(writers.wires)

    def work() -> None:
        while not done.is_set():
            said.extend(one for one in free.send(write(hint)) if one != INSERTED)

    said: list[Reply] = []
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert not said


def test_the_window_follows_the_load(plain: Place, start_with: StartWith) -> None:
    proxy, _ = start_with(ADAPTIVE)
    wait_for(lambda: delay_ms(proxy) == 2)
    growth = Growth(proxy)
    with crowd(proxy, plain.database, MANY, search_path=plain.here) as writers:
        with load(writers):
            wait_for(lambda: delay_ms(proxy) == 20)
            wait_for(lambda: scrape(proxy).total("write_ops_per_second") > 20)
        assert writers.send(write("")) == [INSERTED] * MANY
        assert writers.together == "merged"
        wait_for(lambda: delay_ms(proxy) == 2)
    assert growth("write_delay_adjustments_total", direction="up") >= 4
    assert growth("write_delay_adjustments_total", direction="down") >= 4
    assert growth("write_batched_total") > MANY
    wait_for(lambda: scrape(proxy).total("write_ops_per_second") == 0)


def test_a_hint_decides_for_itself(plain: Place, start_with: StartWith) -> None:
    proxy, _ = start_with(ADAPTIVE)
    with crowd(proxy, plain.database, MANY, search_path=plain.here) as writers:
        growth = Growth(proxy)
        assert writers.send(write("/* batch:0 */")) == [INSERTED] * MANY
        assert set(writers.statuses()) == {("", "", "")}
        assert growth("write_batch_size_count") == 0
        assert writers.send(write("/* batch:150 */")) == [INSERTED] * MANY
        assert writers.together == "merged"
        assert growth("write_batch_delay_seconds_sum") >= 0.15
        wire = writers.wires[0]
        wire.ask(query("BEGIN"))
        assert reply(wire.ask(write("")(1))) == INSERTED
        wire.ask(query("COMMIT"))
        assert status(wire) == ("", "", "")
        assert growth("write_batch_size_count") == 1
        wire.ask(write("")(1))
        assert status(wire) == ("single", "1", "")


def reload(proxy: RunningProxy, text: str | None = None) -> None:
    """Let the proxy read its configuration again, this one or the same."""
    before = proxy.log.count("configuration reloaded")
    if text is not None:
        proxy.config_path.write_text(text)
    proxy.process.send_signal(signal.SIGHUP)
    wait_for(lambda: proxy.log.count("configuration reloaded") > before)


def test_a_reload_keeps_the_window(start_with: StartWith) -> None:
    """Without writes it has shrunk to its smallest, and the next measurement is far away."""
    proxy, _ = start_with(ADAPTIVE)
    wait_for(lambda: delay_ms(proxy) == 2)
    still = ADAPTIVE.replace("metrics_interval = 0.2", "metrics_interval = 600")
    for text, kept in [
        (still, 2),
        (None, 2),
        (still + "\n[limits]\nmax_clients = 7\n", 2),
        (still.replace("initial_delay_ms = 5", "initial_delay_ms = 10"), 2),
        (still.replace("min_delay_ms = 2", "min_delay_ms = 4"), 4),
        (still, 4),
        (
            still.replace("max_delay_ms = 20", "max_delay_ms = 3").replace(
                "initial_delay_ms = 5", "initial_delay_ms = 2"
            ),
            3,
        ),
    ]:
        reload(proxy, text)
        assert delay_ms(proxy) == kept, text
    reload(proxy, "")
    assert delay_ms(proxy) == 0
    reload(proxy, still)
    assert delay_ms(proxy) == 5, "switched off and on, it begins anew"


def test_the_mode_can_be_changed(plain: Place, start_with: StartWith) -> None:
    proxy, _ = start_with("[write_batch]\nearly_quorum = off\n")
    with crowd(proxy, plain.database, MANY, search_path=plain.here) as writers:
        for _ in range(2):
            assert writers.send(write("")) == [INSERTED] * MANY
            assert set(writers.statuses()) == {("", "", "")}
            assert delay_ms(proxy) == 0
            reload(proxy, STEADY)
            assert delay_ms(proxy) == 60
            assert writers.send(write("")) == [INSERTED] * MANY
            assert writers.together == "merged"
            reload(proxy, STEADY + "enabled = false\n")
            assert writers.send(write("")) == [INSERTED] * MANY
            assert {one.strategy for one in writers.statuses()} == {""}
            reload(proxy, "")
