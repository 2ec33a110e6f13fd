"""TLS contexts for both sides of the proxy.

The law of this module: files -> `ssl.SSLContext`; what can't be used is a `ConfigError`.
"""

from __future__ import annotations

import ssl

from tqdbproxy.errors import ConfigError

ALPN = "postgresql"
"""Registered with IANA for PostgreSQL (manual, "SSL Session Encryption")."""


def for_clients(certificate: str, key: str) -> ssl.SSLContext:
    """The context in which clients see this proxy. Raises `ConfigError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([ALPN])
    # As PostgreSQL: no tickets, no renegotiation. (A client that closes with a ticket unread resets the connection, and
    # what it has said last may be lost.)
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as problem:
        raise ConfigError(f"tls_cert {certificate}, tls_key {key}: {problem}") from problem
    return context


def for_servers(sslmode: str, root_certificates: str) -> ssl.SSLContext | None:
    """The context in which this proxy sees a server, with libpq's meaning of ``sslmode``; None: no TLS.

    Raises `ConfigError`.
    """
    if sslmode == "disable":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([ALPN])
    context.check_hostname = sslmode == "verify-full"
    # libpq: a root certificate that is given is used, whatever less was asked for.
    verified = sslmode.startswith("verify-") or (sslmode == "require" and bool(root_certificates))
    context.verify_mode = ssl.CERT_REQUIRED if verified else ssl.CERT_NONE
    if verified:
        try:
            context.load_verify_locations(root_certificates)
        except (OSError, ssl.SSLError) as problem:
            raise ConfigError(f"sslrootcert {root_certificates}: {problem}") from problem
    return context
