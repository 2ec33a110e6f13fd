"""Whom the proxy takes for its server, and what its clients hear when it doesn't; whom clients take for the proxy."""

from __future__ import annotations

import signal
from pathlib import Path

import psycopg
import pytest

from tests.integration.waiting import wait_for
from tests.proxies import RunningProxy
from tests.tls.certificates import Authority, Certificate
from tests.tls.clients import TlsWire, client_context
from tests.tls.conftest import StartTls
from tests.tls.servers import UNASKED, PretendedServer, trusting
from tqdbproxy.embedded import EmbeddedServer
from tqdbproxy.postgres.clients.replies import NO_SERVER

FAILED = "TLS: certificate verify failed: "
EXPIRED = FAILED + "certificate has expired"
UNTRUSTED = FAILED + "unable to get local issuer certificate"
WRONG_NAME = FAILED + "Hostname mismatch, certificate is not valid for '{host}'."
WRONG_ADDRESS = FAILED + "IP address mismatch, certificate is not valid for '{host}'."

# What the proxy says of a server that shows this certificate, by sslmode; nothing: it is taken for the right one.
TRUSTED_ONLY = {"expired": EXPIRED, "untrusted": UNTRUSTED}
VERDICTS = {
    ("require", "localhost"): {},
    ("require with root", "localhost"): TRUSTED_ONLY,
    ("verify-ca", "localhost"): TRUSTED_ONLY,
    ("verify-full", "localhost"): {**TRUSTED_ONLY, "other name": WRONG_NAME, "address only": WRONG_NAME},
    ("verify-full", "127.0.0.1"): {
        **TRUSTED_ONLY,
        **dict.fromkeys(("other name", "common name only", "other address"), WRONG_ADDRESS),
    },
}


@pytest.fixture(scope="session")
def shown(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Certificate]:
    """The certificates that a server may have, by what is special about them."""
    stranger = Authority(tmp_path_factory.mktemp("stranger"), "stranger")
    return {
        "right": authority.sign("right"),
        "common name only": authority.sign("common", alternative=""),
        "address only": authority.sign("address", alternative="IP:127.0.0.1", common="nobody.example"),
        "other name": authority.sign("other", alternative="DNS:other.example"),
        "other address": authority.sign("elsewhere", alternative="DNS:localhost,IP:192.0.2.1"),
        "expired": authority.sign("expired", days=-1),
        "untrusted": stranger.sign("untrusted"),
        "below an intermediate": authority.intermediate("intermediate").sign("below"),
    }


@pytest.mark.parametrize(("mode", "host"), VERDICTS)
def test_certificates_of_servers(
    mode: str, host: str, shown: dict[str, Certificate], start_tls: StartTls, authority: Authority
) -> None:
    sslmode, _, given = mode.partition(" with ")
    wanted = {name: VERDICTS[mode, host].get(name, "").format(host=host) for name in shown}
    with PretendedServer(trusting(shown["right"].server_context())) as server:
        address = f"{host}:{server.port}"
        proxy = start_tls(address, "off", sslmode, root=authority.root if given else None, more=UNASKED)
        seen = {}
        for name, certificate in shown.items():
            server.script = trusting(certificate.server_context())
            seen[name] = refusal(proxy).removeprefix(f"{NO_SERVER}: {address}: ")
    assert seen == wanted
    assert "Traceback" not in proxy.log


def refusal(proxy: RunningProxy) -> str:
    """What a client is told when it wants a session; empty: it gets one."""
    try:
        psycopg.connect(proxy.dsn(sslmode="disable"), connect_timeout=10).close()
    except psycopg.OperationalError as error:
        return str(error).partition("FATAL:  ")[2].strip()
    return ""


@pytest.mark.parametrize(
    ("sslmode", "root", "problem"),
    [
        ("verify-full", "", "sslrootcert: must be given for sslmode = verify-full"),
        ("verify-ca", "nowhere.pem", "sslrootcert: nowhere.pem can't be read: No such file or directory"),
        ("require", "tqdbproxy.ini", "sslrootcert: is not a file with PEM certificates"),
    ],
)
def test_root_certificates_that_are_missing(sslmode: str, root: str, problem: str, start_tls: StartTls) -> None:
    with pytest.raises(AssertionError, match="did not start") as failed:
        start_tls("127.0.0.1:5432", "off", sslmode, root=root)
    assert problem in str(failed.value)


def test_clients_verify_the_proxys_chain(
    postgres: EmbeddedServer, start_tls: StartTls, authority: Authority, shown: dict[str, Certificate]
) -> None:
    primary = f"{postgres.host}:{postgres.port}"
    proxy = start_tls(primary, presented=shown["below an intermediate"])
    for host in ("localhost", "127.0.0.1"):
        options = {"host": host, "sslmode": "verify-full", "sslrootcert": str(authority.root)}
        with psycopg.connect(proxy.dsn(**options)) as connection:
            assert connection.pgconn.ssl_in_use


def test_a_new_certificate_is_for_new_sessions(
    postgres: EmbeddedServer, start_tls: StartTls, authority: Authority, tmp_path: Path
) -> None:
    files = Certificate(tmp_path / "own.pem", tmp_path / "own.key")

    def present(name: str) -> None:
        made = authority.sign(name, common=name)
        files.chain.write_bytes(made.chain.read_bytes())
        files.key.write_bytes(made.key.read_bytes())

    def shown_now() -> str:
        with TlsWire(proxy.port, client_context(authority.root)) as wire:
            return wire.certificate_name()

    present("first")
    proxy = start_tls(f"{postgres.host}:{postgres.port}", "require", presented=files)
    with psycopg.connect(proxy.dsn(sslmode="require")) as before:
        assert shown_now() == "first"
        present("second")
        assert shown_now() == "first"
        proxy.process.send_signal(signal.SIGHUP)
        wait_for(lambda: shown_now() == "second")
        files.key.write_text("nonsense")
        proxy.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "certificate and key can't be used together" in proxy.log)
        assert shown_now() == "second"
        assert before.execute("SELECT 1").fetchone() == (1,)
