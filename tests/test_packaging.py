"""The package: what is in the wheel, and that twistd finds the plugin."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

from tests.proxies import TWISTD

ROOT = Path(__file__).parent.parent
METADATA = ("setup.cfg", "pyproject.toml", "README.rst", "LICENSE")


def test_the_wheel_holds_the_tree(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for folder in ("tqdbproxy", "twisted", "tests", "etc"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
    for name in METADATA:
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    packed = zipfile.ZipFile(wheel).namelist()
    names = {name for name in packed if ".dist-info/" not in name and ".data/" not in name}
    tree = {str(path.relative_to(source)) for path in (source / "tqdbproxy").rglob("*") if path.is_file()}
    assert names == tree | {"twisted/plugins/tqdbproxy_plugin.py"}
    data = {name.partition(".data/")[2] for name in packed if ".data/" in name}
    etc = {str(path.relative_to(source / "etc")) for path in (source / "etc").rglob("*") if path.is_file()}
    # The compose file builds an image from the checkout.
    assert data == {f"data/share/tqdbproxy/{name}" for name in etc - {"docker-compose.yml"}}


def test_nothing_hides_the_plugin() -> None:
    assert not list((ROOT / "twisted").rglob("__init__.py"))
    listed = subprocess.run([TWISTD, "--help"], capture_output=True, text=True, check=True, cwd="/").stdout
    assert "A PostgreSQL proxy that batches writes." in listed


def test_importing_what_twistd_imports_chooses_no_reactor() -> None:
    check = "import sys, tqdbproxy.tap, tqdbproxy.cli; sys.exit('twisted.internet.reactor' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_every_dependency_has_its_reason() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lists = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    names = {line.split()[0].partition("[")[0] for text in lists for line in text.splitlines() if line.strip()}
    reasons = (ROOT / "docs" / "dependencies.rst").read_text()
    assert {name for name in names - {"tqdbproxy"} if name not in reasons} == set()
