"""All pages together: what ``[metrics] listen`` serves.

The law of this module: names and headers; what a page says is its own matter. The assets are read once, at the start.
"""

from __future__ import annotations

from importlib.resources import files

from prometheus_client import CollectorRegistry
from twisted.internet.interfaces import IReactorTime
from twisted.web.server import Request, Site

from tqdbproxy.core.overview import Sources
from tqdbproxy.web.health import HealthPage, Ready
from tqdbproxy.web.metrics import MetricsPage
from tqdbproxy.web.page import Page
from tqdbproxy.web.status import StatusNumbers

ASSETS = {
    b"": ("status.html", b"text/html; charset=utf-8"),
    b"status.css": ("status.css", b"text/css; charset=utf-8"),
    b"status.js": ("status.js", b"text/javascript; charset=utf-8"),
    b"icon.svg": ("icon.svg", b"image/svg+xml"),
}

POLICY = b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'"
"""Nothing from elsewhere, and nothing inline: a caller's name that is HTML stays a name."""


class Asset(Page):
    """A file of the package."""

    def __init__(self, name: str, content_type: bytes) -> None:
        super().__init__()
        self._content_type = content_type
        self._data = files("tqdbproxy.web").joinpath("assets", name).read_bytes()

    def render_GET(self, request: Request) -> bytes:
        """See `twisted.web.resource.IResource`."""
        request.setHeader(b"content-type", self._content_type)
        request.setHeader(b"content-security-policy", POLICY)
        request.setHeader(b"x-content-type-options", b"nosniff")
        request.setHeader(b"cache-control", b"no-cache")  # another version of the proxy has another page
        return self._data


def make_site(registry: CollectorRegistry, sources: Sources, ready: Ready, clock: IReactorTime) -> Site:
    """The pages. ``ready`` says whether sessions can begin."""
    root = Page()
    for path, (name, content_type) in ASSETS.items():
        root.putChild(path, Asset(name, content_type))
    root.putChild(b"metrics", MetricsPage(registry, clock))
    root.putChild(b"status.json", StatusNumbers(sources, clock))
    root.putChild(b"healthz", HealthPage(lambda: True))
    root.putChild(b"readyz", HealthPage(ready))
    return Site(root, reactor=clock)
