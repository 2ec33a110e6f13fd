"""A suite's sources, from Debian's archive and the Python package index.

Uses the registries as this machine has them configured, through their ordinary clients, and writes only into the
work directory: Debian's source lists are derived there from the machine's lists of binary packages.
"""

import re
import subprocess
import sys
import tarfile
from pathlib import Path

from external_suites.places import Places, Unable, check

APT_LISTS = Path("/etc/apt")


def apt_source(places: Places, package: str) -> Path:
    """The unpacked source package from which the installed binary package of that name was built."""
    root = places.folder("sources", package)
    done = sorted(path for path in root.iterdir() if (path / "debian").is_dir())
    if done:
        return done[0]
    version = _output(["dpkg-query", "-W", "-f=${source:Version}", package])
    source = _output(["dpkg-query", "-W", "-f=${source:Package}", package])
    options = _apt_options(places)
    log = places.work / "fetch.log"
    check(["apt-get", *options, "update"], log)
    check(["apt-get", *options, "source", f"{source}={version}"], log, cwd=root)
    return next(path for path in root.iterdir() if (path / "debian").is_dir())


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unable(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


def _apt_options(places: Places) -> list[str]:
    parts, lists, cache = (places.folder("apt", name) for name in ("parts", "lists", "cache"))
    for path in [APT_LISTS / "sources.list", *sorted((APT_LISTS / "sources.list.d").glob("*"))]:
        if path.suffix == ".sources":
            (parts / path.name).write_text(re.sub(r"(?m)^Types:.*$", "Types: deb-src", path.read_text()))
        elif path.suffix == ".list" and path.is_file():
            (parts / path.name).write_text(re.sub(r"(?m)^deb\s", "deb-src ", path.read_text()))
    settings = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": parts,
        "Dir::State::lists": lists,
        "Dir::Cache": cache,
        # root's apt would hand the download to an account that can't write here
        "APT::Sandbox::User": "root",
    }
    return [f"-o{name}={value}" for name, value in settings.items()]


def sdist(places: Places, name: str, version: str) -> Path:
    """The unpacked source distribution of a Python package."""
    root = places.folder("sources", f"{name}-{version}")
    unpacked = root / f"{name}-{version}"
    if unpacked.is_dir():
        return unpacked
    requirement = f"{name}=={version}"
    download = ["download", "--no-deps", "--no-binary", name, "-d", str(root), requirement]
    check([sys.executable, "-m", "pip", *download], places.work / "fetch.log")
    with tarfile.open(next(root.glob("*.tar.gz"))) as archive:
        archive.extractall(root, filter="data")
    return unpacked


def venv(places: Places, name: str, requirements: list[str]) -> Path:
    """A virtual environment with these packages; the answer is its directory of programs."""
    root = places.work / "venvs" / name
    ready = root / "installed"
    wanted = "\n".join(requirements)
    if not ready.is_file() or ready.read_text() != wanted:
        log = places.work / "fetch.log"
        check([sys.executable, "-m", "venv", str(root)], log)
        check(["nice", "-n10", str(root / "bin" / "pip"), "install", *requirements], log)
        ready.write_text(wanted)
    return root / "bin"
