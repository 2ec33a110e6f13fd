"""What can go wrong with writes that wait for company.

The law of this module: an exception's docstring is what its reader needs to know; no codes, no bytes.
"""

from __future__ import annotations

from tqdbproxy.errors import ProxyError


class InvalidArgument(ProxyError, ValueError):
    """An argument can't be used; the text names it, says what it may be and what it was."""


class AddTimedOut(ProxyError, TimeoutError):
    """The buffer stayed full for as long as the add was allowed to wait; the record was not added."""


class TooManyWaiting(ProxyError):
    """The buffer is full, and as many adds as are allowed to already wait for room; the record was not added."""


class WriterStopped(ProxyError):
    """The writer was told to stop; the record was not added."""
