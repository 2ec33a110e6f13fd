"""A long answer, a piece in each turn of the reactor.

The law of this module: one piece, then everybody else; no piece while the reader hasn't taken those before. Twisted's
own way for pull producers (``task.cooperate``) goes on for 10 ms in each turn, which clients would feel.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.web.server import Request
from zope.interface import implementer

from tqdbproxy.logs import logger

log = logger(__name__)


@implementer(IPushProducer)
class Pieces:
    """Writes ``pieces`` to a request. An empty piece is work that was done without anything to write."""

    def __init__(self, request: Request, pieces: Iterator[bytes], clock: IReactorTime) -> None:
        self._request = request
        self._pieces = pieces
        self._clock = clock
        self._call: IDelayedCall | None = None
        self._over = False
        request.notifyFinish().addErrback(self._reader_left)
        request.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self) -> None:
        """See `IPushProducer`."""
        if self._call is None and not self._over:
            self._call = self._clock.callLater(0, self._turn)

    def pauseProducing(self) -> None:
        """See `IPushProducer`."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def stopProducing(self) -> None:
        """See `IPushProducer`: the reader is gone."""
        self._over = True
        self.pauseProducing()

    def _reader_left(self, _failure: Any) -> None:
        self.stopProducing()

    def _turn(self) -> None:
        self._call = None
        try:
            piece = next(self._pieces, None)
        except Exception:
            # A page that breaks off must not look like a complete one: the reader sees a closed connection.
            log.failure("{path}", path=self._request.path.decode(errors="replace"))
            self._end()
            self._request.loseConnection()
            return
        if piece is None:
            self._end()
            self._request.finish()
            return
        self.resumeProducing()  # first: writing may pause
        if piece:
            self._request.write(piece)

    def _end(self) -> None:
        self._over = True
        self._request.unregisterProducer()
