"""What is served over HTTP: the metrics.

The law of this module: a page is written in small pieces, each when the one before has been taken, so that scraping
never keeps the reactor from its clients.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from twisted.internet.interfaces import IPullProducer
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import implementer

from tqdbproxy.core.metrics import CONTENT_TYPE, render
from tqdbproxy.logs import logger

log = logger(__name__)


@implementer(IPullProducer)
class _Pieces:
    """Writes the pieces of a page to a request, one whenever the transport wants more."""

    def __init__(self, request: Request, pieces: Iterator[bytes]) -> None:
        self._request = request
        self._pieces = pieces

    def resumeProducing(self) -> None:
        """See `IPullProducer`."""
        try:
            piece = next(self._pieces, None)
        except Exception:
            # A page that breaks off must not look like a complete one: the reader sees a closed connection.
            log.failure("metrics")
            self._request.unregisterProducer()
            self._request.loseConnection()
            return
        if piece is None:
            self._request.unregisterProducer()
            self._request.finish()
        else:
            self._request.write(piece)

    def stopProducing(self) -> None:
        """See `IPullProducer`: the reader is gone."""
        self._pieces = iter(())


class MetricsPage(Resource):
    """``/metrics`` in Prometheus' text format."""

    isLeaf = True

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._registry = registry

    def render_GET(self, request: Request) -> int:
        """See `twisted.web.resource.IResource`."""
        request.setHeader(b"content-type", CONTENT_TYPE.encode() if isinstance(CONTENT_TYPE, str) else CONTENT_TYPE)
        request.registerProducer(_Pieces(request, render(self._registry)), False)
        return NOT_DONE_YET


def metrics_site(registry: CollectorRegistry) -> Site:
    """The pages that ``[metrics] listen`` serves."""
    root = Resource()
    root.putChild(b"metrics", MetricsPage(registry))
    return Site(root)
