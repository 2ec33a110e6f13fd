"""Fifty clients write and read two hundred registers: nobody is told of a version older than one that was known.

``TQDBPROXY_TEST_OPERATIONS`` makes it shorter or longer, ``TQDBPROXY_TEST_SEED`` another one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.caching.history import WAYS, tables
from tests.integration.caching.places import Place
from tests.integration.metrics import Growth

OPERATIONS = int(os.environ.get("TQDBPROXY_TEST_OPERATIONS", "1000000"))
SEED = os.environ.get("TQDBPROXY_TEST_SEED", "1")
CLIENTS = 50
ROOT = Path(__file__).parents[3]


@pytest.mark.timeout(1800)
def test_nobody_reads_what_was_known_to_be_old(place: Place) -> None:
    place.do(tables())
    grown = Growth(place.proxy)
    command = [
        sys.executable,
        "-m",
        "tests.integration.caching.history",
        str(place.proxy.port),
        place.database,
        place.schema,
    ]
    done = subprocess.run(
        [*command, str(OPERATIONS), str(CLIENTS), SEED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1790,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    print(f"{OPERATIONS} operations in {result['seconds']:.1f} s")
    assert result["faults"] == []
    assert result["left"] == 0
    writes = result["writes"]
    assert set(writes) == set(WAYS)
    assert sum(result["known"]) == sum(writes.values()), "each write is one version"
    hits, misses = grown("cache_hits_total"), grown("cache_misses_total")
    assert hits + misses == OPERATIONS - sum(writes.values())
    assert hits > OPERATIONS * 0.6
    assert misses > 1000
    assert grown("write_batched_total") > 1000
