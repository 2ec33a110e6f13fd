"""Limits: one more is refused as PostgreSQL would, and who is there already notices nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
import pytest

from tests.integration.compare import Ends
from tests.integration.metrics import scrape
from tests.integration.waiting import wait_for
from tests.integration.wire import SSL_REQUEST, Wire, kinds, query, startup, values
from tests.proxies import RunningProxy

StartWith = Callable[[str], tuple[RunningProxy, Ends]]
Wires = Callable[..., list[Wire]]


def refusal(port: int, database: str) -> tuple[str, str]:
    """Severity and SQLSTATE with which a new session is refused; empty texts if it isn't."""
    with Wire(port) as wire:
        wire.send(startup(database))
        first = wire.receive()
        if first.kind != "E":
            return "", ""
        assert wire.to_end() == []
        return first.fields()["V"], first.fields()["C"]


def test_max_clients_at_its_edge(start_with: StartWith, wires: Wires) -> None:
    proxy, ends = start_with("[limits]\nmax_clients = 3\n")
    three = wires(3, proxy.port, ends.database)
    assert refusal(proxy.port, ends.database) == ("FATAL", "53300")
    with pytest.raises(psycopg.OperationalError, match="too many clients"):
        psycopg.connect(ends.proxied)
    assert [values(wire.ask(query("SELECT 5"))) for wire in three] == [[b"5"]] * 3
    three.pop().socket.close()
    wait_for(lambda: scrape(proxy).total("clients") == 2)
    assert refusal(proxy.port, ends.database) == ("", "")


def test_a_cancel_gets_in_where_no_session_does(start_with: StartWith) -> None:
    proxy, ends = start_with("[limits]\nmax_clients = 1\n")
    with psycopg.connect(ends.proxied, autocommit=True) as connection:
        assert refusal(proxy.port, ends.database) == ("FATAL", "53300")
        connection.execute("SET statement_timeout = '20s'")
        with Wire(proxy.port) as wire:
            wire.send(SSL_REQUEST)
            assert wire.raw(1) == b"N"
        connection.cancel_safe()
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_who_is_slow_to_log_in_is_sent_away(start_with: StartWith, wires: Wires) -> None:
    proxy, ends = start_with("[limits]\nlogin_timeout_s = 2\n")
    with Wire(proxy.port).start(ends.database) as old:
        beginnings = (b"", SSL_REQUEST[:3], startup(ends.database)[:20])
        begun = time.monotonic()
        slow = wires(len(beginnings), proxy.port)
        for wire, said in zip(slow, beginnings, strict=True):
            wire.send(said)
        for wire in slow:
            assert [frame.fields()["C"] for frame in wire.to_end()] == ["57014"]
        assert 1.5 < time.monotonic() - begun < 50
        assert values(old.ask(query("SELECT 'still here'"))) == [b"still here"]
        assert kinds(old.ask(query("SELECT pg_sleep(0.5)"))) == "TDCZ"
    wait_for(lambda: not scrape(proxy).total("clients"))


def test_many_clients_at_once(ends: Ends, wires: Wires) -> None:
    many = wires(200, ends.proxied_port)
    for wire in many:
        wire.send(startup(ends.database))
    for wire in many:
        assert kinds(wire.until())[-1] == "Z"
    for number, wire in enumerate(many):
        wire.send(query(f"SELECT {number}"))
    for number, wire in enumerate(many):
        assert values(wire.until()) == [b"%d" % number]
        wire.socket.close()
    wait_for(lambda: not ends.ask("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT %' AND state = 'idle'"))
