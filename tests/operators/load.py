"""A load such as a real application makes: batched writes, some of them in transactions, cached reads."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.proxies import HOST, RunningProxy
from tqdbproxy.embedded import EmbeddedServer

TABLES = """
CREATE TABLE visits (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, page int, at timestamptz DEFAULT now());
CREATE TABLE pages (page int PRIMARY KEY, seen int NOT NULL);
INSERT INTO pages SELECT n, 0 FROM generate_series(1, 1000) n;
CREATE TABLE menu (item int PRIMARY KEY, price int NOT NULL);
INSERT INTO menu SELECT n, n FROM generate_series(1, 200) n;
"""

SCRIPTS = {
    "visit": (
        8,
        "\\set page random(1, 1000)\n"
        "/* batch:10 file:shop/visits.py line:41 */ INSERT INTO visits (page) VALUES (:page);\n",
    ),
    "count": (
        2,
        "\\set page random(1, 1000)\n"
        "/* batch:20 file:shop/pages.py line:7 */ UPDATE pages SET seen = seen + 1 WHERE page = :page;\n",
    ),
    "audit": (
        2,
        "\\set page random(1, 1000)\n"
        "/* batch:15 key:audit file:shop/audit.py line:30 */ DELETE FROM visits WHERE page = :page AND id < 0;\n",
    ),
    "read": (4, "\\set page random(1, 1000)\nSELECT seen FROM pages WHERE page = :page;\n"),
    "menu": (
        5,
        "\\set item random_exponential(1, 200, 5)\n"
        "/* ttl:30 file:shop/menu.py line:3 */ SELECT price FROM menu WHERE item = :item;\n",
    ),
    # Slow, and asked for all the time: while one fetches it anew, others get the stale answer.
    "report": (
        3,
        "/* ttl:0.3 tags:report file:shop/report.py line:9 */ SELECT sum(price) FROM menu, pg_sleep(0.02);\n",
    ),
    # Of a table that is written to all the time.
    "seen": (
        2,
        "\\set page random(1, 1000)\n"
        "/* ttl:5 file:shop/pages.py line:20 */ SELECT seen FROM pages WHERE page = :page;\n",
    ),
    "transfer": (
        1,
        "\\set page random(1, 1000)\nBEGIN;\n"
        "/* batch:10 file:shop/orders.py line:112 */ UPDATE pages SET seen = seen WHERE page = :page;\nCOMMIT;\n",
    ),
}


def prepare(postgres: EmbeddedServer, database: str) -> None:
    """Make the tables."""
    with psycopg.connect(postgres.dsn(database), autocommit=True) as connection:
        connection.execute(TABLES)


@contextmanager
def load(
    postgres: EmbeddedServer, proxy: RunningProxy, database: str, folder: Path, *, seconds: int, rate: int = 1500
) -> Iterator[subprocess.Popen[str]]:
    """pgbench with twenty clients and ``rate`` transactions a second; it is stopped at the end if it still runs."""
    scripts: list[str] = []
    for name, (weight, text) in SCRIPTS.items():
        (folder / f"{name}.sql").write_text(text)
        scripts += ["-f", f"{folder / name}.sql@{weight}"]
    command = [postgres.tool("pgbench"), "-n", "-j", "1", "-c", "20", "-T", str(seconds), "-R", str(rate), *scripts]
    where = ["-h", HOST, "-p", str(proxy.port), "-U", "postgres", database]
    # Simple protocol: with -M prepared, pgbench would name a statement for each script; both are batched alike.
    with subprocess.Popen([*command, *where], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()
