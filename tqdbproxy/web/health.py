"""``/healthz``: the reactor turns. ``/readyz``: a server that takes writes answers, so sessions can begin.

The law of this module: 200 and "ok", or 503 and the reason; whether a server answers is somebody else's knowledge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET, Request

from tqdbproxy.web.page import Page

Ready = Callable[[], bool | str | Deferred[Any]]
"""True: ready; False or a text (the reason): not. Or a Deferred of these; one that fails says that it isn't."""

UNAVAILABLE = 503


class HealthPage(Page):
    """Whether ``ready`` says yes."""

    def __init__(self, ready: Ready) -> None:
        super().__init__()
        self._ready = ready

    def render_GET(self, request: Request) -> int:
        """See `twisted.web.resource.IResource`."""
        asked: Deferred[Any] = maybeDeferred(self._ready)
        asked.addErrback(Failure.getErrorMessage)
        asked.addCallback(_answer, request)
        return NOT_DONE_YET


def _answer(answer: bool | str, request: Request) -> None:
    channel: Any = request.channel
    if channel is None:
        return  # whoever asked is gone
    request.setHeader(b"content-type", b"text/plain; charset=utf-8")
    request.setHeader(b"cache-control", b"no-store")
    if answer is True:
        request.write(b"ok\n")
    else:
        request.setResponseCode(UNAVAILABLE)
        request.write(f"{answer or 'not ready'}\n".encode())
    request.finish()
