"""PostgreSQL's own suites: regression, isolation, libpq pipeline.

The drivers and the test libraries are built from the source package of the installed server, against which they run
(``make installcheck``, said without make: the build tree belongs to another account than the server).
"""

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from external_suites.places import Places, Unable, as_server_account, check, clean_environment, supervised
from external_suites.results import FAILED, PASSED
from external_suites.server import Address
from external_suites.sources import apt_source

BUILT = ("src/test/regress", "src/test/isolation", "src/test/modules/libpq_pipeline")

# Up to PostgreSQL 15 "test boolean ... ok 215 ms", from 16 on TAP.
_CLASSIC = re.compile(r"^(?:test|    )\s+(?P<name>\S+)\s+\.\.\. (?P<verdict>ok|FAILED|failed)")
_TAP = re.compile(r"^(?P<verdict>ok|not ok) \d+\s+[-+] (?P<name>\S+)")


@dataclass(frozen=True, slots=True)
class Schedule:
    """One of the suites that ``pg_regress`` or a relative of it drives."""

    folder: str
    driver: str
    schedule: str
    options: tuple[str, ...]


REGRESS = Schedule(BUILT[0], "pg_regress", "parallel_schedule", ("--max-concurrent-tests=20",))
ISOLATION = Schedule(BUILT[1], "pg_isolation_regress", "isolation_schedule", ())


def build(places: Places) -> Path:
    """The source tree with the drivers built; done once per work directory."""
    tree = apt_source(places, f"postgresql-{places.bindir.parts[-2]}")
    if (tree / "built").exists():
        return tree
    log = places.work / "build.log"
    nice = ["nice", "-n10"]
    # Only the drivers are linked with these libraries, the server is the installed one.
    configure = ["./configure", "--without-readline", "--without-zlib", "--prefix=/usr", f"--bindir={places.bindir}"]
    check([*nice, *configure], log, cwd=tree)
    for folder in BUILT:
        check([*nice, "make", "-C", folder, "all"], log, cwd=tree)
    (tree / "built").touch()
    return tree


def run_schedule(suite: Schedule, places: Places, address: Address, only: Sequence[str]) -> dict[str, str]:
    """Run the suite, or only some of its tests, and say how each test ended."""
    tree = build(places)
    folder = tree / suite.folder
    output = places.server_folder("output", suite.driver)
    command = [
        str(folder / suite.driver),
        f"--inputdir={folder}",
        f"--outputdir={output}",
        f"--bindir={places.bindir}",
        f"--dlpath={tree / BUILT[0]}",
        f"--host={address.host}",
        f"--port={address.port}",
        "--user=postgres",
        "--no-locale",
        "--encoding=UTF8",
        *suite.options,
        *(only or [f"--schedule={folder / suite.schedule}"]),
    ]
    path = f"{folder}:{os.environ.get('PATH', '')}"
    log = places.work / f"{suite.driver}.log"
    supervised(as_server_account(command), log, output, clean_environment({"PATH": path}))
    said = log.read_text(errors="replace")
    outcomes = parse(said)
    if not outcomes:
        raise Unable(f"{suite.driver} ran no test:\n{said[-2000:]}")
    return outcomes


def parse(said: str) -> dict[str, str]:
    """The outcomes in the output of ``pg_regress``; a failure that the schedule calls ignorable is a failure too."""
    found = (_CLASSIC.match(line) or _TAP.match(line) for line in said.splitlines())
    return {match["name"]: PASSED if match["verdict"] == "ok" else FAILED for match in found if match}


def run_pipeline(places: Places, address: Address, only: Sequence[str]) -> dict[str, str]:
    """Run the tests of libpq's pipeline mode, among them those that compare every message on the wire."""
    folder = build(places) / BUILT[2]
    program = str(folder / "libpq_pipeline")
    listed = subprocess.run([program, "tests"], capture_output=True, text=True, check=True).stdout.split()
    output = places.folder("output", "libpq_pipeline")
    where = f"host={address.host} port={address.port} user=postgres dbname=postgres"
    return {name: _pipeline_test(program, name, where, folder, output) for name in only or listed}


def _pipeline_test(program: str, name: str, where: str, folder: Path, output: Path) -> str:
    expected, seen = folder / "traces" / f"{name}.trace", output / f"{name}.trace"
    tracing = ["-t", str(seen)] if expected.exists() else []
    command = [program, "-r", "700", *tracing, name, where]
    try:
        done = subprocess.run(command, capture_output=True, env=clean_environment(), timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return FAILED
    (output / f"{name}.log").write_bytes(done.stdout + done.stderr)
    same = not tracing or seen.read_bytes() == expected.read_bytes()
    return PASSED if done.returncode == 0 and same else FAILED
