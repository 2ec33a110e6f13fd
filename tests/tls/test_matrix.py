"""Every combination of TLS towards clients, TLS towards servers and ways to log in, ``docs/tls.rst`` as a test.

The server is Debian's PostgreSQL with TLS on.
"""

from __future__ import annotations

import struct
from itertools import product

import pytest

from tests.integration.wire import frame, startup
from tests.tls.certificates import Authority
from tests.tls.clients import Encrypted, TlsWire, asyncpg_outcome, client_context, outcome
from tests.tls.conftest import StartTls
from tests.tls.servers import CLEAR_ONLY, METHODS, SSL_ONLY
from tqdbproxy.embedded import EmbeddedServer

SSLMODES = ("disable", "prefer", "require", "verify-ca", "verify-full")
NOT_OFFERED = "server does not support SSL, but SSL was required"
DIRECT_NOT_OFFERED = "SSL error: unexpected eof while reading"
REQUIRED = "This proxy requires TLS (tls = require): connect with sslmode=require"
IMPOSSIBLE = "SCRAM channel binding can't pass a proxy that ends TLS on both sides"
BINDING_WITHOUT_TLS = "channel binding required, but SSL not in use"
NO_CLIENT_CERTIFICATE = "connection requires a valid client certificate"
BINDING_NOT_OFFERED = (
    "channel binding is required, but server did not offer an authentication method that supports channel binding"
)
BINDING_NOT_BY_PASSWORD = "channel binding required but not supported by server's authentication request"


def expected(tls: str, client: str, sslmode: str) -> Encrypted | str:
    """What a client with ``client`` as its sslmode sees; "direct" is verify-full with sslnegotiation=direct."""
    insists = client not in ("disable", "prefer")
    if tls == "off" and insists:
        return DIRECT_NOT_OFFERED if client == "direct" else NOT_OFFERED
    if tls == "require" and client == "disable":
        return REQUIRED
    return Encrypted(tls != "off" and client != "disable", sslmode != "disable")


def client_options(mode: str, authority: Authority) -> dict[str, str]:
    if mode == "direct":
        return {"host": "localhost", **client_options("verify-full", authority), "sslnegotiation": "direct"}
    return {"sslmode": mode, "sslrootcert": str(authority.root) if mode.startswith("verify") else ""}


@pytest.mark.parametrize("sslmode", SSLMODES)
@pytest.mark.parametrize("tls", ["off", "allow", "require"])
def test_every_combination(
    tls: str, sslmode: str, debian: EmbeddedServer, start_tls: StartTls, authority: Authority
) -> None:
    proxy = start_tls(f"localhost:{debian.port}", tls, sslmode)
    cases = [(mode, user) for mode in (*SSLMODES, "direct") for user in METHODS]
    seen = {
        (mode, user): outcome(proxy, user=user, channel_binding="disable", **client_options(mode, authority))
        for mode, user in cases
    }
    assert seen == {(mode, user): expected(tls, mode, sslmode) for mode, user in cases}
    assert "Traceback" not in proxy.log


BY_PASSWORD = dict.fromkeys(("password", "md5"), BINDING_NOT_BY_PASSWORD)
REFUSED = {
    # Where the client insists on binding the channel, by whether its side is encrypted: libpq itself says no.
    ("require", False): {**BY_PASSWORD, "scram": BINDING_WITHOUT_TLS},
    ("require", True): {**BY_PASSWORD, "scram": BINDING_NOT_OFFERED},
}


@pytest.mark.parametrize("sslmode", ["disable", "require"])
def test_channel_binding(sslmode: str, debian: EmbeddedServer, start_tls: StartTls) -> None:
    proxy = start_tls(f"{debian.host}:{debian.port}", "allow", sslmode)
    seen, wanted = {}, {}
    for case in product(("disable", "prefer", "require"), (False, True), METHODS):
        binding, encrypted, user = case
        seen[case] = outcome(proxy, user=user, channel_binding=binding, sslmode="require" if encrypted else "disable")
        wanted[case] = REFUSED.get((binding, encrypted), {}).get(user) or Encrypted(encrypted, sslmode == "require")
    if sslmode == "require":
        wanted["prefer", True, "scram"] = IMPOSSIBLE
    assert seen == wanted
    assert "Traceback" not in proxy.log


@pytest.mark.parametrize("sslmode", ["disable", "require"])
def test_asyncpg(sslmode: str, debian: EmbeddedServer, start_tls: StartTls, authority: Authority) -> None:
    proxy = start_tls(f"{debian.host}:{debian.port}", "allow", sslmode)
    for context in (None, client_context(authority.root, alpn=())):
        seen = {user: asyncpg_outcome(proxy, user, context) for user in METHODS}
        assert seen == dict.fromkeys(METHODS, Encrypted(context is not None, sslmode == "require"))


@pytest.mark.parametrize("sslmode", ["disable", "prefer"])
def test_the_servers_side_decides_for_pg_hba(sslmode: str, debian: EmbeddedServer, start_tls: StartTls) -> None:
    proxy = start_tls(f"{debian.host}:{debian.port}", "allow", sslmode)
    encrypted = sslmode != "disable"
    welcome, rejected = (SSL_ONLY, CLEAR_ONLY) if encrypted else (CLEAR_ONLY, SSL_ONLY)
    words = "SSL encryption" if encrypted else "no encryption"
    for method, client in product(METHODS, ("disable", "require")):
        options = {"sslmode": client, "channel_binding": "disable"}
        assert outcome(proxy, user=f"{welcome}_{method}", **options) == Encrypted(client == "require", encrypted)
        told = f'pg_hba.conf rejects connection for host "127.0.0.1", user "{rejected}_{method}"'
        assert outcome(proxy, user=f"{rejected}_{method}", **options) == f'{told}, database "postgres", {words}'


def test_what_the_server_says_of_a_login_is_passed_on(debian: EmbeddedServer, start_tls: StartTls) -> None:
    proxy = start_tls(f"{debian.host}:{debian.port}", "allow", "require")
    options = {"sslmode": "require", "channel_binding": "disable", "password": "wrong"}
    for user in METHODS:
        assert outcome(proxy, user=user, **options) == f'password authentication failed for user "{user}"'
    # A client's own certificate can't pass: the proxy would need its key.
    assert outcome(proxy, user="certified", sslmode="require") == NO_CLIENT_CERTIFICATE
    assert "closed the connection" not in proxy.log


def test_the_impossible_combination_says_what_to_do(debian: EmbeddedServer, start_tls: StartTls) -> None:
    proxy = start_tls(f"{debian.host}:{debian.port}", "allow", "require")
    with TlsWire(debian.port) as direct:
        direct.send(startup("postgres", user="scram"))
        assert direct.receive().body[4:].split(b"\0") == [b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256", b"", b""]
    first = b"y,,n=,r=0123456789abcdef"
    with TlsWire(proxy.port) as wire:
        wire.send(startup("postgres", user="scram"))
        assert wire.receive().body[4:].split(b"\0") == [b"SCRAM-SHA-256", b"", b""]
        wire.send(frame("p", b"SCRAM-SHA-256\0" + struct.pack("!I", len(first)) + first))
        (error,) = wire.to_end()
    assert error.fields() == {
        "S": "FATAL",
        "V": "FATAL",
        "C": "28000",
        "M": IMPOSSIBLE,
        "H": "Connect with channel_binding=disable, or set sslmode = disable for the server group in the proxy's"
        " configuration.",
    }
    assert proxy.log.count("#warn]") == 1
