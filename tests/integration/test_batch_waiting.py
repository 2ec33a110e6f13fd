"""Writes that wait: windows, limits, time-outs. Who is too many is forwarded at once."""

from __future__ import annotations

import time

import psycopg

from tests.integration.metrics import Growth, scrape
from tests.integration.test_batches import together
from tests.integration.test_limits import StartWith, Wires
from tests.integration.waiting import wait_for
from tests.integration.wire import Wire, kinds, query

PATIENT = "[write_batch]\nearly_quorum = off\nmax_hint_ms = 60000\n"
INSERT = query("/* batch:60000 */ INSERT INTO t VALUES (1)")


def test_max_pending_at_its_edge(start_with: StartWith, wires: Wires) -> None:
    proxy, ends = start_with(PATIENT + "max_pending = 3\n")
    ends.prepare("CREATE TABLE t (a int)")
    *waiting, late, later = wires(5, proxy.port, ends.database)
    for wire in waiting:
        wire.send(INSERT)
    wait_for(lambda: scrape(proxy).total("clients", state="waiting") == 3)
    grown = Growth(proxy)
    for wire in (late, later):
        assert kinds(wire.ask(INSERT)) == "CZ"
    assert grown("write_excluded_total", reason="no_capacity") == grown("write_excluded_total") == 2
    assert b"no_capacity" in b"".join(frame.body for frame in late.ask(query("SELECT * FROM pg_tqdb_status")))
    assert scrape(proxy).total("clients", state="waiting") == 3
    # One leaves the queue, one may enter it.
    with Wire(proxy.port) as wire:
        wire.send(b"\0\0\0\x10\x04\xd2\x16\x2e" + waiting[0].key)
    assert kinds(waiting[0].until()) == "EZ"
    late.send(INSERT)
    wait_for(lambda: scrape(proxy).total("clients", state="waiting") == 3)
    assert ends.ask("SELECT count(*) FROM t") == [(2,)]


def test_a_window_is_kept_to_its_end_and_no_longer(start_with: StartWith, wires: Wires) -> None:
    proxy, ends = start_with(PATIENT)
    ends.prepare("CREATE TABLE t (a int)")
    two = wires(2, proxy.port, ends.database)
    begun = time.monotonic()
    together(two, [query("/* batch:400 */ INSERT INTO t VALUES (1)")] * 2)
    assert 0.35 < time.monotonic() - begun < 30
    page = scrape(proxy)
    assert page.total("write_batch_closed_total", reason="timer") == page.total("write_batch_size_count") == 1


def test_a_lone_client_does_not_wait(start_with: StartWith) -> None:
    proxy, ends = start_with("[write_batch]\nmax_hint_ms = 60000\n")
    ends.prepare("CREATE TABLE t (a int)")
    with psycopg.connect(ends.proxied, autocommit=True) as connection:
        begun = time.monotonic()
        for _ in range(20):
            connection.execute("/* batch:60000 */ INSERT INTO t VALUES (1)")
        assert time.monotonic() - begun < 50
    assert scrape(proxy).total("write_batch_closed_total", reason="quorum") == 20


def test_a_write_that_never_ran_expires(start_with: StartWith, wires: Wires) -> None:
    proxy, ends = start_with(PATIENT + "timeout_s = 0.5\n")
    ends.prepare("CREATE TABLE t (a int)")
    (wire,) = wires(1, proxy.port, ends.database)
    begun = time.monotonic()
    answer = wire.ask(INSERT)
    assert time.monotonic() - begun < 50
    assert (kinds(answer), answer[0].fields()["C"], answer[0].fields()["V"]) == ("EZ", "57014", "ERROR")
    assert kinds(wire.ask(query("SELECT 1"))) == "TDCZ"
    assert ends.ask("SELECT count(*) FROM t") == [(0,)]


def test_of_a_batch_that_takes_too_long_nobody_knows(start_with: StartWith, wires: Wires) -> None:
    proxy, ends = start_with("[write_batch]\nearly_quorum = off\nmax_batch_size = 3\ntimeout_s = 2\n")
    ends.prepare("CREATE TABLE t (a int)")
    three = wires(3, proxy.port, ends.database)
    with psycopg.connect(ends.direct) as holder:
        holder.execute("LOCK TABLE t")
        answers = together(three, [query("/* batch:1000 */ INSERT INTO t VALUES (1)")] * 3)
        assert [(kinds(answer)[:1], answer[0].fields()["C"]) for answer in answers] == [("E", "08007")] * 3
    wait_for(lambda: ends.ask("SELECT count(*) FROM t") in ([(0,)], [(3,)]))


def test_groups_of_one_key_run_one_after_another(start_with: StartWith, wires: Wires) -> None:
    proxy, ends = start_with("[write_batch]\nearly_quorum = 0\n")
    ends.prepare("CREATE TABLE t (a int)")
    many = wires(11, proxy.port, ends.database)
    insert = query("/* batch:1000 */ INSERT INTO t VALUES (1)")
    with psycopg.connect(ends.direct) as holder:
        holder.execute("LOCK TABLE t")
        for wire in many:
            wire.send(insert)
        wait_for(lambda: scrape(proxy).total("clients", state="waiting") >= 10)
        assert scrape(proxy).total("write_batch_size_count") == 1
    assert [kinds(wire.until()) for wire in many] == ["CZ"] * 11
    page = scrape(proxy)
    assert (page.total("write_batch_size_count"), page.total("write_batch_size_sum")) == (2, 11)


def test_a_full_group_does_not_wait(start_with: StartWith, wires: Wires) -> None:
    proxy, ends = start_with(f"{PATIENT}max_batch_size = 2\n")
    ends.prepare("CREATE TABLE t (a int)")
    begun = time.monotonic()
    together(wires(6, proxy.port, ends.database), [INSERT] * 6)
    assert time.monotonic() - begun < 50
    assert scrape(proxy).total("write_batch_closed_total", reason="full") == 3


def test_a_batch_is_bounded_in_bytes(start_with: StartWith, wires: Wires) -> None:
    """What doesn't fit any more waits for the next batch, at the longest for its window."""
    proxy, ends = start_with(f"{PATIENT}max_batch_bytes = 4000\n")
    ends.prepare("CREATE TABLE t (a text)")
    text = "x" * 1200
    begun = time.monotonic()
    insert = query(f"/* batch:1000 */ INSERT INTO t VALUES ('{text}')")
    together(wires(9, proxy.port, ends.database), [insert] * 9)
    assert time.monotonic() - begun < 50
    page = scrape(proxy)
    assert page.total("write_batch_closed_total", reason="full") >= 2
    assert page.total("write_batch_size_bucket", le="5.0") == page.total("write_batch_size_count") >= 3
    assert page.total("write_batch_size_sum") == 9


def test_a_write_larger_than_any_batch_is_forwarded(start_with: StartWith, wires: Wires) -> None:
    proxy, ends = start_with(f"{PATIENT}max_batch_bytes = 1000\n")
    ends.prepare("CREATE TABLE t (a text)")
    (wire,) = wires(1, proxy.port, ends.database)
    text = "x" * 2000
    assert kinds(wire.ask(query(f"/* batch:20000 */ INSERT INTO t VALUES ('{text}')"))) == "CZ"
    assert scrape(proxy).total("write_excluded_total", reason="no_capacity") == 1
