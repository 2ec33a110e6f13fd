"""Every combination of TLS towards clients, TLS towards servers and ways to log in, ``docs/tls.rst`` as a test.

The server is Debian's PostgreSQL with TLS on.
"""

from __future__ import annotations

import pytest

from tests.tls.certificates import Authority
from tests.tls.clients import Encrypted, asyncpg_outcome, client_context, outcome
from tests.tls.conftest import StartTls
from tests.tls.servers import CLEAR_ONLY, METHODS, PASSWORD, SSL_ONLY
from tqdbproxy.embedded import EmbeddedServer

SSLMODES = ("disable", "prefer", "require", "verify-ca", "verify-full")
NOT_OFFERED = "server does not support SSL, but SSL was required"
DIRECT_NOT_OFFERED = "SSL error: unexpected eof while reading"
REQUIRED = "This proxy requires TLS (tls = require): connect with sslmode=require"
IMPOSSIBLE = "SCRAM channel binding can't pass a proxy that ends TLS on both sides"
BINDING_WITHOUT_TLS = "channel binding required, but SSL not in use"
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
def test_every_combination(tls: str, sslmode: str, debian: EmbeddedServer, start_tls: StartTls, authority: Authority) -> None:
    proxy = start_tls(f"localhost:{debian.port}", tls, sslmode)
    cases = [(mode, user) for mode in (*SSLMODES, "direct") for user in METHODS]
    seen = {
        (mode, user): outcome(proxy, user=user, channel_binding="disable", **client_options(mode, authority))
        for mode, user in cases
    }
    assert seen == {(mode, user): expected(tls, mode, sslmode) for mode, user in cases}
    assert "Traceback" not in proxy.log


BINDINGS = {
    # What the client says of channel binding, and is it encrypted: what becomes of it.
    ("disable", False): dict.fromkeys(METHODS, ""),
    ("disable", True): dict.fromkeys(METHODS, ""),
    ("prefer", False): dict.fromkeys(METHODS, ""),
    ("prefer", True): {"password": "", "md5": "", "scram": ""},
    ("require", False): dict.fromkeys(METHODS, BINDING_WITHOUT_TLS),
    ("require", True): {
        "password": BINDING_NOT_BY_PASSWORD,
        "md5": BINDING_NOT_BY_PASSWORD,
        "scram": BINDING_NOT_OFFERED,
    },
}


@pytest.mark.parametrize("sslmode", ["disable", "require"])
def test_channel_binding(sslmode: str, debian: EmbeddedServer, start_tls: StartTls) -> None:
    proxy = start_tls(f"{debian.host}:{debian.port}", "allow", sslmode)
    seen, wanted = {}, {}
    for (binding, encrypted), by_method in BINDINGS.items():
        for user, told in by_method.items():
            case = (binding, encrypted, user)
            seen[case] = outcome(
                proxy, user=user, channel_binding=binding, sslmode="require" if encrypted else "disable"
            )
            wanted[case] = told or Encrypted(encrypted, sslmode != "disable")
            if sslmode == "require" and case == ("prefer", True, "scram"):
                wanted[case] = IMPOSSIBLE
    assert seen == wanted
    assert "Traceback" not in proxy.log
