"""The command ``tqdbproxy``: demo, check-config, bench.

The law of this module: it knows names and arguments. A command's module is imported only when the command is asked for,
since demo and bench need packages that the proxy itself does not.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

from tqdbproxy import config
from tqdbproxy.errors import ProxyError

#: Command -> module with ``add_arguments(parser)`` and ``run(args) -> int``, extra with what it needs, what it does.
COMMANDS = {
    "demo": ("tqdbproxy.demo", "embedded", "show on an embedded PostgreSQL what batching does, then serve"),
    "bench": ("tqdbproxy.bench", "bench", "measure what batching does for writes to a server of yours"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        args = _parser(given[:1]).parse_args(given)
        status: int = args.run(args)
        return status
    except ProxyError as error:
        print(f"tqdbproxy: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser(wanted: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tqdbproxy", description="The daemon itself: twistd -n tqdbproxy --config FILE"
    )
    parser.add_argument("--version", action="version", version=f"tqdbproxy {version('tqdbproxy')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    check = commands.add_parser("check-config", help="say whether a configuration can be used")
    check.add_argument("file", metavar="FILE")
    check.set_defaults(run=check_config)
    for name, (module, extra, explanation) in COMMANDS.items():
        command = commands.add_parser(name, help=explanation, description=explanation)
        if name in wanted:
            _complete(command, module, extra)
    return parser


def _complete(command: argparse.ArgumentParser, name: str, extra: str) -> None:
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        raise ProxyError(
            f"there is no module {error.name} here: pip install '.[{extra}]' in the sources' folder"
        ) from error
    module.add_arguments(command)
    command.set_defaults(run=module.run)


def check_config(args: argparse.Namespace) -> int:
    """Read the file as the daemon would, environment included."""
    config.load(args.file, os.environ)
    print(f"{args.file}: ok")
    return 0
