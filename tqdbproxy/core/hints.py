"""Hints: what a comment in the SQL asks the proxy for.

The law of this module: it reads the inside of a comment and knows nothing of SQL around it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote

#: A caller's name becomes a label of the metrics; longer ones are cut.
MAX_LABEL = 200

#: Where ``file`` is missing, the first of these that sqlcommenter or marginalia sent takes its place.
CALLERS = ("file", "route", "controller", "action", "framework")

# key:value, key=value, key='value'. The value stops at a blank or a comma; one blank after the separator is forgiven
# when what follows can't be the next pair ("batch: 10" is read, "file: line:3" is an empty file and a line).
_PAIR = re.compile(
    r"""(?:^|(?<=[\s,;]))(?P<key>[A-Za-z_]+)
        \s*[:=](?:[ \t]+(?=[^\s,:='][^\s,:=]*(?:[\s,]|$)))?
        (?:'(?P<quoted>(?:[^'\\]++|\\.)*+)'|(?P<bare>[^\s,]*))""",
    re.VERBOSE | re.DOTALL,
)
_NUMBER = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_SWITCH = {"off": False, "on": True, "auto": True}

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Hints:
    """What the comments of one statement ask for (see ``docs``, "Hints").

    ``None`` or empty means: not said. ``errors`` holds the known keys whose value couldn't be read.
    """

    batch_ms: float | None = None
    key: str | None = None
    merge: bool = True
    ttl_s: float | None = None
    tags: tuple[str, ...] = ()
    purge: tuple[str, ...] = ()
    file: str = ""
    line: str = ""
    errors: tuple[str, ...] = ()

    @property
    def asks(self) -> bool:
        """Whether anything is asked for; a comment that only names its caller asks for nothing."""
        return self.batch_ms is not None or self.ttl_s is not None or bool(self.purge)


def pairs(comment: str) -> tuple[Pair, ...]:
    """The pairs with a known key in the inside of one comment, in their order. Empty: it is not a hint."""
    return tuple(_pairs(comment))


def collect(found: Iterable[Pair], max_batch_ms: float) -> Hints | None:
    """The hints that all pairs of one statement's comments give; None if there are no pairs.

    The first readable value of a key counts. ``max_batch_ms`` cuts longer windows.
    """
    readable: dict[str, object] = {}
    errors: list[str] = []
    some = False
    for key, value in found:
        some = True
        try:
            readable.setdefault(key, _READERS[key](value))
        except ValueError:
            errors.append(key)
    return _hints(readable, tuple(errors), max_batch_ms) if some else None


def _hints(readable: dict[str, object], errors: tuple[str, ...], max_batch_ms: float) -> Hints:
    batch = readable.get("batch")
    ttl = readable.get("ttl")
    key = readable.get("key")
    tags = readable.get("tags", ())
    purge = readable.get("purge", ())
    assert isinstance(tags, tuple)
    assert isinstance(purge, tuple)
    return Hints(
        batch_ms=min(batch, max_batch_ms) if isinstance(batch, float) else None,
        key=key if isinstance(key, str) else None,
        merge=readable.get("merge") is not False,
        ttl_s=ttl if isinstance(ttl, float) else None,
        tags=tags,
        purge=purge,
        file=next((str(readable[name]) for name in CALLERS if readable.get(name)), ""),
        line=str(readable.get("line", "")),
        errors=errors,
    )


def _pairs(comment: str) -> Iterator[Pair]:
    for match in _PAIR.finditer(comment):
        key = match["key"].lower()
        if key in _READERS:
            quoted = match["quoted"]
            # sqlcommenter: the value is url-encoded first, then its quotes are escaped with a backslash.
            yield key, match["bare"] if quoted is None else unquote(_ESCAPED.sub(r"\1", quoted))


def _number(value: str) -> float:
    if not _NUMBER.fullmatch(value):
        raise ValueError(value)
    return min(float(value), 1e9)


def _switch(value: str) -> bool:
    if value.lower() not in _SWITCH:
        raise ValueError(value)
    return _SWITCH[value.lower()]


def _name(value: str) -> str:
    if not value:
        raise ValueError(value)
    return value


def _names(value: str) -> tuple[str, ...]:
    names = tuple(name for name in value.split("+") if name)
    if not names:
        raise ValueError(value)
    return names


def _label(value: str) -> str:
    return value[:MAX_LABEL]


_READERS: dict[str, Callable[[str], object]] = {
    "batch": _number,
    "key": _name,
    "merge": _switch,
    "ttl": _number,
    "tags": _names,
    "purge": _names,
    "line": _label,
    **dict.fromkeys(CALLERS, _label),
}
