"""Our loggers, how much they say, and the log as JSON lines.

They write to Twisted's global log, where ``twistd --logfile``, ``--syslog`` or ``--logger`` decide what becomes of it.
The law of this module: one line per event that an operator must know, none per statement; the level is the only state,
and like the log it belongs to the process.

How ``[log] format`` and twistd's own observer get along: twistd begins the log with exactly one observer, and takes
the application's `ILogObserver` instead of making one of its own if there is one. So in text mode we give it none, and
all of its options work as ever. In JSON mode `JsonLog` is that component: it takes the place of twistd's observer and
doesn't stand beside it, so no line comes twice, and twistd's own lines and whatever is printed are JSON too. It writes
where twistd would have written (``--logfile``, twistd.log of a daemon, else stdout). syslog has a format of its own, so
``--syslog`` is refused in JSON mode; a ``--logger`` wins over the component, as twistd has it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Protocol, TextIO

from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
    globalLogPublisher,
)
from twisted.python.logfile import LogFile
from zope.interface import implementer

from tqdbproxy.errors import ConfigError

DAEMONS_LOG = "twistd.log"
"""Where twistd logs as a daemon if nobody says otherwise."""

OURS = ("time", "level", "namespace", "message")
"""What every line has; an event's own keys of these names don't replace it."""

LEGACY = frozenset({*OURS, "isError", "system", "format", "why", "failure", "logLevel", "printed"})
"""Keys with which ``twisted.python.log`` says the same once more."""

_level = LogLevelFilterPredicate(defaultLogLevel=LogLevel.info)
_observer = FilteringLogObserver(globalLogPublisher, [_level])


def logger(namespace: str) -> Logger:
    """A logger for the module ``namespace``."""
    return Logger(namespace, observer=_observer)


def printable(text: str) -> str:
    """A text from outside as it may stand in a line: what could end it, or move a terminal's cursor, is escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def set_level(name: str) -> None:
    """Leave out what is less urgent than ``name``, one of twisted.logger's levels."""
    _level.clearLogLevels()
    _level.defaultLogLevel = LogLevel.levelWithName(name)


class Stream(Protocol):
    """Where lines go: a file, or Twisted's `LogFile`, which also turns pages."""

    def write(self, data: str) -> object:
        """Append."""

    def flush(self) -> None:
        """Hand it to the system."""

    def close(self) -> None:
        """Close it."""


@implementer(ILogObserver)
class JsonLog:
    """Writes each event as one line of JSON; ``rotate`` begins a new file, None where there is none."""

    def __init__(self, stream: Stream, rotate: Callable[[], None] | None = None) -> None:
        self._stream = stream
        self.rotate = rotate

    def __call__(self, event: LogEvent) -> None:
        """See `ILogObserver`."""
        self._stream.write(json_line(event))
        self._stream.flush()

    def close(self) -> None:
        """Say no more."""
        self._stream.close()


def json_log(options: Mapping[str, Any], stdout: TextIO) -> JsonLog:
    """The log of a twistd with these ``options``, in JSON. Raises `ConfigError` where they don't go together."""
    if options.get("syslog"):
        raise ConfigError("[log] format = json can't be written to syslog: leave out --syslog or log as text")
    name = options.get("logfile")
    if name == "-" and not options.get("nodaemon"):
        raise ConfigError("a daemon can't log to stdout")
    if name == "-" or (options.get("nodaemon") and not name):
        return JsonLog(stdout)
    try:
        file = LogFile.fromFullPath(name or DAEMONS_LOG)
    except OSError as problem:
        raise ConfigError(f"can't log to {name or DAEMONS_LOG}: {problem.strerror or problem}") from None
    return JsonLog(file, file.rotate)


def json_line(event: LogEvent) -> str:
    """An event as a JSON object on one line: time (UTC, ISO 8601), level, namespace, message, then its own keys.

    A failure comes with its ``traceback``.
    """
    level = event.get("log_level")
    said: dict[str, Any] = {
        "time": datetime.fromtimestamp(event.get("log_time", 0.0), UTC).isoformat(timespec="microseconds"),
        "level": level.name if level is not None else "info",
        "namespace": event.get("log_namespace") or "-",
        "message": formatEvent(event),
    }
    for key, value in event.items():
        if not key.startswith("log_") and key not in LEGACY:
            plain = isinstance(value, str | int | None) or (isinstance(value, float) and isfinite(value))
            said[key] = value if plain else str(value)
    failure = event.get("log_failure")
    if failure is not None:
        said["traceback"] = failure.getTraceback()
    return json.dumps(said) + "\n"
