"""Every panel's query and every alert's expression, asked of a real Prometheus that reads a real proxy under load."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isnan
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import psycopg
import yaml

from tests.integration.metrics import scrape
from tests.integration.waiting import wait_for
from tests.operators.browser import need
from tests.operators.load import load, prepare
from tests.operators.test_etc import DASHBOARDS, ETC
from tests.proxies import HOST, RunningProxy
from tqdbproxy.embedded import EmbeddedServer, reserved_ports

SETTINGS = """
[write_batch]
mode = adaptive
write_threshold = 200
metrics_interval = 0.2
max_delay_ms = 15
max_pending = 10
[cache]
max_bytes = 65536
max_entry_bytes = 16384
verify_fraction = 0.2
purge_listen = user=postgres dbname=postgres
"""
"""All that can be counted is counted: the window moves, and now and then there is no room for a write or an answer."""

COMPARISON = re.compile(r"\s*(==|<|>)\s*[\d.]+\s*(?=$|\sand\s|\sor\s|\sunless\s)")
"""In an alert's expression: without it, the expression returns what is compared."""


class Prometheus:
    """One that runs."""

    def __init__(self, port: int) -> None:
        self._url = f"http://{HOST}:{port}"

    def ask(self, path: str, **query: str) -> Any:
        """The data of an answer of its API."""
        with urlopen(f"{self._url}/api/v1/{path}?{urlencode(query)}", timeout=60) as answer:
            return json.load(answer)["data"]

    def values(self, expression: str) -> list[float]:
        """The numbers that an expression has now."""
        result = self.ask("query", query=expression)["result"]
        numbers = (float(sample["value"][1]) for sample in result)
        return [number for number in numbers if not isnan(number)]

    def ready(self) -> bool:
        """Whether it answers."""
        try:
            with urlopen(f"{self._url}/-/ready", timeout=60):
                return True
        except OSError:
            return False


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """A Prometheus with the configuration in etc/, which reads ``target`` each second."""
    settings = yaml.safe_load((ETC / "prometheus" / "prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    settings["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    settings["rule_files"] = [str(ETC / "prometheus" / name) for name in settings["rule_files"]]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with reserved_ports(1) as (port,), (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address={HOST}:{port}", "--log.level=warn"], stdout=log, stderr=log
        )
        with process:
            try:
                running = Prometheus(port)
                wait_for(running.ready)
                yield running
            finally:
                process.terminate()


def queries() -> dict[str, str]:
    """Every panel's queries, with Grafana's variables filled in, and without the zero that stands for no data."""
    found: dict[str, str] = {}
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                expression = target["expr"].replace("$__rate_interval", "10s").replace("$instance", ".*")
                expression = expression.replace(" or vector(0)", "")
                found[f"{path.stem}: {panel['title']} {target['refId']}"] = expression
    return found


def alerts() -> dict[str, str]:
    """Every alert's expression, without what its values are compared with."""
    groups = yaml.safe_load((ETC / "prometheus" / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: COMPARISON.sub("", _begin(rule["expr"])) for group in groups for rule in group["rules"]}


def _begin(expression: str) -> str:
    """What stands before ``unless``, if that is all of an expression."""
    begin = expression.partition(" unless ")[0]
    return begin if begin.count("(") == begin.count(")") else expression


def misread(proxy: RunningProxy, postgres: EmbeddedServer, database: str) -> None:
    """Hints that can't be read, and writes that fail in a batch."""
    texts = ["/* batch:soon */ SELECT 1", *["/* batch:15 key:audit */ INSERT INTO pages VALUES (1, 0)"] * 5]
    said = [part for text in texts for part in ("-c", text)]
    command = [postgres.tool("psql"), proxy.dsn(database), "-Xq", *said]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60, check=False)


def change_behind_its_back(postgres: EmbeddedServer, database: str) -> None:
    """A write past the proxy, so that kept answers are wrong."""
    with psycopg.connect(postgres.dsn(database), autocommit=True) as connection:
        connection.execute("UPDATE menu SET price = price + 1")


def test_every_panel_and_every_alert_has_data(
    postgres: EmbeddedServer, start: Callable[..., RunningProxy], database: str, tmp_path: Path
) -> None:
    need("prometheus")
    proxy = start(f"{postgres.host}:{postgres.port}", SETTINGS)
    prepare(postgres, database)
    expressions = {**queries(), **alerts()}
    assert len(expressions) > 60
    with (
        prometheus(tmp_path, f"{HOST}:{proxy.metrics_port}") as server,
        load(postgres, proxy, database, tmp_path, seconds=600),
    ):

        def without_data() -> set[str]:
            misread(proxy, postgres, database)
            change_behind_its_back(postgres, database)
            return {name for name, expression in expressions.items() if not server.values(expression)}

        try:
            wait_for(lambda: not without_data(), 100)
        except AssertionError:
            missing = {name: expressions[name] for name in without_data()}
            raise AssertionError(f"no data: {json.dumps(missing, indent=1)}") from None
        # What Prometheus has is what the proxy says.
        assert server.values("sum(tqdbproxy_write_batched_total)")[0] <= scrape(proxy).total("write_batched_total")
        rules = server.ask("rules")["groups"][0]["rules"]
        assert {rule["name"] for rule in rules} == set(alerts())
        assert {rule["health"] for rule in rules} == {"ok"}


def test_the_proxys_end_is_noticed(
    postgres: EmbeddedServer, start: Callable[..., RunningProxy], tmp_path: Path
) -> None:
    need("prometheus")
    proxy = start(f"{postgres.host}:{postgres.port}")
    with prometheus(tmp_path, f"{HOST}:{proxy.metrics_port}") as server:
        wait_for(lambda: server.values("up == 1"))
        proxy.stop()
        wait_for(lambda: server.values("up == 0"))

        def states() -> dict[str, str]:
            return {rule["name"]: rule["state"] for rule in server.ask("rules")["groups"][0]["rules"]}

        wait_for(lambda: states()["TqdbproxyDown"] == "pending")  # it fires after a minute, as promtool shows
