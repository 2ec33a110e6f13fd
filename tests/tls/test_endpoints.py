"""Listeners that are given as Twisted endpoint descriptions: nothing is different there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.integration.conftest import assert_no_exception
from tests.integration.wire import Wire, kinds, query, startup, values
from tests.proxies import HOST, RunningProxy
from tests.tls.conftest import StartTls
from tests.tls.test_matrix import REQUIRED
from tqdbproxy.embedded import EmbeddedServer, reserved_ports

SOMEBODY = b"PROXY TCP4 192.0.2.7 192.0.2.8 4000 5432\r\n"
"""What a load balancer says first of a client."""


def test_tls_that_is_required_is_required_there(postgres: EmbeddedServer, start_tls: StartTls) -> None:
    with reserved_ports(1) as (port,):
        proxy = start_tls(f"{postgres.host}:{postgres.port}", "require", ALSO_LISTEN=f"tcp:{port}:interface={HOST}")
    with pytest.raises(psycopg.OperationalError) as refused:
        psycopg.connect(proxy.dsn(port=port, sslmode="disable"))
    assert REQUIRED in str(refused.value)
    with psycopg.connect(proxy.dsn(port=port, sslmode="require")) as connection:
        assert connection.pgconn.ssl_in_use
        assert connection.execute("SELECT 7").fetchone() == (7,)
    assert_no_exception(proxy)


def test_the_console_knows_its_operator_there(
    postgres: EmbeddedServer, start: Callable[..., RunningProxy], tmp_path: Path
) -> None:
    path = tmp_path / ".s.PGSQL.5432"
    proxy = start(f"{postgres.host}:{postgres.port}", ALSO_LISTEN=f"unix:{path}")
    with psycopg.connect(proxy.dsn("tqdb", host=str(tmp_path), port=5432), autocommit=True) as console:
        assert console.execute("SHOW VERSION").fetchone()
    assert proxy.stop() < 0
    assert not path.exists()
    assert_no_exception(proxy)


def test_the_next_server_is_tried_there(postgres: EmbeddedServer, start: Callable[..., RunningProxy]) -> None:
    with reserved_ports(2) as (port, nobody):
        servers = f"{HOST}:{nobody}, {postgres.host}:{postgres.port}"
        proxy = start(servers, ALSO_LISTEN=f"tcp:{port}:interface={HOST}")
        with psycopg.connect(proxy.dsn(port=port)) as connection:
            assert connection.execute("SELECT 7").fetchone() == (7,)
    assert_no_exception(proxy)


def test_a_load_balancer_tells_who_the_client_is(postgres: EmbeddedServer, start: Callable[..., RunningProxy]) -> None:
    with reserved_ports(1) as (port,):
        proxy = start(f"{postgres.host}:{postgres.port}", ALSO_LISTEN=f"haproxy:tcp:{port}:interface={HOST}")
    with Wire(port) as wire:
        wire.send(SOMEBODY)
        assert values(wire.start("postgres").ask(query("SELECT 7"))) == [b"7"]
        with psycopg.connect(proxy.dsn(port=proxy.port), autocommit=True) as other:
            assert other.execute("SELECT 1").fetchone() == (1,)
    with Wire(port) as wire:
        wire.send(SOMEBODY, startup("nowhere"))
        assert kinds(wire.to_end()).endswith("E")
    assert "client 192.0.2.7:4000, user postgres, database nowhere" in proxy.log
    assert_no_exception(proxy)


def test_whom_a_load_balancer_on_this_machine_speaks_for_is_not_local(
    postgres: EmbeddedServer, start_tls: StartTls, tmp_path: Path
) -> None:
    path = tmp_path / "balanced"
    proxy = start_tls(f"{postgres.host}:{postgres.port}", "require", ALSO_LISTEN=f"haproxy:unix:{path}")
    for database in ("postgres", "tqdb"):
        with Wire(0, path=path) as wire:
            wire.send(SOMEBODY, startup(database))
            (refusal,) = wire.to_end()
            assert refusal.fields()["M"] == REQUIRED
    assert_no_exception(proxy)
