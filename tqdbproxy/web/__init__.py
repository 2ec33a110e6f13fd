"""What is served over HTTP: metrics, health, and a page for people.

The law of this package: nobody who looks may keep the reactor from its clients, so whatever is long is made in small
pieces; and nothing here changes anything.

page      what every page has in common
pieces    a long answer, a piece in each turn of the reactor
metrics   ``/metrics`` for Prometheus
health    ``/healthz`` and ``/readyz`` for whoever starts and routes
status    ``/status.json``: the numbers of the page
assets    ``/``: the page, which fetches them again and again
site      all of it together
"""

from tqdbproxy.web.site import make_site

__all__ = ["make_site"]
