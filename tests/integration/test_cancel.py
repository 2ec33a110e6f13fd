"""Cancel requests reach the server process of their session, and nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psycopg
import pytest

from tests.integration.compare import Connection, Ends, fields
from tests.integration.metrics import scrape
from tests.integration.waiting import wait_for
from tests.integration.wire import PROTOCOL_3_2, Wire, cancel_request, kinds, query, startup, values
from tests.proxies import RunningProxy


def later(connection: Connection, condition: Callable[[], object], call: Callable[[], object]) -> threading.Thread:
    """Call when the condition is true, in a thread of its own."""
    thread = threading.Thread(target=lambda: (wait_for(condition), call()))
    thread.start()
    return thread


def test_a_running_query_is_cancelled(ends: Ends) -> None:
    def talk(connection: Connection) -> dict[str, str]:
        runs = f"SELECT 1 FROM pg_stat_activity WHERE pid = {connection.info.backend_pid} AND wait_event = 'PgSleep'"
        thread = later(connection, lambda: ends.ask(runs), connection.cancel_safe)
        with pytest.raises(psycopg.errors.QueryCanceled) as caught:
            connection.execute("SELECT pg_sleep(60)")
        thread.join()
        assert connection.execute("SELECT 1").fetchone() == (1,)
        return fields(caught.value.diag)

    assert ends.same(talk)["SQLSTATE"] == "57014"


def test_a_cancel_of_an_idle_session_hurts_nobody(ends: Ends) -> None:
    with psycopg.connect(ends.proxied, autocommit=True) as connection:
        for n in range(20):
            connection.cancel_safe()
            assert connection.execute("SELECT %s", (n,)).fetchone() == (n,)


def test_a_long_key_cancels(ends: Ends) -> None:
    with Wire(ends.proxied_port) as wire:
        frames = wire.ask(startup(ends.database, version=PROTOCOL_3_2))
        (key,) = (frame.body for frame in frames if frame.kind == "K")
        wire.send(query("SELECT pg_sleep(60)"))
        wait_for(lambda: ends.ask("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
        with Wire(ends.proxied_port) as other:
            other.send(cancel_request(key))
            assert other.to_end() == []
        answer = wire.until()
        assert (kinds(answer), answer[1].fields()["C"]) == ("TEZ", "57014")


@pytest.mark.parametrize("key", [b"", b"\0\0\0\1", bytes(8), b"\xff" * 256], ids=len)
def test_a_key_that_is_not_ours_is_ignored(ends: Ends, key: bytes) -> None:
    with Wire(ends.proxied_port).start(ends.database) as wire:
        for wrong in (key, wire.key[:4] + key, wire.key + b"x", wire.key[:-1]):
            with Wire(ends.proxied_port) as other:
                other.send(cancel_request(wrong))
                assert other.to_end() == []
        assert values(wire.ask(query("SELECT 'undisturbed'"))) == [b"undisturbed"]


def test_a_waiting_write_is_taken_out(start_with: Callable[[str], tuple[RunningProxy, Ends]]) -> None:
    proxy, ends = start_with("[write_batch]\nmax_hint_ms = 60000\nearly_quorum = off\n")
    ends.prepare("CREATE TABLE t (a int)")
    with psycopg.connect(ends.proxied, autocommit=True) as connection:
        for text, parameters in (("VALUES (1)", None), ("VALUES (%s)", (1,))):
            waits = later(connection, lambda: scrape(proxy).total("clients", state="waiting"), connection.cancel_safe)
            begun = time.monotonic()
            with pytest.raises(psycopg.errors.QueryCanceled, match="canceling statement due to user request"):
                connection.execute(f"/* batch:60000 */ INSERT INTO t {text}".encode(), parameters)
            waits.join()
            assert time.monotonic() - begun < 50
            assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
            assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_a_write_that_runs_in_a_batch_is_not_cancelled(
    start_with: Callable[[str], tuple[RunningProxy, Ends]],
) -> None:
    """Its statement runs on another member's connection, or carries the others."""
    _proxy, ends = start_with("[write_batch]\nmax_batch_size = 2\nearly_quorum = off\n")
    ends.prepare(
        "CREATE TABLE t (a int)",
        "CREATE FUNCTION waits() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END'",
        "CREATE TRIGGER waits BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION waits()",
    )
    insert = query("/* batch:1000 */ INSERT INTO t VALUES (1)")
    holds = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = 'advisory'"
    with (
        psycopg.connect(ends.direct) as holder,
        Wire(ends.proxied_port).start(ends.database) as one,
        Wire(ends.proxied_port).start(ends.database) as two,
    ):
        holder.execute("SELECT pg_advisory_xact_lock(1)")
        one.send(insert)
        two.send(insert)
        wait_for(lambda: ends.ask(holds))
        for wire in (one, two):
            with Wire(ends.proxied_port) as other:
                other.send(cancel_request(wire.key))
                assert other.to_end() == []
        holder.rollback()
        assert [kinds(wire.until()) for wire in (one, two)] == ["CZ", "CZ"]
    assert ends.ask("SELECT count(*) FROM t") == [(2,)]
