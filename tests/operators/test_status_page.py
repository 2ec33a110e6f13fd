"""The status page in a real browser, with the numbers of a real load."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psycopg

from tests.integration.metrics import scrape
from tests.integration.waiting import wait_for
from tests.operators.browser import Browser, chromium, need
from tests.operators.load import load, prepare
from tests.proxies import HOST, RunningProxy
from tqdbproxy.embedded import EmbeddedServer

PICTURE = "TQDBPROXY_TEST_PICTURE"
"""A file that gets a picture of the page: how docs/images/statuspage.png is made."""


CALLERS = 7
"""Places in the load's scripts."""


def number(text: str) -> float:
    """What the page shows, as a number; 0 where it shows none."""
    found = re.match(r"[\d,.]+", text)
    return float(found[0].replace(",", "")) if found else 0.0


def in_all(browser: Browser, lane: str) -> float:
    """The total of a lane in the legend of the drawing."""
    found = re.search(rf"{lane}: .*?, ([\d,]+) in all", browser.text("#lanes"))
    return number(found[1]) if found else -1.0


def table(browser: Browser, name: str) -> list[list[str]]:
    """The cells of a table's body, row by row."""
    script = "return [...document.querySelectorAll(arguments[0])].map(r => [...r.cells].map(c => c.innerText.trim()))"
    rows: list[list[str]] = browser.run(script, f"#{name} tr")
    return rows


def counts(browser: Browser, name: str) -> dict[str, float]:
    """A table of names, bars and numbers."""
    return {name: number(count) for name, _bar, count in table(browser, name)}


def check_while_it_runs(browser: Browser) -> None:
    def shown(selector: str, least: float) -> None:
        wait_for(lambda: number(browser.text(selector)) >= least)

    shown("#batched", 50)
    assert browser.text("#live") == "live"
    wait_for(lambda: number(browser.text("#throughput")) > number(browser.text("#batched")))
    shown("#batch-size", 1)
    shown("#aggregation", 1)
    seen = in_all(browser, "batched")
    wait_for(lambda: in_all(browser, "batched") > seen)  # it moves by itself
    wait_for(lambda: (states := counts(browser, "clients"))["session"] + states["waiting"] == 20)
    wait_for(lambda: number(table(browser, "servers")[0][4]) > 100)
    (server,) = table(browser, "servers")
    assert server[0] == "main/primary"
    assert server[2] == "answers"
    # The drawing has an area for each lane, and it is not flat.
    heights = "return [...document.querySelectorAll('#chart polygon')].map(p => p.getBBox().height)"
    wait_for(lambda: len(shapes := browser.run(heights)) == 3 and min(shapes) > 10)
    wait_for(lambda: len(table(browser, "callers")) == CALLERS)
    shown("#hits", 11)
    assert 0 < number(browser.text("#hit-ratio")) <= 100
    assert browser.text("#max-bytes") == "256 MiB"
    shown("#entries", 11)
    wait_for(lambda: re.fullmatch(r"[\d.]+ [KM]iB", browser.text("#bytes")))
    assert not browser.shows("#cache-none")


def wait_until_read(browser: Browser, proxy: RunningProxy) -> None:
    """Until the page shows numbers that are newer than this moment."""
    with urlopen(f"http://{HOST}:{proxy.metrics_port}/status.json", timeout=60) as answer:
        now = json.load(answer)["monotonic_s"]
    wait_for(lambda: browser.run("return readings.at(-1).monotonic_s") > now)


def check_totals(browser: Browser, proxy: RunningProxy) -> None:
    """What the page shows is what Prometheus reads."""
    page = scrape(proxy)
    wait_until_read(browser, proxy)
    batched, statements = page.total("write_batched_total"), page.total("query_total")
    assert in_all(browser, "batched") == batched
    cached = page.total("query_total", cached="true")
    assert cached == page.total("cache_hits_total") > 0
    assert in_all(browser, "cached") == cached
    assert in_all(browser, "forwarded") == statements - batched - cached
    assert counts(browser, "answers") == {
        "given while stale": page.total("cache_stale_total"),
        "refreshed": page.total("cache_refreshes_total"),
        "purged": page.total("cache_purges_total"),
    }
    assert number(browser.text("#entries")) == page.total("cache_entries")
    strategies = counts(browser, "strategies")
    assert strategies == {name: page.total("write_batch_method_total", method=name) for name in strategies}
    assert sum(strategies.values()) == page.total("write_batch_size_count")
    assert sum(counts(browser, "closed").values()) == page.total("write_batch_closed_total") > 0
    assert counts(browser, "excluded") == {"transaction": page.total("write_excluded_total", reason="transaction")}
    callers = {row[0]: row for row in table(browser, "callers")}
    reads = {"shop/menu.py:3", "shop/report.py:9", "shop/pages.py:20"}
    assert set(callers) - reads == {"shop/visits.py:41", "shop/pages.py:7", "shop/audit.py:30", "shop/orders.py:112"}
    assert reads <= set(callers)
    assert number(callers["shop/menu.py:3"][4]) == page.total("cache_hits_total", file="shop/menu.py")
    visits = callers["shop/visits.py:41"]
    assert visits[1] == "insert"
    assert number(visits[2]) == page.total("query_total", file="shop/visits.py")
    assert number(visits[3]) == page.total("write_batched_total", file="shop/visits.py")


