"""The console's language: text -> command, command -> rows and a tag.

The law of this module: no I/O and no knowledge of the proxy; what a command shows or does is a callable that it was
given. Every command's columns are known before it is run, since drivers ask for them first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from tqdbproxy.errors import UnknownCommand

Row = tuple[str, ...]

PIECES = re.compile(
    r"""
    (?P<blank> \s+ | /\*.*?\*/ | --[^\n]* )
  | (?P<end> ; )
  | (?P<comma> , )
  | '(?P<quoted> (?: [^'] | '' )* )'
  | (?P<word> (?: (?! /\* | -- ) [^\s;,'] )+ )
  | (?P<wrong> . )
    """,
    re.DOTALL | re.VERBOSE,
)
"""What is ``wrong`` is the begin of a quote or of a comment that has no end."""


@dataclass(frozen=True, slots=True)
class Table:
    """What a SHOW shows."""

    columns: tuple[str, ...]
    rows: Callable[[], Iterable[Row]]
    about: str


@dataclass(frozen=True, slots=True)
class Action:
    """What a command does. ``run`` raises a `ProxyError` if it can't; it may return what else is to be told."""

    run: Callable[[], Sequence[str] | None]
    about: str


@dataclass(frozen=True, slots=True)
class ListAction:
    """What a command does with a list of ``what``s. ``run`` returns with how many things it has done it."""

    run: Callable[[tuple[str, ...]], int]
    what: str
    about: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command has come to. ``tag``: for CommandComplete."""

    tag: str
    rows: Iterable[Row] = ()
    notices: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Command:
    """One command. ``columns`` None: it shows nothing."""

    columns: tuple[str, ...] | None
    run: Callable[[], Outcome]


@dataclass(frozen=True, slots=True)
class Piece:
    """A word, or a comma between words. Only a ``plain`` one may be a word of the language."""

    text: str
    plain: bool


class Commands:
    """All commands: ``tables`` by the word after SHOW, ``actions`` by their word, both in upper case."""

    def __init__(self, tables: Mapping[str, Table], actions: Mapping[str, Action | ListAction]) -> None:
        self._tables = {**tables, "HELP": Table(("command", "what it does"), self._help, "this list")}
        self._actions = actions

    def read(self, text: str) -> list[Command]:
        """The commands in ``text``, separated by semicolons. Raises `UnknownCommand`."""
        return [self._command(pieces) for pieces in _split(text) if pieces]

    def _command(self, pieces: list[Piece]) -> Command:
        words = [piece.text.upper() if piece.plain else "" for piece in pieces]
        if words[0] == "SHOW" and len(words) == 2 and words[1] in self._tables:
            table = self._tables[words[1]]
            return Command(table.columns, lambda: Outcome("SHOW", table.rows()))
        action = self._actions.get(words[0])
        if isinstance(action, ListAction):
            return Command(None, partial(_with_list, words[0], action, _list(words[0], action.what, pieces[1:])))
        if action is not None and len(words) == 1:
            return Command(None, partial(_alone, words[0], action))
        said = " ".join(piece.text for piece in pieces)
        raise UnknownCommand(f'unknown command "{said[:100]}"')

    def _help(self) -> Iterable[Row]:
        yield from ((f"SHOW {word}", table.about) for word, table in self._tables.items())
        for word, action in self._actions.items():
            what = f" {action.what}[, ...]" if isinstance(action, ListAction) else ""
            yield f"{word}{what}", action.about


def _alone(word: str, action: Action) -> Outcome:
    return Outcome(word, notices=action.run() or ())


def _with_list(word: str, action: ListAction, items: tuple[str, ...]) -> Outcome:
    return Outcome(f"{word} {action.run(items)}")


def _split(text: str) -> Iterator[list[Piece]]:
    """What is between the semicolons."""
    pieces: list[Piece] = []
    for match in PIECES.finditer(text):
        kind, said = match.lastgroup, match[0]
        if kind == "wrong":
            raise UnknownCommand("a quote or a comment has no end")
        if kind == "quoted":
            pieces.append(Piece(said[1:-1].replace("''", "'"), plain=False))
        elif kind in ("word", "comma"):
            pieces.append(Piece(said, plain=True))
        elif kind == "end":
            yield pieces
            pieces = []
    yield pieces


def _list(word: str, what: str, pieces: list[Piece]) -> tuple[str, ...]:
    """Items between commas, each of one piece."""
    commas = [piece.plain and piece.text == "," for piece in pieces]
    if len(pieces) % 2 == 0 or commas != [bool(index % 2) for index in range(len(pieces))]:
        raise UnknownCommand(f"{word} takes a {what}, or several with commas between; 'one with blanks' in quotes")
    return tuple(piece.text for piece in pieces[::2])
