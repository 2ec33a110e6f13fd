"""Fixtures: certificates, Debian's PostgreSQL with TLS, proxies with certificates."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.proxies import RunningProxy, start_proxy
from tests.tls.certificates import Authority, Certificate, openssl_missing
from tests.tls.servers import debian_programs, debian_server
from tqdbproxy.embedded import EmbeddedServer

StartTls = Callable[..., RunningProxy]


def lacking(what: str) -> None:
    """Skip the test; in CI, where it must not be skipped, fail."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The one that clients and proxies trust."""
    if missing := openssl_missing():
        lacking(missing)
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def certificate(authority: Authority) -> Certificate:
    """The proxies', for localhost and 127.0.0.1."""
    return authority.sign("proxy")


@pytest.fixture(scope="session")
def debian(authority: Authority) -> Iterator[EmbeddedServer]:
    """Debian's PostgreSQL, with TLS; see `debian_server`."""
    programs = debian_programs()
    if programs is None:
        lacking("Debian's PostgreSQL, which has TLS, is not installed: apt-get install postgresql")
    else:
        with debian_server(programs, authority.sign("server"), authority.root) as server:
            yield server


@pytest.fixture
def start_tls(start: Callable[..., RunningProxy], authority: Authority, certificate: Certificate) -> StartTls:
    """Starts a proxy with these modes of TLS; ``sslrootcert`` is given where ``sslmode`` needs it."""

    def start_one(
        primary: str,
        tls: str = "allow",
        sslmode: str = "disable",
        *,
        presented: Certificate | None = None,
        root: Path | str | None = None,
        more: str = "",
        **environ: str,
    ) -> RunningProxy:
        root = authority.root if root is None and sslmode.startswith("verify") else root
        return start(primary, tls_settings(presented or certificate, tls, sslmode, root, more), **environ)

    return start_one


def tls_settings(own: Certificate, tls: str, sslmode: str, root: Path | str | None, more: str = "") -> str:
    """A proxy's configuration; ``more`` begins with keys of the server group."""
    return f"""
        [postgres]
        tls = {tls}
        tls_cert = {own.chain}
        tls_key = {own.key}
        [postgres.main]
        sslmode = {sslmode}
        sslrootcert = {"" if root is None else root}
        {more}
    """


@pytest.fixture(scope="session")
def encrypted(
    debian: EmbeddedServer, authority: Authority, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningProxy]:
    """One proxy for all tests, with TLS on both sides, before `debian`."""
    text = tls_settings(certificate, "require", "verify-full", authority.root)
    running = start_proxy(tmp_path_factory.mktemp("encrypted"), f"localhost:{debian.port}", text)
    yield running
    assert running.stop() == -signal.SIGTERM, running.log
    assert "Traceback" not in running.log
    assert "event loop:" not in running.log


@pytest.fixture(scope="session")
def allowing(
    postgres: EmbeddedServer, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningProxy]:
    """One proxy for all tests, with tls = allow, before a server without TLS."""
    text = tls_settings(certificate, "allow", "disable", None)
    running = start_proxy(tmp_path_factory.mktemp("allowing"), f"{postgres.host}:{postgres.port}", text)
    yield running
    assert running.stop() == -signal.SIGTERM, running.log
    assert "Traceback" not in running.log
    assert "event loop:" not in running.log
