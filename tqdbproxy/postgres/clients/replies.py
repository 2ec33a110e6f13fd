"""What the proxy says by itself: our errors in PostgreSQL's words.

The law of this module: the one table from our errors to SQLSTATEs (manual, appendix "PostgreSQL Error Codes").
"""

from __future__ import annotations

from tqdbproxy import errors
from tqdbproxy.core.writebatch.types import Expired, Unknown, Withdrawn
from tqdbproxy.postgres.messages import error_response, notice_response

SQLSTATES: dict[type[errors.ProxyError], str] = {
    errors.NotServed: "3D000",
    errors.NotWritable: "57P03",
    errors.ServerUnreachable: "08001",
    errors.TlsFailed: "08001",
    errors.ServerClosed: "08006",
    errors.OutcomeUnknown: "08007",
    errors.ProtocolViolation: "08P01",
    errors.UnsupportedProtocol: "0A000",
    errors.TlsRequired: "28000",
    errors.ChannelBindingImpossible: "28000",
    errors.NotAdmin: "28000",
    errors.UnknownCommand: "42601",
    errors.ConfigError: "F0000",
    errors.TooManyClients: "53300",
    errors.LoginTimeout: "57014",
    errors.WriteExpired: "57014",
    errors.WriteWithdrawn: "57014",
    errors.Stopped: "57P01",
    errors.ShuttingDown: "57P03",
}
INTERNAL_ERROR = "XX000"
WARNING = "01000"
NO_SERVER = "the proxy can't connect to a server"

RESULTS: dict[type, errors.ProxyError] = {
    Unknown: errors.OutcomeUnknown(),
    Expired: errors.WriteExpired(),
    Withdrawn: errors.WriteWithdrawn("canceling statement due to user request"),
}
"""What a client hears of a write that has no reply."""


def sqlstate(error: errors.ProxyError) -> str:
    """The code of an error's class, or of the nearest class that it is derived from."""
    return next((SQLSTATES[cls] for cls in type(error).__mro__ if cls in SQLSTATES), INTERNAL_ERROR)


def fatal(error: errors.ProxyError) -> bytes:
    """An ErrorResponse after which the connection is closed."""
    return _response("FATAL", error)


def error(problem: errors.ProxyError) -> bytes:
    """An ErrorResponse after which the session goes on."""
    return _response("ERROR", problem)


def warning(text: str) -> bytes:
    """A NoticeResponse: what was asked for is done, but there is something to know."""
    return notice_response("WARNING", WARNING, text)


def failure(result: Unknown | Expired | Withdrawn) -> bytes:
    """The ErrorResponse for a write that has no reply."""
    return _response("ERROR", RESULTS[type(result)])


def _response(severity: str, error: errors.ProxyError) -> bytes:
    text = errors.message_of(error)
    if isinstance(error, errors.ServerUnreachable):
        text = f"{NO_SERVER}: {text}"  # or "Connection refused" would seem to be the proxy's own
    return error_response(severity, sqlstate(error), text, hint=errors.hint_of(error))
