"""twistd's side of the proxy: its options, and the service made from them.

The law of this module: importing it starts nothing and imports no reactor, because makeService chooses the reactor.
What keeps the proxy from starting is said in one line on stderr, with exit status 1 and no traceback.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import ClassVar

from twisted.application.service import IService
from twisted.python import usage

from tqdbproxy import config, logs, transport
from tqdbproxy.errors import ProxyError


class Options(usage.Options):
    """What may stand behind ``twistd tqdbproxy``."""

    synopsis = "[--config FILE]"
    optParameters: ClassVar[list[list[object]]] = [
        ["config", "c", None, "INI file. Without it: 127.0.0.1:5433 in front of PGHOST and PGPORT."],
    ]

    def opt_version(self) -> None:
        """Display tqdbproxy's version and exit."""
        print(f"tqdbproxy {version('tqdbproxy')}")
        raise SystemExit


def makeService(options: Options) -> IService:
    """The proxy as a Twisted service, for ``twistd``."""
    path = options["config"]
    try:
        settings = config.load(path, os.environ)
        transport.install_reactor()
        from tqdbproxy import service  # noqa: PLC0415 (it imports the reactor, which has just been installed)

        # Absolute, for reloading: as a daemon, twistd changes to another folder.
        made = service.make_service(settings, path and os.path.abspath(path))
        if settings.log.format == "json":
            made.log_to(logs.json_log(options.parent or {"nodaemon": True}, sys.stdout))
        return made
    except ProxyError as error:
        raise SystemExit(f"tqdbproxy: {error}") from None
