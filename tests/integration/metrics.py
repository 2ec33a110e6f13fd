"""What the proxy says about itself to Prometheus."""

from __future__ import annotations

from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from tests.proxies import HOST, RunningProxy


class Page:
    """The metrics at one moment."""

    def __init__(self, text: str) -> None:
        self.samples = [
            (sample.name, sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]

    def total(self, name: str, **labels: str) -> float:
        """The sum of all values of ``name`` (without its prefix) that have these labels; 0 if there are none."""
        return sum(
            value
            for sample, others, value in self.samples
            if sample == f"tqdbproxy_{name}" and labels.items() <= others.items()
        )


def scrape(proxy: RunningProxy) -> Page:
    """The page of ``proxy``."""
    with urlopen(f"http://{HOST}:{proxy.metrics_port}/metrics", timeout=60) as answer:
        return Page(answer.read().decode())


class Growth:
    """How much the counters of ``proxy`` have grown since this object was made."""

    def __init__(self, proxy: RunningProxy) -> None:
        self._proxy = proxy
        self._before = scrape(proxy)

    def __call__(self, name: str, **labels: str) -> float:
        """See `Page.total`."""
        return scrape(self._proxy).total(name, **labels) - self._before.total(name, **labels)
