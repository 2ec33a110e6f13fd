"""The console's language: text -> command, command -> rows.

The law of this module: no I/O and no knowledge of the proxy; what a command shows or does is a callable that it was
given. Every command's columns are known before it is run, since drivers ask for them first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from tqdbproxy.errors import UnknownCommand

Row = tuple[str, ...]

COMMENT = re.compile(r"/\*.*?\*/|--[^\n]*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Table:
    """What a SHOW shows."""

    columns: tuple[str, ...]
    rows: Callable[[], Iterable[Row]]
    about: str


@dataclass(frozen=True, slots=True)
class Action:
    """What a command does. ``run`` raises a `ProxyError` if it can't."""

    run: Callable[[], None]
    about: str


@dataclass(frozen=True, slots=True)
class Command:
    """One command. ``columns`` None: it shows nothing. ``tag``: for CommandComplete."""

    tag: str
    columns: tuple[str, ...] | None
    run: Callable[[], Iterable[Row]]


class Commands:
    """All commands: ``tables`` by the word after SHOW, ``actions`` by their word, both in upper case.

    The cache lane will bring the table CACHE and the action PURGE, which takes an argument.
    """

    def __init__(self, tables: Mapping[str, Table], actions: Mapping[str, Action]) -> None:
        self._tables = {**tables, "HELP": Table(("command", "what it does"), self._help, "this list")}
        self._actions = actions

    def read(self, text: str) -> list[Command]:
        """The commands in ``text``, separated by semicolons. Raises `UnknownCommand`."""
        pieces = (" ".join(piece.split()) for piece in COMMENT.sub(" ", text).split(";"))
        return [self._command(piece) for piece in pieces if piece]

    def _command(self, text: str) -> Command:
        word, _, rest = text.upper().partition(" ")
        if word == "SHOW" and rest in self._tables:
            table = self._tables[rest]
            return Command("SHOW", table.columns, table.rows)
        if word in self._actions and not rest:
            action = self._actions[word]
            return Command(word, None, lambda: _nothing(action))
        raise UnknownCommand(f'unknown command "{text[:100]}"')

    def _help(self) -> Iterable[Row]:
        yield from ((f"SHOW {word}", table.about) for word, table in self._tables.items())
        yield from ((word, action.about) for word, action in self._actions.items())


def _nothing(action: Action) -> Iterable[Row]:
    action.run()
    return ()
