"""A headless Chromium, driven through chromedriver's own protocol (W3C WebDriver: JSON over HTTP)."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from tests.integration.waiting import wait_for
from tests.proxies import HOST
from tqdbproxy.embedded import reserved_ports

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
)
TIMEOUT_S = 60


def need(*programs: str) -> None:
    """Skip the test where one of these is missing; in CI that is a failure (.ci/run installs them)."""
    missing = [name for name in programs if shutil.which(name) is None]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"{', '.join(missing)} not installed")
    assert not missing, f"{', '.join(missing)} not installed"


class Browser:
    """One window."""

    def __init__(self, driver: str, options: dict[str, Any]) -> None:
        self._driver = driver
        answer = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": options}})
        self._session = f"/session/{answer['sessionId']}"

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        request = Request(self._driver + path, data, {"Content-Type": "application/json"}, method=method)
        with urlopen(request, timeout=TIMEOUT_S) as answer:
            return json.load(answer)["value"]

    def open(self, url: str) -> None:
        """Load a page."""
        self._ask("POST", f"{self._session}/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """The result of a function's body in JavaScript."""
        return self._ask("POST", f"{self._session}/execute/sync", {"script": script, "args": arguments})

    def text(self, selector: str) -> str:
        """What a person reads in the first element that fits."""
        return str(self.run("return document.querySelector(arguments[0]).innerText", selector))

    def shows(self, selector: str) -> bool:
        """Whether the first element that fits can be seen."""
        return bool(self.run("return document.querySelector(arguments[0]).checkVisibility()", selector))

    def resize(self, width: int, height: int) -> None:
        """Make it a phone, or a desk."""
        # The window may not be narrower than Chromium's own frame; the emulated device may.
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.command("Emulation.setDeviceMetricsOverride", **metrics)

    def command(self, name: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        body = {"cmd": name, "params": parameters}
        return self._ask("POST", f"{self._session}/goog/cdp/execute", body)

    def log(self) -> list[dict[str, Any]]:
        """What the browser complains of: errors of scripts, of the policy, of what can't be loaded."""
        entries: list[dict[str, Any]] = self._ask("POST", f"{self._session}/se/log", {"type": "browser"})
        return entries

    def picture(self) -> bytes:
        """The window as PNG."""
        return base64.b64decode(self._ask("GET", f"{self._session}/screenshot"))

    def close(self) -> None:
        """End it."""
        self._ask("DELETE", self._session)


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser that keeps everything in ``folder``."""
    args = [*FLAGS, f"--user-data-dir={folder / 'profile'}"]
    options = {"goog:chromeOptions": {"args": args}, "goog:loggingPrefs": {"browser": "ALL"}}
    environ = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    nothing = subprocess.DEVNULL
    with (
        reserved_ports(1) as (port,),
        subprocess.Popen(["chromedriver", f"--port={port}"], env=environ, stdout=nothing, stderr=nothing) as process,
    ):
        driver = f"http://{HOST}:{port}"
        try:
            wait_for(lambda: _answers(f"{driver}/status"))
            browser = Browser(driver, options)
            try:
                yield browser
            finally:
                browser.close()
        finally:
            process.terminate()


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=60):
            return True
    except URLError:
        return False