def test_it_shows_a_real_load(
    postgres: EmbeddedServer, start: Callable[..., RunningProxy], database: str, tmp_path: Path
) -> None:
    need("chromium", "chromedriver")
    proxy = start(f"{postgres.host}:{postgres.port}")
    prepare(postgres, database)
    picture = os.environ.get(PICTURE)
    with chromium(tmp_path) as browser:
        browser.resize(1000, 1620)
        browser.open(f"http://{HOST}:{proxy.metrics_port}/")
        with load(postgres, proxy, database, tmp_path, seconds=600) as pgbench:
            check_while_it_runs(browser)
            if picture:
                wait_for(lambda: number(browser.text("#uptime")) >= 60, 90)
                browser.resize(1000, browser.run("return document.documentElement.scrollHeight"))
                Path(picture).write_bytes(browser.picture())
            assert pgbench.poll() is None, pgbench.stdout and pgbench.stdout.read()
        wait_for(lambda: not scrape(proxy).total("clients"))  # what they had asked is done, too
        check_totals(browser, proxy)
        assert [entry for entry in browser.log() if entry["level"] != "INFO"] == []
        proxy.stop()
        wait_for(lambda: browser.text("#live") == "no answer from the proxy")


def test_names_stay_names_and_it_fits_a_phone(
    postgres: EmbeddedServer, start: Callable[..., RunningProxy], tmp_path: Path
) -> None:
    need("chromium", "chromedriver")
    proxy = start(f"{postgres.host}:{postgres.port}")
    evil = "%3Cimg%20src=x%20onerror=alert(1)%3E" + "very_long_" * 15
    with psycopg.connect(proxy.dsn(), autocommit=True) as connection:
        connection.execute(f"/* batch:0 file='{evil}' line:1 */ SELECT 1".encode())
    with chromium(tmp_path) as browser:
        browser.resize(360, 740)
        browser.open(f"http://{HOST}:{proxy.metrics_port}/")
        ((caller, *_),) = wait_for(lambda: table(browser, "callers"))
        assert caller.startswith("<img src=x onerror=alert(1)>very_long_")
        assert browser.run("return document.querySelectorAll('td img, th img').length") == 0
        assert browser.run("return document.documentElement.scrollWidth") <= 360
        assert browser.text("#cache-none") == "no cached reads yet"
        assert not browser.shows("#cache")
        light = browser.run("return getComputedStyle(document.body).backgroundColor")
        browser.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        assert browser.run("return getComputedStyle(document.body).backgroundColor") != light
        assert [entry for entry in browser.log() if entry["level"] != "INFO"] == []
        check_accessible(browser)


def check_accessible(browser: Browser) -> None:
    """As far as a machine can tell: everything has a name, in the tree that screen readers get."""
    nodes: list[dict[str, Any]] = browser.command("Accessibility.getFullAXTree")["nodes"]
    seen = [(node.get("role", {}).get("value"), node.get("name", {}).get("value")) for node in nodes]
    named = [role for role, name in seen if name]
    assert {"heading", "link", "columnheader", "region", "status"} <= {role for role, _name in seen}
    for role in ("link", "heading", "region", "image"):
        assert named.count(role) == [other for other, _name in seen].count(role), role
    levels = browser.run("return [...document.querySelectorAll('h1, h2')].map(h => h.tagName)")
    assert levels[0] == "H1"
    assert levels.count("H1") == 1


def test_ready_and_alive(postgres: EmbeddedServer, start: Callable[..., RunningProxy]) -> None:
    up = start(f"{postgres.host}:{postgres.port}")
    down = start("127.0.0.1:1")

    def ask(proxy: RunningProxy, path: str) -> tuple[int, str]:
        try:
            with urlopen(f"http://{HOST}:{proxy.metrics_port}/{path}", timeout=60) as answer:
                return answer.status, answer.read().decode()
        except OSError as problem:
            with problem:  # type: ignore[attr-defined]
                return problem.code, problem.read().decode()  # type: ignore[attr-defined]

    assert (ask(up, "healthz"), ask(up, "readyz")) == ((200, "ok\n"), (200, "ok\n"))
    assert ask(down, "healthz") == (200, "ok\n")
    assert ask(down, "readyz") == (503, "127.0.0.1:1: Connection refused\n")
    said = json.loads(ask(down, "status.json")[1])
    assert [(server["healthy"], server["problem"]) for server in said["servers"]] == [
        (False, "127.0.0.1:1: Connection refused")
    ]
