"""The errors of the proxy, in words that no wire protocol owns.

The law of this module: an exception's docstring is what its reader needs to know; no codes, no bytes.
"""

from __future__ import annotations


class ProxyError(Exception):
    """Anything that the proxy itself has to say no to."""


class ConfigError(ProxyError):
    """The configuration can't be used; the text names file, section, key and line where they are known."""


class ServerUnreachable(ProxyError):
    """No connection to a server could be made; the text says to which and why."""


class TlsRefused(ServerUnreachable):
    """The server was reached, but not with the encryption that sslmode asks for; the text says why."""


class NotWritable(ProxyError):
    """The server that was found is a standby, and no other one is known to be the primary; try again."""


class NotServed(ProxyError):
    """No server group serves the database that was asked for."""


class ServerClosed(ProxyError):
    """The server closed the connection."""


class TlsFailed(ProxyError):
    """The TLS handshake with a peer failed; the text says why."""


class TlsRequired(ProxyError):
    """This proxy requires TLS (tls = require): connect with sslmode=require."""


class TooManyClients(ProxyError):
    """Sorry, too many clients already (max_clients of the proxy)."""


class ShuttingDown(ProxyError):
    """The proxy is shutting down."""


class Stopped(ProxyError):
    """Terminating connection due to administrator command."""


class LoginTimeout(ProxyError):
    """Canceling authentication due to timeout (login_timeout_s of the proxy)."""


class ProtocolViolation(ProxyError):
    """The peer broke the protocol; the text says how."""


class UnsupportedProtocol(ProtocolViolation):
    """The client speaks a version of the protocol that no supported server speaks."""


class ChannelBindingImpossible(ProxyError):
    """SCRAM channel binding can't pass a proxy that ends TLS on both sides.

    Connect with channel_binding=disable, or set sslmode = disable for the server group in the proxy's configuration.
    """


class NotAdmin(ProxyError):
    """This user may not use the proxy's console.

    Name it in [admin] users, or connect over the Unix socket as the system's user that the proxy runs as.
    """


class UnknownCommand(ProxyError):
    """The console doesn't know what was said; SHOW HELP lists what it knows."""


class OutcomeUnknown(ProxyError):
    """The connection to the server was lost while the write was running: it may have been executed or not."""


class WriteExpired(ProxyError):
    """Canceling statement: the write waited longer than timeout_s of the proxy and was not executed."""


class WriteWithdrawn(ProxyError):
    """Canceling statement due to user request."""


def message_of(error: ProxyError) -> str:
    """What the peer is told: the text that the error was made with, else the first line of its class's docstring."""
    return str(error) or (type(error).__doc__ or "").strip().partition("\n")[0].rstrip(".")


def hint_of(error: ProxyError) -> str:
    """What the peer can do about it: the rest of the docstring of an error without a text of its own."""
    return "" if str(error) else " ".join((type(error).__doc__ or "").strip().partition("\n")[2].split())
