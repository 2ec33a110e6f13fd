"""The servers that a connection string names, and how each of them is tried."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from tqdbproxy.addresses import TcpAddress, UnixAddress
from tqdbproxy.errors import ConfigError, ServerUnreachable
from tqdbproxy.postgres.servers.hosts import Attempt, at_servers, attempts, check, names_server

NAMES = {"one": ["10.0.0.1", "10.0.0.2"], "two": ["10.0.0.3"], "::1": ["::1"], "10.0.0.9": ["10.0.0.9"]}


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(host: str, port: object, **_more: Any) -> list[tuple[Any, ...]]:
        if host not in NAMES:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(0, 0, 0, "", (number, 0)) for number in NAMES[host]]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    for name in ("PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)


def tried(conninfo: str) -> list[str]:
    """host/hostaddr/port of each attempt, or why there is none."""
    found = []
    for attempt in attempts(conninfo):
        if isinstance(attempt, Attempt):
            given = conninfo_to_dict(attempt.conninfo)
            found.append(f"{given.get('host')}/{given.get('hostaddr')}/{given.get('port')}")
        else:
            assert isinstance(attempt, ServerUnreachable)
            found.append(str(attempt))
    return found


def first(conninfo: str) -> dict[str, Any]:
    attempt = next(attempts(conninfo))
    assert isinstance(attempt, Attempt)
    return conninfo_to_dict(attempt.conninfo)


@pytest.mark.parametrize(
    ("conninfo", "expected"),
    [
        ("host=one", ["one/10.0.0.1/None", "one/10.0.0.2/None"]),
        ("host=two,one port=1,2", ["two/10.0.0.3/1", "one/10.0.0.1/2", "one/10.0.0.2/2"]),
        ("host=two,10.0.0.9 port=7", ["two/10.0.0.3/7", "10.0.0.9/10.0.0.9/7"]),
        ("host=::1", ["::1/::1/None"]),
        ("host=nowhere,two", ["nowhere: Name or service not known", "two/10.0.0.3/None"]),
        ("host=/tmp port=5", ["/tmp//5"]),
        ("hostaddr=10.1.1.1,10.1.1.2", ["10.1.1.1/10.1.1.1/None", "10.1.1.2/10.1.1.2/None"]),
        ("host=name hostaddr=10.1.1.1", ["name/10.1.1.1/None"]),
        ("postgresql://me@two:3,one:4/app", ["two/10.0.0.3/3", "one/10.0.0.1/4", "one/10.0.0.2/4"]),
        ("service=app", ["None/None/None"]),
    ],
)
def test_one_attempt_for_each_address(conninfo: str, expected: list[str]) -> None:
    assert tried(conninfo) == expected


def test_what_an_attempt_says_besides() -> None:
    given = first("host=two user=me password='a b' client_encoding=latin1 connect_timeout=3")
    assert (given["user"], given["password"], given["client_encoding"]) == ("me", "a b", "UTF8")
    assert (given["keepalives_idle"], given["tcp_user_timeout"]) == ("10", "25000")
    assert given["fallback_application_name"] == "tqdbproxy"


@pytest.mark.parametrize("wish", ["keepalives=0", "keepalives_idle=99", "tcp_user_timeout=1"])
def test_a_wish_for_other_keepalives_is_respected(wish: str) -> None:
    given = first(f"host=two {wish}")
    assert {name: given[name] for name in given if "keepalives" in name or "tcp" in name} == conninfo_to_dict(wish)


@pytest.mark.parametrize(("wish", "seconds"), [("", 5), ("connect_timeout=3", 3), ("connect_timeout=0", 5)])
def test_how_long_an_attempt_may_take(wish: str, seconds: float) -> None:
    (attempt,) = attempts(f"host=two {wish}")
    assert isinstance(attempt, Attempt)
    assert attempt.timeout_s == seconds


def test_the_one_of_a_group_that_takes_writes() -> None:
    addresses = (TcpAddress("one", 1), TcpAddress("::1", 2), UnixAddress("/tmp", 3))
    placed = at_servers("user=me dbname=app", addresses, "verify-full", "/root.pem")
    assert tried(placed) == ["one/10.0.0.1/1", "one/10.0.0.2/1", "::1/::1/2", "/tmp//3"]
    given = first(placed)
    assert (given["user"], given["dbname"], given["target_session_attrs"]) == ("me", "app", "read-write")
    assert (given["sslmode"], given["sslrootcert"]) == ("verify-full", "/root.pem")
    own = first(at_servers("target_session_attrs=primary sslmode=require", addresses, "disable", ""))
    assert (own["target_session_attrs"], own["sslmode"], own.get("sslrootcert")) == ("primary", "require", None)


@pytest.mark.parametrize(
    ("conninfo", "named"),
    [
        ("", False),
        ("user=me dbname=app", False),
        ("host='' user=me", False),
        ("postgresql://me@/app", False),
        ("host=a", True),
        ("hostaddr=10.0.0.1", True),
        ("service=app", True),
        ("postgresql://a,b/app", True),
    ],
)
def test_whether_it_names_a_server(conninfo: str, named: bool) -> None:
    check(conninfo)
    assert names_server(conninfo) is named


@pytest.mark.parametrize(
    ("conninfo", "problem"),
    [
        ("me", "is no connection string"),
        ("host=a,b hostaddr=10.0.0.1,10.0.0.2,10.0.0.3", "host has 2 entries for 3 servers"),
        ("host=a,b port=1,2,3", "port has 3 entries for 2 servers"),
        ("port=1", "port is given without host"),
        ("host=a connect_timeout=1.5", "connect_timeout is not a whole number"),
    ],
)
def test_what_can_t_be_used(conninfo: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        check(conninfo)
