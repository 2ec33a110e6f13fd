"""Our loggers, and how much they say.

They write to Twisted's global log, where ``twistd --logfile``, ``--syslog`` or ``--logger`` decide what becomes of it.
The law of this module: one line per event that an operator must know, none per statement; the level is the only state,
and like the log it belongs to the process.
"""

from __future__ import annotations

from twisted.logger import FilteringLogObserver, Logger, LogLevel, LogLevelFilterPredicate, globalLogPublisher

_level = LogLevelFilterPredicate(defaultLogLevel=LogLevel.info)
_observer = FilteringLogObserver(globalLogPublisher, [_level])


def logger(namespace: str) -> Logger:
    """A logger for the module ``namespace``."""
    return Logger(namespace, observer=_observer)


def set_level(name: str) -> None:
    """Leave out what is less urgent than ``name``, one of twisted.logger's levels."""
    _level.clearLogLevels()
    _level.defaultLogLevel = LogLevel.levelWithName(name)
