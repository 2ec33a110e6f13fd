"""What etc/ holds for Grafana, Prometheus and Docker: well-formed, complete, and of one piece."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.operators.browser import need
from tqdbproxy.config import keys, load

ETC = Path(__file__).parent.parent.parent / "etc"
DASHBOARDS = sorted((ETC / "grafana" / "dashboards").glob("*.json"))


def read(path: str) -> Any:
    return yaml.safe_load((ETC / path).read_text())


def promtool(*arguments: str) -> str:
    """What promtool says; it must be content."""
    need("promtool")
    said = subprocess.run(["promtool", *arguments], cwd=ETC / "prometheus", capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout


def test_prometheus_takes_its_configuration() -> None:
    assert "SUCCESS" in promtool("check", "config", "--syntax-only", "prometheus.yml")
    promtool("check", "rules", "alerts.yml")


def test_every_alert_fires_when_it_must() -> None:
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")
    alerts = {rule["alert"] for group in read("prometheus/alerts.yml")["groups"] for rule in group["rules"]}
    cases = [case for test in read("prometheus/alerts_test.yml")["tests"] for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == alerts


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard(path: Path) -> None:
    board = json.loads(path.read_text())
    assert board["uid"].startswith("tqdbproxy-")
    assert board["title"].startswith("tqdbproxy: ")
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["title"]
        assert panel["description"]
        assert panel["targets"]
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        area = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not area & places, f"{panel['title']} covers another panel"
        places |= area
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
    variables = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(panels))) - {"__rate_interval"}
    assert used == variables


def test_the_compose_file_is_of_one_piece() -> None:
    services = read("docker-compose.yml")["services"]
    assert set(services) == {"postgres", "tqdbproxy", "prometheus", "grafana"}
    for service in services.values():
        assert ("image" in service) != ("build" in service)
        assert set(service.get("depends_on", ())) <= set(services)
        for volume in service.get("volumes", ()):
            assert (ETC / volume.split(":")[0]).exists(), volume
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:")
    proxy = services["tqdbproxy"]["environment"]
    known = {f"TQDBPROXY_{key.section}_{key.name}".upper() for key in keys()}
    assert {name for name in proxy if name.startswith("TQDBPROXY_")} <= known
    settings = load(None, proxy)
    assert str(settings.groups["main"].primary[0]) == "postgres:5432"
    (job,) = read("prometheus/prometheus.yml")["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"tqdbproxy:{settings.metrics.listen[0].port}"]}]  # type: ignore[union-attr]


def test_grafana_finds_what_it_needs() -> None:
    (source,) = read("grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = read("grafana/provisioning/dashboards/tqdbproxy.yml")["providers"]
    volumes = read("docker-compose.yml")["services"]["grafana"]["volumes"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in volumes
