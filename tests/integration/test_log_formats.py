"""The log of a real twistd, as text and as JSON, wherever its options send it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.builders import startup
from tests.integration.waiting import wait_for
from tests.integration.wire import Wire
from tests.proxies import HOST, STOP_TIMEOUT_S, TWISTD, RunningProxy, is_at_work
from tqdbproxy.embedded import reserved_ports

JSON = "[log]\nformat = json\n"
NOBODY = "127.0.0.1:1"
"""A server that isn't there."""


def refused(port: int) -> None:
    """A login that fails, since there is no server: the event that the tests look for."""
    with Wire(port) as wire:
        wire.send(startup(user="some one", database="d"))
        assert wire.to_end()[0].fields()["C"] == "08001"


def objects(text: str) -> list[dict[str, Any]]:
    """The lines of a log, every one of which must be an object."""
    return [json.loads(line) for line in text.splitlines()]


def check_event(lines: list[dict[str, Any]]) -> None:
    """The refused login is there, once, with its keys."""
    (event,) = [line for line in lines if line["level"] == "warn"]
    assert (event["user"], event["database"], event["reason"]) == ("some one", "d", f"{NOBODY}: Connection refused")
    assert event["message"] == f"client {event['peer']}, user some one, database d: {event['reason']}"
    assert event["namespace"] == "tqdbproxy.postgres.clients.opening"


class Twistd:
    """A twistd with the options of the test's choice."""

    def __init__(self, folder: Path, text: str, *options: str) -> None:
        self._reservation = reserved_ports(2)
        self.port, metrics = self._reservation.__enter__()
        (folder / "x.ini").write_text(
            f"[postgres]\nlisten = {HOST}:{self.port}\n[postgres.main]\nprimary = {NOBODY}\n"
            f"[metrics]\nlisten = {HOST}:{metrics}\n{text}"
        )
        command = [TWISTD, *options, "tqdbproxy", "--config", "x.ini"]
        self.process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def accepts(self) -> bool:
        """Whether clients are served."""
        return is_at_work(self.port)

    def stop(self) -> str:
        """What it has printed."""
        self.process.terminate()
        return self.process.communicate(timeout=STOP_TIMEOUT_S)[0]

    def __enter__(self) -> Twistd:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        with self.process:
            pass
        self._reservation.__exit__(None, None, None)


def test_json_on_stdout(start: Callable[..., RunningProxy]) -> None:
    proxy = start(NOBODY, JSON)
    refused(proxy.port)
    proxy.stop()
    lines = objects(proxy.log)
    assert all(list(line)[:4] == ["time", "level", "namespace", "message"] for line in lines)
    check_event(lines)
    ours = [line["message"] for line in lines if line["namespace"].startswith("tqdbproxy.service")]
    assert ours.count(f"clients connect to {HOST}:{proxy.port}") == 1
    assert len([line for line in lines if line["message"].startswith("twistd ")]) == 1


def test_text_comes_once(start: Callable[..., RunningProxy]) -> None:
    proxy = start(NOBODY)
    refused(proxy.port)
    proxy.stop()
    (line,) = [line for line in proxy.log.splitlines() if "#warn" in line]
    assert line.endswith(f"user some one, database d: {NOBODY}: Connection refused")
    assert proxy.log.count("clients connect to") == 1


@pytest.mark.parametrize("text", ["", JSON], ids=["text", "json"])
def test_a_log_file_that_is_rotated(tmp_path: Path, text: str) -> None:
    log, old = tmp_path / "a.log", tmp_path / "a.log.1"
    with Twistd(tmp_path, text, "--nodaemon", "--pidfile=", "--logfile", "a.log") as twistd:
        wait_for(twistd.accepts)
        refused(twistd.port)
        wait_for(lambda: "some one" in log.read_text())
        twistd.process.send_signal(signal.SIGUSR1)
        wait_for(old.exists)
        refused(twistd.port)
        assert twistd.stop() == ""
    for part in (old.read_text(), log.read_text()):
        assert part.count(", user some one, database d") == 1
        if text:
            check_event(objects(part))


def test_a_daemons_json(tmp_path: Path) -> None:
    log, pid_file = tmp_path / "twistd.log", tmp_path / "twistd.pid"
    with Twistd(tmp_path, JSON) as twistd:
        assert twistd.process.wait(STOP_TIMEOUT_S) == 0
        pid = int(wait_for(lambda: pid_file.exists() and pid_file.read_text()))
        wait_for(twistd.accepts)
        refused(twistd.port)
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not pid_file.exists(), STOP_TIMEOUT_S)
    check_event(objects(log.read_text()))


def test_syslog_has_its_own_format(tmp_path: Path) -> None:
    with Twistd(tmp_path, JSON, "--nodaemon", "--pidfile=", "--syslog") as twistd:
        assert twistd.process.wait(STOP_TIMEOUT_S) == 1
        assert "can't be written to syslog" in twistd.stop()


def test_a_variable_that_no_section_takes_is_named_once(start: Callable[..., RunningProxy]) -> None:
    proxy = start(NOBODY, TQDBPROXY_WRITEBATCH_ENABLED="off")
    wait_for(lambda: f"{NOBODY} is down" in proxy.log)
    told = [line for line in proxy.log.splitlines() if "TQDBPROXY_" in line]
    assert len(told) == 1
    assert "#warn] no section of the configuration: TQDBPROXY_WRITEBATCH_ENABLED in the environment" in told[0]
