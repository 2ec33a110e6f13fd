"""The command line and twistd, as a user meets them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.proxies import HOST, TWISTD, Ports, start_proxy
from tqdbproxy import cli

COMMAND = str(Path(sys.executable).with_name("tqdbproxy"))
MINIMAL = str(Path(__file__).parent.parent / "etc" / "tqdbproxy-minimal.ini")


def run(*command: str, cwd: Path | None = None) -> tuple[int, str, str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100, cwd=cwd)
    return done.returncode, done.stdout, done.stderr


# -- the command


def test_version() -> None:
    status, said, _ = run(COMMAND, "--version")
    assert (status, said) == (0, "tqdbproxy 0.1.0\n")


def test_check_config(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["check-config", MINIMAL]) == 0
    assert capsys.readouterr() == (f"{MINIMAL}: ok\n", "")
    wrong = tmp_path / "x.ini"
    wrong.write_text("[postgres.main]\nprimary = db\nsslmode = on\n")
    assert cli.main(["check-config", str(wrong)]) == 1
    assert capsys.readouterr() == (
        "",
        f'tqdbproxy: {wrong}, line 3: [postgres.main] sslmode: the value "on" is unacceptable '
        "(one of disable, prefer, require, verify-ca, verify-full)\n",
    )


def test_commands_whose_packages_are_missing_say_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cli.COMMANDS, "demo", ("tqdbproxy.nowhere", "embedded", ""))
    assert cli.main(["demo"]) == 1
    assert capsys.readouterr().err == (
        "tqdbproxy: there is no module tqdbproxy.nowhere here: pip install '.[embedded]' in the sources' folder\n"
    )


@pytest.mark.parametrize("command", ["demo", "bench"])
def test_commands_explain_their_arguments(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    assert f"usage: tqdbproxy {command}" in capsys.readouterr().out


# -- twistd


@pytest.mark.parametrize("mode", [["--nodaemon"], []], ids=["foreground", "daemon"])
def test_twistd_refuses_a_wrong_configuration_in_one_line(tmp_path: Path, mode: list[str]) -> None:
    (tmp_path / "x.ini").write_text("[postgres.main]\nprimary = db\n[log]\nlevl = info\n")
    status, said, complained = run(TWISTD, *mode, "tqdbproxy", "--config", "x.ini", cwd=tmp_path)
    line = "tqdbproxy: x.ini, line 4: [log] levl: there is no such key; did you mean level?\n"
    assert (status, said, complained) == (1, "", line)
    assert [path.name for path in tmp_path.iterdir()] == ["x.ini"]


def test_twistd_in_the_foreground(tmp_path: Path, ports: Ports) -> None:
    (port,) = ports(1)
    proxy = start_proxy(tmp_path, f"{HOST}:{port}")
    assert proxy.stop() == -signal.SIGTERM
    assert "Traceback" not in proxy.log


def test_twistd_as_a_daemon(tmp_path: Path, ports: Ports) -> None:
    port, nobody = ports(2)
    (tmp_path / "x.ini").write_text(
        f"[postgres]\nlisten = {HOST}:{port}\n[postgres.main]\nprimary = {HOST}:{nobody}\n[metrics]\nlisten =\n"
    )
    assert run(TWISTD, "tqdbproxy", "--config", "x.ini", cwd=tmp_path)[0] == 0
    daemon = psutil.Process(int((tmp_path / "twistd.pid").read_text()))
    try:
        wait_for(tmp_path / "twistd.log", "clients connect to")
        daemon.send_signal(signal.SIGHUP)  # reads x.ini again, though twistd has changed to another folder
        wait_for(tmp_path / "twistd.log", "configuration reloaded")
    finally:
        daemon.terminate()
        daemon.wait(60)
    assert not (tmp_path / "twistd.pid").exists()


def wait_for(log: Path, text: str) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if log.exists() and text in log.read_text():
            return
        time.sleep(0.02)
    raise AssertionError(f"{text!r} is not in the log:\n{log.read_text()}")


# -- the demo


def test_demo_once(ports: Ports) -> None:
    (port,) = ports(1)
    status, said, complained = run(COMMAND, "demo", "--once", "--port", str(port), "--seconds", "1", "--clients", "10")
    assert (status, complained) == (0, "")
    for way in ("directly", "through the proxy", r"with /\* batch:10 \*/"):
        assert re.search(rf"{way} +[\d,]+ +\d+\.\d x +[\d.]+ ms +[\d,]+ +[\d.]+", said), said
    assert re.search(r"Each of the [\d,]+ acknowledged inserts is one row", said)


def test_demo_on_a_taken_port() -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        status, _, complained = run(COMMAND, "demo", "--once", "--port", str(port))
    assert status == 1
    assert complained == (
        f"tqdbproxy: port {port} on 127.0.0.1 can't be used: Address already in use; "
        "choose another one with --port (make demo DEMO_ARGS='--port 6543')\n"
    )


@pytest.mark.parametrize(
    ("number", "after"), [(signal.SIGINT, "as they get answers"), (signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "Ctrl-C")]
)
def test_nothing_stays_behind_when_the_demo_is_interrupted(
    tmp_path: Path, ports: Ports, number: signal.Signals, after: str
) -> None:
    (port,) = ports(1)
    command = [COMMAND, "demo", "--port", str(port), "--seconds", "1", "--clients", "5"]
    output = tmp_path / "output"
    with output.open("wb") as file:
        demo = psutil.Popen(command, stdout=file, stderr=file, start_new_session=True)
    try:
        wait_for(output, after)
        family = demo.children(recursive=True)
        assert len(family) > 3
        os.killpg(demo.pid, number)
        demo.wait(60)
    finally:
        if demo.poll() is None:
            demo.kill()
            demo.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []
