"""``/metrics`` in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from twisted.internet.interfaces import IReactorTime
from twisted.web.server import NOT_DONE_YET, Request

from tqdbproxy.core.metrics import CONTENT_TYPE, render
from tqdbproxy.web.page import Page
from tqdbproxy.web.pieces import Pieces


class MetricsPage(Page):
    """All metrics of a registry, read while they are written."""

    def __init__(self, registry: CollectorRegistry, clock: IReactorTime) -> None:
        super().__init__()
        self._registry = registry
        self._clock = clock

    def render_GET(self, request: Request) -> int:
        """See `twisted.web.resource.IResource`."""
        request.setHeader(b"content-type", CONTENT_TYPE.encode())
        Pieces(request, render(self._registry), self._clock)
        return NOT_DONE_YET
