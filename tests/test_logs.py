"""The log as JSON: what a line says, and where it is written."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import Logger, LogLevel, capturedLogs, formatEvent
from twisted.python import log as legacy
from twisted.python.failure import Failure

from tests import builders as m
from tests.peers import Script, World
from tqdbproxy.errors import ConfigError
from tqdbproxy.logs import json_line, json_log


def said(event: dict[str, Any]) -> dict[str, Any]:
    """The line for an event, read again."""
    line = json_line(event)
    assert line.endswith("\n")
    assert "\n" not in line[:-1]
    parsed: dict[str, Any] = json.loads(line)
    return parsed


def test_a_line() -> None:
    event = {
        "log_level": LogLevel.warn,
        "log_namespace": "tqdbproxy.x",
        "log_time": 1795217569.25,
        "log_format": "client {peer}:\n{reason}",
        "peer": "192.0.2.1:5",
        "reason": 'a "quote" {brace}',
        "count": 3,
        "share": 0.5,
        "no_number": float("nan"),
        "address": Path("x"),
        "none": None,
        "time": 1.0,
        "message": ("not", "ours"),
        "log_trace": object(),
    }
    assert list(said(event).items()) == [
        ("time", "2026-11-20T23:32:49.250000+00:00"),
        ("level", "warn"),
        ("namespace", "tqdbproxy.x"),
        ("message", 'client 192.0.2.1:5:\na "quote" {brace}'),
        ("peer", "192.0.2.1:5"),
        ("reason", 'a "quote" {brace}'),
        ("count", 3),
        ("share", 0.5),
        ("no_number", "nan"),
        ("address", "x"),
        ("none", None),
    ]


def test_a_failure_has_its_traceback() -> None:
    with capturedLogs() as events:
        try:
            raise KeyError("lost")
        except KeyError:
            Logger("n").failure("in {where}", Failure(), where="the test")
    line = said(events[0])
    assert (line["level"], line["message"], line["where"]) == ("critical", "in the test", "the test")
    assert "KeyError: 'lost'" in line["traceback"]


def test_what_old_code_says() -> None:
    with capturedLogs() as events:
        legacy.msg("hello", system="somebody")
    line = said(events[0])
    assert (line["level"], line["message"]) == ("info", "hello")
    assert set(line) == {"time", "level", "namespace", "message"}


def test_where_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stdout = io.StringIO()
    for options in ({"nodaemon": True}, {"nodaemon": True, "logfile": "-"}):
        json_log(options, stdout)({"log_format": "x"})
    assert [json.loads(line)["message"] for line in stdout.getvalue().splitlines()] == ["x", "x"]
    for options, name in (({"nodaemon": True, "logfile": "a.log"}, "a.log"), ({"nodaemon": False}, "twistd.log")):
        log = json_log(options, stdout)
        log({"log_format": "y"})
        assert json.loads((tmp_path / name).read_text())["message"] == "y"
        assert log.rotate is not None
        log.close()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"syslog": True, "nodaemon": True}, "syslog"),
        ({"nodaemon": False, "logfile": "-"}, "daemon"),
        ({"nodaemon": True, "logfile": "/nowhere/a.log"}, "/nowhere/a.log: No such file"),
    ],
)
def test_what_does_not_go_together(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        json_log(options, io.StringIO())


def test_connection_errors_carry_who_and_why() -> None:
    world = World(make_server=lambda: Script(m.authentication(3)))
    with capturedLogs() as events:
        refused, broken = world.accept(), world.accept()
        refused.says(m.startup(user="u{0}", database="d"))
        refused.answers(m.error("28P01", "no such password", severity="FATAL"))
        assert refused.wire is not None
        refused.wire.lose()
        world.settle()
        broken.says(b"GET / HTTP/1.1\r\n")
    lines = [said(event) for event in events]
    assert [line["message"] for line in lines] == [
        "client 192.0.2.1:1234, user u{0}, database d: the server refused the login: 28P01 no such password",
        "client 192.0.2.1:1234: invalid length of startup packet",
    ]
    keys = [{key: line[key] for key in ("peer", "user", "database", "reason") if key in line} for line in lines]
    assert keys == [
        {
            "peer": "192.0.2.1:1234",
            "user": "u{0}",
            "database": "d",
            "reason": "the server refused the login: 28P01 no such password",
        },
        {"peer": "192.0.2.1:1234", "reason": "invalid length of startup packet"},
    ]


def test_a_server_that_leaves_is_one_line_and_a_client_that_leaves_is_none() -> None:
    world = World()
    with capturedLogs() as events:
        left, leaves, vanishes = (world.client() for _ in range(3))
        assert left.wire is not None
        left.wire.lose()
        leaves.says(m.message(b"X"))
        vanishes.closes()
        world.settle()
    assert [event["reason"] for event in events] == ["the server closed the connection"]


def test_a_refusal_is_one_line_whoever_closes_first() -> None:
    world = World(make_server=lambda: Script(m.authentication(3)))
    with capturedLogs() as events:
        for closes_first in (True, False):
            client = world.accept()
            client.says(m.startup(user="u"))
            client.says(m.password("wrong"))
            client.answers(m.error("28P01", "no such password", severity="FATAL"))
            assert client.wire is not None
            first, second = (client.transport, client.wire) if closes_first else (client.wire, client.transport)
            first.lose()
            world.settle()
            assert second.lost
        # It only wanted to know whether it needs a password.
        client = world.accept()
        client.says(m.startup(user="u"))
        client.closes()
        world.settle()
    assert [event["reason"] for event in events] == ["the server refused the login: 28P01 no such password"] * 2


def test_a_client_that_hears_of_the_proxys_end_is_no_warning() -> None:
    world = World()
    world.client()
    with capturedLogs() as events:
        world.hub.close()
        world.settle()
    (event,) = events
    assert (event["log_level"], event["reason"]) == (
        LogLevel.info,
        "terminating connection due to administrator command",
    )


def test_a_name_can_not_end_a_line_or_paint_a_terminal() -> None:
    world = World(make_server=lambda: Script(m.authentication(3)))
    with capturedLogs() as events:
        client = world.accept()
        client.says(m.startup(user="u\nroot: all is well\x1b[2J\x7f\u2028\N{RIGHT-TO-LEFT OVERRIDE}", database="é d"))
        client.answers(m.error("28P01", "no\r\nuser\x1b", severity="FATAL"))
        client.closes()
        world.settle()
    (event,) = events
    assert formatEvent(event) == (
        "client 192.0.2.1:1234, user u\\nroot: all is well\\x1b[2J\\x7f\\u2028\\u202e, database é d: "
        "the server refused the login: 28P01 no\\r\\nuser\\x1b"
    )
