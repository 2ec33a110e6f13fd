"""The suites of asyncpg and psycopg2, run by pytest in an environment of their own.

asyncpg's suite runs in two ways: against a server that is there (its tests of authentication and TLS then skip
themselves), and managed, where the tests start their own clusters and ``asyncpg_plugin`` puts the proxy before each.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from external_suites.places import EXTERNAL, SERVER_ACCOUNT, Places, Unable, clean_environment, supervised
from external_suites.results import FAILED, PASSED, SKIPPED
from external_suites.server import Address
from external_suites.sources import sdist, venv

ASYNCPG, PSYCOPG2 = "0.32.0", "2.9.13"
TOOLS = ["pytest", "pytest-timeout"]
SERVER_PROGRAMS = ("pg_config", "pg_ctl", "postgres", "initdb", "pg_basebackup", "pg_resetwal")

# Root may not run a server, so asyncpg's tests get these in the place of the programs. A test that wrote a file into
# the cluster's directory wrote it as root.
WRAPPER = """\
#!/bin/sh
before=
for word; do
  if [ "$before" = -D ] && [ -d "$word" ]; then chown -R {account}: "$word"; fi
  before=$word
done
exec setpriv --reuid={account} --regid={account} --init-groups {program} "$@"
"""


def run_asyncpg(places: Places, address: Address, only: Sequence[str]) -> dict[str, str]:
    """asyncpg's tests against a server at this address."""
    env = {"PGHOST": address.host, "PGPORT": str(address.port), "PGUSER": "postgres", "PGDATABASE": "postgres"}
    return _asyncpg(places, env, [], only)


def run_asyncpg_managed(places: Places, way: str, only: Sequence[str]) -> dict[str, str]:
    """asyncpg's tests with clusters that they start, each of them reached this way."""
    env = {
        "PGINSTALLATION": str(_server_programs(places)),
        "PYTHONPATH": str(EXTERNAL),
        "EXTERNAL_SUITES": json.dumps({"way": way, **places.names()}),
    }
    return _asyncpg(places, env, ["-p", "external_suites.asyncpg_plugin"], only)


def _asyncpg(places: Places, env: Mapping[str, str], options: list[str], only: Sequence[str]) -> dict[str, str]:
    source = sdist(places, "asyncpg", ASYNCPG)
    # Beside the tests lies the package itself, not compiled: out of the way with it.
    suite = places.folder("suites", "asyncpg")
    shutil.copytree(source / "tests", suite / "tests", dirs_exist_ok=True)
    shutil.copy(source / "pyproject.toml", suite)
    # flake8 and mypy on asyncpg's own sources say nothing about a server.
    options = [*options, "--ignore=tests/test__sourcecode.py"]
    return _pytest(places, suite, [f"asyncpg=={ASYNCPG}", "uvloop", "distro"], env, options, only)


def run_psycopg2(places: Places, address: Address, only: Sequence[str]) -> dict[str, str]:
    """psycopg2's tests against a server at this address."""
    source = sdist(places, "psycopg2", PSYCOPG2)
    suite = places.folder("suites", "psycopg2")
    shutil.copytree(source / "tests", suite / "tests", dirs_exist_ok=True)
    (suite / "pytest.ini").write_text("[pytest]\n")
    env = {
        "PSYCOPG2_TESTDB": "postgres",
        "PSYCOPG2_TESTDB_HOST": address.host,
        "PSYCOPG2_TESTDB_PORT": str(address.port),
        "PSYCOPG2_TESTDB_USER": "postgres",
        "PSYCOPG2_TEST_REPL_DSN": "",
    }
    return _pytest(places, suite, [f"psycopg2=={PSYCOPG2}"], env, [], only)


def _pytest(
    places: Places,
    suite: Path,
    packages: list[str],
    env: Mapping[str, str],
    options: Sequence[str],
    only: Sequence[str],
) -> dict[str, str]:
    programs = venv(places, suite.name, [*packages, *TOOLS])
    report = suite / "report.xml"
    report.unlink(missing_ok=True)
    command = [str(programs / "pytest"), "tests", "-p", "no:cacheprovider", "--timeout=180", f"--junitxml={report}"]
    chosen = ["-k", " or ".join(only)] if only else []
    path = f"{programs}:{os.environ.get('PATH', '')}"
    log = places.work / f"{suite.name}.log"
    status = supervised([*command, *options, *chosen], log, suite, clean_environment({"PATH": path, **env}))
    # 0: all passed, 1: some failed; anything else is a test run that didn't take place.
    if status not in (0, 1):
        raise Unable(f"pytest could not run the tests, see {log}")
    return parse(report)


def parse(report: Path) -> dict[str, str]:
    """The outcomes in a JUnit report."""
    outcomes: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        # A test whose tear-down fails after its body was skipped or passed has both entries: the worse one counts.
        kinds = {child.tag for child in case}
        outcome = FAILED if kinds & {"failure", "error"} else SKIPPED if "skipped" in kinds else PASSED
        name = f"{case.get('classname')}::{case.get('name')}"
        outcomes[name] = FAILED if outcomes.get(name) == FAILED else outcome
    return outcomes


def _server_programs(places: Places) -> Path:
    if os.geteuid() != 0:
        return places.bindir
    folder = places.folder("bin")
    for name in SERVER_PROGRAMS:
        wrapper = folder / name
        wrapper.write_text(WRAPPER.format(account=SERVER_ACCOUNT, program=places.bindir / name))
        wrapper.chmod(0o755)
    return folder
