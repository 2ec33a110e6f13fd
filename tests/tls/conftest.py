"""Fixtures: certificates, Debian's PostgreSQL with TLS, proxies with certificates."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.proxies import RunningProxy
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
        own = presented or certificate
        root = authority.root if root is None and sslmode.startswith("verify") else root
        text = f"""
            [postgres]
            tls = {tls}
            tls_cert = {own.chain}
            tls_key = {own.key}
            [postgres.main]
            sslmode = {sslmode}
            sslrootcert = {"" if root is None else root}
            {more}
        """
        return start(primary, text, **environ)

    return start_one
