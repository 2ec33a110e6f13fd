"""Counters on a registry that is passed in.

The law of this package: counting is arithmetic on objects that the caller keeps; whatever costs more is done when
somebody scrapes.

counts       what the lanes count on: knows nothing of Prometheus
families     a metric as prometheus-client and as our own writer see it: name, labels, where its values are read
summary      totals over all callers, and who takes the most time
exposition   registry -> text, in pieces that don't keep the reactor
book         ``Metrics``: which metrics there are
"""

from tqdbproxy.core.metrics.book import Metrics
from tqdbproxy.core.metrics.counts import Aggregation, CallerCounts, Histogram
from tqdbproxy.core.metrics.exposition import CONTENT_TYPE, exposition, render
from tqdbproxy.core.metrics.summary import Summary, at_once

__all__ = [
    "CONTENT_TYPE",
    "Aggregation",
    "CallerCounts",
    "Histogram",
    "Metrics",
    "Summary",
    "at_once",
    "exposition",
    "render",
]
