"""Loaded by pytest into asyncpg's tests: every cluster that they start is reached the way under test.

Changes where ``asyncpg.cluster.Cluster`` says that the cluster is, and nothing else. Leaves out the tests of TLS: they
ask whether the *server* saw TLS and the client's certificate, which says nothing where TLS ends at a proxy.
"""

import json
import os
from contextlib import ExitStack
from typing import Any

import pytest
from asyncpg import cluster

from external_suites.between import in_front_of
from external_suites.places import Places
from external_suites.server import Address

SETTING = "EXTERNAL_SUITES"


def pytest_configure() -> None:
    """Wrap ``start`` and ``stop`` of a cluster."""
    setting = json.loads(os.environ[SETTING])
    way = setting.pop("way")
    places = Places.from_names(setting)
    start, stop = cluster.Cluster.start, cluster.Cluster.stop

    def start_with_front(self: Any, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        server = Address("127.0.0.1", int(self.get_connection_spec()["port"]))
        self.external_front = ExitStack()
        address = self.external_front.enter_context(in_front_of(server, way, places))
        self.override_connection_spec(host=address.host, port=str(address.port))

    def stop_with_front(self: Any, *args: Any, **kwargs: Any) -> None:
        self.external_front.close()
        self.override_connection_spec()
        stop(self, *args, **kwargs)

    cluster.Cluster.start = start_with_front
    cluster.Cluster.stop = stop_with_front


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the tests of TLS."""
    items[:] = [item for item in items if "SSL" not in item.nodeid]
